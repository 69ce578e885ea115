"""What the ledger costs: µs for a report and for a batch, whoever else has an account, and the credit tree's figures.

Settlements carry no valid signatures and their ids are made up: what is measured is the ledger's own work alone, which
every member does again. Signatures are :mod:`testnet.bench.chain`'s. Times are the CPU's, so that a
busy machine does not count.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import TypeVar

from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market.indexes import page_key
from consensus.market.ledger import Draft
from consensus.market.ledger_state import Ledger, SessionUse, decode_ledger, encode_ledger, genesis_ledger, state_root
from consensus.market.settlement import VerifiedIds
from consensus.market.trie import Trie
from consensus.params import NetworkParams, Terms
from contracts.merkle import CreditTree, merkle_verify
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Signature, Uint256
from gossip.messages.base import Signed, Unit
from gossip.messages.committee import DayOpening
from gossip.messages.market import AccessPass, Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.session import Report, Settlement

SIZES = (100, 1_000, 100_000)
"""Users and providers that have an account already."""

REPORTS = 1_000
"""In one batch."""

T = TypeVar("T")

_SIGNATURE = Signature(bytes(65))
_MODEL = Digest(sha256(b"a model").digest())
_ROUTER = Address(sha256(b"member 0").digest()[:20])
_ALLOWANCE = 10**9
_PRICE = 10**9


def rows() -> Iterator[tuple[str, str, str]]:
    """(what, how many, how long) as they are measured; a minute at most."""
    terms = Terms(Domain(1, Address(b"\x01" * 20)), 0, NetworkParams(min_providers=1, audit_slots=0))
    for size in SIZES:
        ledger = _ledger(terms, size)
        pending = [_settlement(number, size) for number in range(REPORTS)]
        settle_s, close_s, after = _batch(ledger, terms, pending)
        yield f"settle a report, {size:,} accounts", f"{REPORTS:,}", _us(settle_s / REPORTS)
        yield f"close a batch, {size:,} accounts, for each report", f"{REPORTS:,}", _us(close_s / REPORTS)
        settle_s, close_s, _ = _batch(ledger, terms, pending[:1])
        yield f"batch of one report, {size:,} accounts", "1", _us(settle_s + close_s)
        took_s, data = _timed(partial(encode_ledger, after))
        yield f"snapshot of {len(data) / 1e6:.1f} MB, {size:,} accounts", "1", f"{took_s * 1e3:.0f} ms"
        took_s, read = _timed(partial(decode_ledger, data))
        if state_root(read) != state_root(after):
            raise ValueError("a snapshot was read back to another state")
        yield f"snapshot read back, {size:,} accounts", "1", f"{took_s * 1e3:.0f} ms"
    for size in SIZES:
        yield from _tree(size)


def _tree(size: int) -> Iterator[tuple[str, str, str]]:
    credit = {_address("provider", number): number + 1 for number in range(size)}
    took_s, tree = _timed(lambda: CreditTree.of(credit))
    yield f"credit tree of {size:,}", "1", f"{took_s * 1e3:.1f} ms"
    some = [_address("provider", number) for number in range(0, size, max(1, size // 100))]
    start = time.process_time()
    for provider in some:
        tree = tree.with_items({provider: tree[provider] + 1})
    yield f"one credit changed among {size:,}", str(len(some)), _us((time.process_time() - start) / len(some))
    start = time.process_time()
    for number in range(100):
        tree = tree.with_items({_address("newcomer", number): 1})
    yield f"a newcomer among {size:,}", "100", _us((time.process_time() - start) / 100)
    took_s, proof = _timed(lambda: tree.proof(some[0]))
    if not merkle_verify(tree.root, some[0], tree[some[0]], proof):
        raise ValueError("a proof does not lead to its root")
    yield f"proof of {len(proof)} siblings among {size:,}", "1", _us(took_s)


def _batch(ledger: Ledger, terms: Terms, pending: Sequence[Settlement]) -> tuple[float, float, Ledger]:
    """Seconds for settling and for closing with all roots, and the new ledger."""
    ids = [_ids(settlement) for settlement in pending]
    draft = Draft(ledger, terms, ledger.slot + 1)
    gc.disable()  # one look of the collector at all accounts would outweigh the batch, and says nothing of it
    try:
        start = time.process_time()
        for settlement, its in zip(pending, ids, strict=True):
            draft.settle(settlement, its)
        settled = time.process_time()
        after = draft.close(ZERO_DIGEST)
        state_root(after)
        return settled - start, time.process_time() - settled, after
    finally:
        gc.enable()


def _ledger(terms: Terms, size: int) -> Ledger:
    """A day on which ``size`` users and as many providers have had business."""
    opening = DayOpening(0, 1, Uint256(10**25), Uint256(3_456 * 10**18))
    ledger = replace(
        genesis_ledger(terms, Committee.of(1, [Member(_ROUTER, 1)]), opening, _PRICE, (), models=(_MODEL,)), slot=100
    )
    sessions = {_address("user", number): SessionUse(0, _ALLOWANCE, 9) for number in range(size)}
    credit = {_address("provider", number): Uint256(10**18 + number) for number in range(size)}
    pages = {page_key(_address("user", number), 0): b"\x1f" for number in range(size)}
    made = replace(
        ledger,
        credits=CreditTree.of(credit),
        total_credited=Uint256(sum(credit.values())),
        sessions={0: Trie.of(sessions)},
        indexes={0: Trie.of(pages)},
        day_credits=Trie.of(credit),
    )
    state_root(made)
    return made


def _settlement(number: int, size: int) -> Settlement:
    """A passed report of one of the users for one of the providers."""
    user, provider = _address("user", number * 7 % size), _address("provider", number * 13 % size)
    granted = Signed(AccessPass(user, 0, _ALLOWANCE, 1, _ROUTER, ZERO_DIGEST), _SIGNATURE)
    rfc = Signed(Rfc(granted, user, 5 + number, _MODEL, Unit.TEXT_TOKEN, 256, 512, 2**40), _SIGNATURE)
    bid = Signed(Bid(provider, _MODEL, Unit.TEXT_TOKEN, _PRICE, 4, 2_048, 1, 2**40), _SIGNATURE)
    ticket = Signed(Ticket(_digest("rfc", number), user, bid, 256, 512, 99, 2**40, _ROUTER), _SIGNATURE)
    report = Signed(Report(_digest("ticket", number), user, 100, 200, 2_000, True), _SIGNATURE)
    return Settlement(rfc, ticket, None, None, report)


def _ids(settlement: Settlement) -> VerifiedIds:
    ticket = settlement.ticket.payload
    ticket_id = Digest(sha256(b"id" + ticket.rfc_id).digest())
    return VerifiedIds(ticket_id, ticket.rfc_id, ZERO_DIGEST, ticket.session_key, ticket.bid.payload.provider)


def _address(kind: str, number: int) -> Address:
    return Address(_digest(kind, number)[:20])


def _digest(kind: str, number: int) -> Digest:
    return Digest(sha256(f"{kind} {number}".encode()).digest())


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"
