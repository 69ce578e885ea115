"""Snapshots: what following every batch since genesis leads to, so that a start need not follow them all again.

A snapshot is believed where three things hold. Its seal: the node's own key has made it, for this genesis. Its line of
committees: each has handed over to the next with more than 2/3 of its stake, or a stored batch tells of a rescue. Its
ledger: the state root is that of a stored header which the last of these committees has certified, and the hash of that
header is the parent of what comes next, which the state root leaves out. What no header commits to (days that the
ledger has forgotten, points of earlier beacons) stands on the seal alone.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import msgspec

from consensus.errors import CertificateInvalid, HandOverInvalid
from consensus.market.batch import body_root
from consensus.market.beacons import Beacons, BeaconStep
from consensus.market.history import DayRecord
from consensus.market.ledger_state import MAX_LEDGER_BYTES, Ledger, decode_ledger, encode_ledger, state_root
from consensus.membership import Term, verify_hand_over
from consensus.params import Terms
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import Key
from contracts.typed_data import Domain
from gossip.errors import MessageError
from gossip.messages.base import decode, encode
from gossip.messages.committee import CertifiedBatch, HandOverCertificate, Rescue, batch_hash
from node.errors import SnapshotInvalid

MAX_SNAPSHOT_BYTES = 900_000_000
"""SQLite holds values of up to 10^9 bytes."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What a node knows once it has followed the batches up to ``ledger.height``."""

    ledger: Ledger
    days: Mapping[int, DayRecord]
    beacons: Beacons
    epochs: Mapping[int, Term]
    """Every committee since genesis, by epoch."""
    hand_overs: Mapping[int, HandOverCertificate]
    """By the epoch that ended."""
    rescues: Mapping[int, int]
    """Epoch of a rescued committee to the height of the batch that told of it."""


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """On disk."""

    ledger: bytes
    days: Mapping[int, DayRecord]
    beacons: tuple[BeaconStep, ...]
    terms: tuple[Term, ...]
    hand_overs: tuple[HandOverCertificate, ...]
    rescues: Mapping[int, int]


class Seal:
    """Marks a node's own snapshots with a secret that follows from its key, and from the genesis that they are of."""

    def __init__(self, key: Key, terms: Terms, genesis: Ledger) -> None:
        said = encode(terms.params), terms.domain.separator(), terms.genesis_ms.to_bytes(8, "big"), state_root(genesis)
        self._secret = sha256(b"yellowstone snapshot" + key.reveal() + b"".join(said)).digest()

    def mark(self, height: int, data: bytes) -> bytes:
        """32 bytes that nobody else can make for ``data``."""
        made = hmac.new(self._secret, height.to_bytes(8, "big"), sha256)
        made.update(data)
        return made.digest()

    def check(self, height: int, data: bytes, mark: bytes) -> None:
        """Raise :class:`SnapshotInvalid` unless this node has made ``data`` for ``height``."""
        if not hmac.compare_digest(self.mark(height, data), mark):
            raise SnapshotInvalid(height, "seal", "torn, changed, or made by another key or for another genesis")


def encode_snapshot(followed: Followed) -> bytes:
    """A snapshot's bytes."""
    terms = tuple(term for _, term in sorted(followed.epochs.items()))
    hand_overs = tuple(signed for _, signed in sorted(followed.hand_overs.items()))
    ledger, beacons = encode_ledger(followed.ledger), followed.beacons.steps()
    return encode(_Snapshot(ledger, followed.days, beacons, terms, hand_overs, followed.rescues))


def decode_snapshot(height: int, data: bytes) -> Followed:
    """A snapshot read back; nothing in it is checked. Raises :class:`SnapshotInvalid` for what is none."""
    try:
        read = decode(_Snapshot, data, MAX_LEDGER_BYTES)
        ledger = decode_ledger(read.ledger)
    except MessageError as error:
        raise SnapshotInvalid(height, "encoding", str(error)) from error
    return Followed(
        ledger=ledger,
        days=read.days,
        beacons=Beacons.of(read.beacons),
        epochs={term.epoch: term for term in read.terms},
        hand_overs={signed.hand_over.epoch: signed for signed in read.hand_overs},
        rescues=read.rescues,
    )


def check_snapshot(
    height: int, followed: Followed, batches: Mapping[int, CertifiedBatch], genesis: Ledger, terms: Terms
) -> None:
    """Raise :class:`SnapshotInvalid` unless ``batches``, those stored, vouch for ``followed`` as of ``height``.

    They are needed at ``height`` and where a rescue was told of.
    """
    ledger, domain = followed.ledger, terms.domain
    line = _line(height, followed, batches, genesis, domain)
    batch = batches.get(height)
    if batch is None or batch.header.height != height:
        raise SnapshotInvalid(height, "batch", "no batch of its height is stored")
    taken_over = ledger.since == height and len(line) > 1  # by the batch itself: the committee before decided it
    deciding = line[-2] if taken_over else line[-1]
    try:
        verify_certificate(batch.certificate, batch.header, deciding.committee, domain)
    except CertificateInvalid as error:
        raise SnapshotInvalid(height, "certificate", str(error)) from error
    if ledger.height != height:
        raise SnapshotInvalid(height, "height", f"the ledger is of height {ledger.height}")
    if state_root(ledger) != batch.header.state_root:
        raise SnapshotInvalid(height, "state_root", "the ledger is not the one that was certified")
    if ledger.parent != batch_hash(batch.header):
        raise SnapshotInvalid(height, "parent", f"0x{ledger.parent.hex()} is not the hash of the certified header")


def _line(
    height: int, followed: Followed, batches: Mapping[int, CertifiedBatch], genesis: Ledger, domain: Domain
) -> Sequence[Term]:
    """The committees since genesis, each vouched for by the one before it or by the batch that told of a rescue."""
    line = [term for _, term in sorted(followed.epochs.items())]
    if not line or line[0] != genesis.running:
        raise SnapshotInvalid(height, "epochs", "the first committee is not that of the genesis")
    if set(followed.ledger.committees) - set(line) or followed.ledger.running != line[-1]:
        raise SnapshotInvalid(height, "epochs", "the ledger tells of other committees")
    for running, coming in pairwise(line):
        told_at = followed.rescues.get(coming.epoch)
        try:
            if told_at is None:
                _check_hand_over(height, followed.hand_overs.get(running.epoch), (running, coming), domain)
            else:
                _check_rescue(height, batches.get(told_at), coming, domain)
        except (HandOverInvalid, CertificateInvalid) as error:
            raise SnapshotInvalid(height, "epochs", f"epoch {coming.epoch}: {error}") from error
    return line


def _check_hand_over(height: int, signed: HandOverCertificate | None, pair: tuple[Term, Term], domain: Domain) -> None:
    running, coming = pair
    roots = running.committee.root, coming.committee.root
    if signed is None or (signed.hand_over.committee_root, signed.hand_over.next_root) != roots:
        raise SnapshotInvalid(height, "epochs", f"no hand-over leads to epoch {coming.epoch}")
    verify_hand_over(signed, signed.hand_over, running, domain)


def _check_rescue(height: int, batch: CertifiedBatch | None, coming: Term, domain: Domain) -> None:
    """A rescue is the chain's to say; that this node had read of it there is why its batch is stored."""
    if batch is None or batch.body.rescue != Rescue(coming.epoch, coming.members):
        raise SnapshotInvalid(height, "epochs", f"no stored batch tells of the rescue to epoch {coming.epoch}")
    verify_certificate(batch.certificate, batch.header, coming.committee, domain)
    if body_root(batch.body) != batch.header.body_root:
        raise SnapshotInvalid(height, "epochs", f"the body that tells of epoch {coming.epoch} is not the certified one")
