"""What single steps cost on this machine: CPU seconds and bytes, each measured, none assumed."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import trio

from consensus.market.indexes import PAGE
from consensus.market.ledger import Draft
from consensus.market.ledger_state import Ledger, SessionUse, state_root
from consensus.market.settlement import Standing, VerifiedIds, certified_ids, verify_settlement
from consensus.market.trie import Trie
from consensus.params import Terms
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import recover
from contracts.typed_data import ZERO_DIGEST
from gossip.messages.base import Signed, decode, encode
from gossip.messages.committee import CertifiedBatch
from gossip.messages.market import Rfc
from gossip.messages.session import Settlement
from inference.session.pace import FRAMES_PER_S
from node.store import open_store
from testnet.bench.capacity import UNPACED, measure_together
from testnet.bench.chain import LogBuilder
from testnet.bench.gossip import Load, Outcome, measure_gossip
from testnet.bench.matching import BookSize, measure_router
from testnet.errors import TestnetError
from testnet.progress import Progress

SAMPLE = 400
TRIES = 3
"""Of which the quickest counts: what other work on the machine adds is no cost of the step."""
ENTRIES = 20_000
SINGLE, JOINED = (32, 50.0, 6.0), (400, 50.0, 10.0)
"""Streams, T a second of each and seconds of the providers that T and frames are told apart on."""
MAX_SETTLEMENT_BYTES = 8_192
HOSTS, RATE, SECONDS = 12, 30, 8
"""The network that the cost of a gossiped frame is measured on."""


@dataclass(frozen=True, slots=True)
class Constants:
    """CPU seconds for one, and bytes of one."""

    recover: float
    """A signature checked."""
    rfc_check: float
    """An RFC decoded, its id worked out and its signature checked, and a tenth of its pass's."""
    route: float
    """A router's work on an RFC, from bytes to the signed match and ticket."""
    verify: float
    """All signatures of a settlement, the bid's and the pass's remembered."""
    settle: float
    """A settlement decoded, applied to the ledger, and its part of the roots."""
    certificate: float
    """A member's part of checking a certificate."""
    store: float
    """A settlement's part of storing its batch."""
    frame: float
    """A gossiped frame read, and forwarded or thrown away as seen before."""
    host: float
    """A host with six peers that hears nothing, for a second."""
    repeats: float
    """Frames that a host reads of each message beyond the first."""
    token: float
    """A T on a provider's stream, its frame left out."""
    frame_out: float
    """A frame of an answer, with the vouchers for it and their store."""
    rfc_bytes: int
    overhead_bytes: int
    """Bytes that a host reads with each gossiped frame beside its payload."""
    settlement_bytes: int
    bid_bytes: int
    pass_bytes: int
    """Of memory: an access pass in the ledger; so are ``page_bytes`` (settled indexes), ``pair_bytes`` (T or wei of
    a pass and a provider) and ``ticket_bytes`` (a ticket's id, where these are kept)."""
    page_bytes: int
    pair_bytes: int
    ticket_bytes: int


def measure_constants(progress: Progress) -> Constants:
    """A minute or so. Raises :class:`~testnet.errors.TestnetError` where a network does not come up."""
    builder = LogBuilder()
    terms = builder.network.terms()
    with progress.step("making settlements"):
        made = [builder.settlement(1) for _ in range(SAMPLE)]
        ((_, data),) = LogBuilder().batches(1, SAMPLE)
    batch = decode(CertifiedBatch, data)
    with progress.step("timing signatures, settlements and the ledger"):
        check = _signature(made[0], terms)
        rfcs = [encode(one.rfc) for one in made]
        rfc_check = min(_once(lambda: _check_rfcs(rfcs, terms)) for _ in range(TRIES)) / SAMPLE
        verify = min(_once(lambda: _verify(made, terms)) for _ in range(TRIES)) / SAMPLE
        settle = _settle(builder, made)
        committee = builder.network.committee()
        recover.cache_clear()
        certificate = _once(lambda: verify_certificate(batch.certificate, batch.header, committee, terms.domain)) / 4
    with progress.step("timing a router and the store"):
        route = 1 / measure_router(BookSize(), 2_048).rate
        store = trio.run(_store, batch) / SAMPLE
    idle = measure_gossip(Load(HOSTS, 1, SECONDS), progress)
    busy = measure_gossip(Load(HOSTS, RATE, SECONDS), progress)
    per_host, frame = _gossip_costs(idle, busy, check)
    with progress.step("timing streams"):
        token, frame_out = _stream_costs()
    bid = len(encode(batch.body.settlements[0].ticket.payload.bid))
    return Constants(
        recover=check,
        rfc_check=rfc_check,
        route=route,
        verify=verify,
        settle=settle,
        certificate=certificate,
        store=store,
        frame=frame,
        host=per_host,
        repeats=busy.drops.get("duplicate", 0) / len(busy.received),
        token=token,
        frame_out=frame_out,
        rfc_bytes=len(rfcs[0]),
        overhead_bytes=round(busy.bytes_in / frames_of(busy)) - bid,
        settlement_bytes=len(encode(made[0])),
        bid_bytes=bid,
        pass_bytes=_entry_bytes(20, lambda _: SessionUse(0, 10**6, 500)),
        page_bytes=_entry_bytes(28, lambda _: bytes(PAGE // 8 - 1) + b"\1"),
        pair_bytes=_entry_bytes(44, lambda number: 10**6 + number),
        ticket_bytes=_entry_bytes(32, lambda number: 10**6 + number),
    )


def frames_of(outcome: Outcome) -> int:
    """Frames that all hosts read: first deliveries and repeats."""
    return len(outcome.received) + outcome.drops.get("duplicate", 0)


def _gossip_costs(idle: Outcome, busy: Outcome, check: float) -> tuple[float, float]:
    """CPU seconds of a host and second, and of a frame: two runs of equal length, two unknowns."""
    net = [one.cpu_seconds - len(one.received) * check for one in (idle, busy)]
    frames = [frames_of(one) for one in (idle, busy)]
    frame = max(0.0, (net[1] - net[0]) / (frames[1] - frames[0]))
    return max(0.0, (net[0] - frames[0] * frame) / (HOSTS * SECONDS)), frame


def _signature(settlement: Settlement, terms: Terms) -> float:
    """One signature that nobody has checked before."""
    value, signature = settlement.rfc.id(terms.domain), settlement.rfc.signature
    return _timed(lambda: recover.__wrapped__(value, signature))


def _check_rfcs(rfcs: list[bytes], terms: Terms) -> None:
    recover.cache_clear()
    for data in rfcs:
        rfc = decode(Signed[Rfc], data)
        rfc.signer(terms.domain)
        rfc.payload.access_pass.signer(terms.domain)


def _verify(made: list[Settlement], terms: Terms) -> None:
    standing = Standing()
    recover.cache_clear()
    for settlement in made:
        verify_settlement(settlement, terms, standing)


def _stream_costs() -> tuple[float, float]:
    """CPU seconds of a T and of a frame: a provider that gives each T a frame, and one with many T in each."""
    single = trio.run(measure_together, *SINGLE, UNPACED)
    joined = min((trio.run(measure_together, *JOINED, FRAMES_PER_S) for _ in range(2)), key=lambda one: one.cpu_us)
    shares = [1 / one.tokens_a_piece for one in (single, joined)]
    if shares[0] - shares[1] < shares[0] / 2:
        raise TestnetError(f"frames of {joined.tokens_a_piece:.1f} T beside {single.tokens_a_piece:.1f} tell nothing")
    frame = max(0.0, (single.cpu_us - joined.cpu_us) / (shares[0] - shares[1]))
    return max(0.0, joined.cpu_us - frame * shares[1]) / 1e6, frame / 1e6


def _entry_bytes(key_bytes: int, value: Callable[[int], object]) -> int:
    """Bytes of memory of one of many entries of a part of the ledger, its root worked out."""
    tracemalloc.start()
    held = Trie.of(
        {
            sha256(number.to_bytes(4, "big")).digest().ljust(key_bytes, b"\0")[:key_bytes]: value(number)
            for number in range(ENTRIES)
        }
    )
    _ = held.root
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept // len(held)


def _settle(builder: LogBuilder, made: list[Settlement]) -> float:
    """CPU seconds of a settlement in the ledger."""
    terms, before = builder.network.terms(), builder.network.genesis()
    data = [encode(settlement) for settlement in made]
    ids = [certified_ids(settlement, terms) for settlement in made]
    took = min(_once(lambda: _settle_all(before, terms, data, ids)) for _ in range(5))  # no pause of the collector's
    if not _apply(before, terms, made, ids).indexes:
        raise TestnetError("nothing was settled")
    return took / len(made)


def _settle_all(ledger: Ledger, terms: Terms, data: list[bytes], ids: list[VerifiedIds]) -> None:
    _apply(ledger, terms, [decode(Settlement, one, MAX_SETTLEMENT_BYTES) for one in data], ids)


def _apply(ledger: Ledger, terms: Terms, made: list[Settlement], ids: list[VerifiedIds]) -> Ledger:
    draft = Draft(ledger, terms, 1)
    for settlement, its in zip(made, ids, strict=True):
        draft.settle(settlement, its)
    after = draft.close(ZERO_DIGEST)
    state_root(after)
    return after


async def _store(batch: CertifiedBatch) -> float:
    """CPU seconds of all threads for storing a batch."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(Path(folder) / "node.sqlite") as store:
            began = time.process_time()
            await store.put_batch(batch)
            return time.process_time() - began


def _once(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _timed(work: Callable[[], object]) -> float:
    """CPU seconds of one of many."""
    began = time.process_time()
    for _ in range(SAMPLE):
        work()
    return (time.process_time() - began) / SAMPLE
