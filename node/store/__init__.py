"""A node's memory: one SQLite file, one owner, one worker thread.

What money hangs on (vouchers, accepted tickets, receipts, claims) is on the disk when the call returns; the
rest may lose its last moments in a power cut, never in a crash of the process, and comes back from peers.
"""

from node.store.batches import Outcome
from node.store.claims import Claim
from node.store.delivery import Delivery
from node.store.evidence import Fate, FateWord, StoredEvidence
from node.store.journal import JournalEvent
from node.store.store import Store, open_store

__all__ = [
    "Claim",
    "Delivery",
    "Fate",
    "FateWord",
    "JournalEvent",
    "Outcome",
    "Store",
    "StoredEvidence",
    "open_store",
]
