"""What single steps cost on this machine: CPU seconds and bytes, each measured, none assumed."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio
from msgspec.structs import replace

from consensus.market.ledger import Draft
from consensus.market.ledger_state import Ledger, genesis_ledger, state_root
from consensus.market.settlement import Standing, VerifiedIds, certified_ids, verify_settlement
from consensus.params import Terms
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import recover
from contracts.typed_data import ZERO_DIGEST
from gossip.messages.base import Signed, decode, encode
from gossip.messages.committee import CertifiedBatch
from gossip.messages.market import Rfc
from gossip.messages.session import Settlement
from node.store import open_store
from testnet.bench.capacity import measure_capacity
from testnet.bench.chain import LogBuilder
from testnet.bench.gossip import Load, Outcome, measure_gossip
from testnet.bench.matching import BookSize, measure_router
from testnet.errors import TestnetError
from testnet.progress import Progress

SAMPLE = 400
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
    """A T on a provider's stream, vouchers and store included."""
    rfc_bytes: int
    overhead_bytes: int
    """Bytes that a host reads with each gossiped frame beside its payload."""
    settlement_bytes: int
    bid_bytes: int
    session_bytes: int
    """What a member keeps of a settlement in memory until its day is over."""


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
        rfc_check = _once(lambda: _check_rfcs(rfcs, terms)) / SAMPLE
        verify = _once(lambda: _verify(made, terms)) / SAMPLE
        settle, session_bytes = _settle(builder, made)
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
        streams, rate = 16, 25.0
        capacity = trio.run(measure_capacity, streams, rate, 4.0)
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
        token=capacity.core_percent / 100 / (streams * capacity.rates.p50),
        rfc_bytes=len(rfcs[0]),
        overhead_bytes=round(busy.bytes_in / frames_of(busy)) - bid,
        settlement_bytes=len(encode(made[0])),
        bid_bytes=bid,
        session_bytes=session_bytes,
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


def _settle(builder: LogBuilder, made: list[Settlement]) -> tuple[float, int]:
    """CPU seconds and bytes of memory of a settlement in the ledger, its own message left out."""
    network, terms = builder.network, builder.network.terms()
    before = genesis_ledger(
        terms, network.committee(), network.opening(), network.reference_price_wei, network.commitments
    )
    data = [encode(settlement) for settlement in made]
    ids = [certified_ids(settlement, terms) for settlement in made]
    took = min(_once(lambda: _settle_all(before, terms, data, ids)) for _ in range(5))  # no pause of the collector's
    tracemalloc.start()
    after = replace(_apply(before, terms, made, ids), outcomes=())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if not after.indexes:
        raise TestnetError("nothing was settled")
    return took / len(made), kept // len(made)


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
