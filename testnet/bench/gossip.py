"""Gossip under load: signed bids between many hosts, how many arrive and when.

The hosts are real and speak over loopback; they share a few processes, as many as there are cores to use. Each is
connected to six others, so that most bids need more than one hop. Every host checks each bid's signature, as nodes do.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import trio

from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip import topics
from gossip.errors import MessageError
from gossip.messages import Signed, Unit, decode, encode, sign
from gossip.messages.market import AccessPass, Rfc
from gossip.messages.records import Bid
from gossip.network import GossipMessage, Network, NetworkConfig, Verdict, open_network
from testnet.bench.figures import Figures
from testnet.errors import OptionInvalid, StepOverdue
from testnet.progress import Progress

DOMAIN = Domain(31_337, Address(b"\x07" * 20))
TOPIC = topics.bids(topics.network_id(DOMAIN))
STEPS = (1, 2, 5)
"""Each host dials the next, the one after it, and the fifth: a ring with chords."""
START_S = 60.0
"""For so long hosts may start, dial and form their mesh."""
LEAD_S = 1.0
DRAIN_S = 15.0
"""For so long after the last bid the last delivery is waited for."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered: ``rate`` bids a second by all ``hosts`` together, in turn, for ``seconds``."""

    hosts: int = 20
    rate: int = 20
    seconds: int = 30
    processes: int = 2
    rfcs: bool = False
    """RFCs instead of bids: longer, with two signatures each."""

    @property
    def bids(self) -> int:
        """Bids published in all."""
        return self.rate * self.seconds

    @property
    def deliveries(self) -> int:
        """Times that a bid should reach a host other than its author."""
        return self.bids * (self.hosts - 1)


@dataclass(slots=True)
class Outcome:
    """What one process saw, or all of them together."""

    published: dict[int, float] = field(default_factory=dict)
    """When each bid was published, in s of the machine's monotonic clock."""
    received: list[tuple[int, float]] = field(default_factory=list)
    """Bid and time of every delivery."""
    cpu_seconds: float = 0.0
    bytes_in: int = 0
    """Gossip bytes that all hosts read."""
    drops: dict[str, int] = field(default_factory=dict)
    """Dropped messages by reason, all hosts together; ``duplicate`` is the mesh's redundancy, no loss."""

    def merge(self, other: "Outcome") -> None:
        """Add what another process saw."""
        self.published |= other.published
        self.received += other.received
        self.cpu_seconds += other.cpu_seconds
        self.bytes_in += other.bytes_in
        for reason, count in other.drops.items():
            self.drops[reason] = self.drops.get(reason, 0) + count

    def latencies(self) -> Figures:
        """ms from publishing to delivery."""
        return Figures.of([(at - self.published[bid]) * 1_000 for bid, at in self.received])


def measure_gossip(load: Load, progress: Progress) -> Outcome:
    """Run ``load``. Raises :class:`OptionInvalid`, :class:`StepOverdue`."""
    if load.hosts <= 2 * max(STEPS):
        raise OptionInvalid("nodes", load.hosts, f"at least {2 * max(STEPS) + 1} are needed")
    with _workers(load) as pipes:
        with progress.step(f"linking {load.hosts} hosts in {load.processes} processes"):
            addresses: dict[int, tuple[str, ...]] = {}
            for pipe in pipes:
                addresses |= _receive(pipe, START_S, "every host listening")
            _send_all(pipes, addresses)
            for pipe in pipes:
                _receive(pipe, START_S, "a mesh of every host")
        with progress.step(f"{load.rate} bids a second for {load.seconds} s"):
            _send_all(pipes, time.monotonic() + LEAD_S)
            total = Outcome()
            for pipe in pipes:
                total.merge(_receive(pipe, LEAD_S + load.seconds + 2 * DRAIN_S, "the end of the run"))
        return total


@contextmanager
def _workers(load: Load) -> Iterator[list[Connection]]:
    """The processes; what they say and hear."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    workers: list[SpawnProcess] = []
    try:
        for number in range(load.processes):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            workers.append(context.Process(target=work, args=(theirs, load, number), daemon=True))
            workers[-1].start()
            theirs.close()
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for worker in workers:
            worker.kill()
            worker.join()
            worker.close()


def _send_all(pipes: Sequence[Connection], what: object) -> None:
    for pipe in pipes:
        pipe.send(what)


def _receive(pipe: Connection, seconds: float, what: str) -> Any:  # what a worker says next
    if not pipe.poll(seconds):
        raise StepOverdue(what, seconds)
    try:
        return pipe.recv()
    except EOFError:
        raise StepOverdue(what, seconds, seen="a process of hosts ended") from None


# A process of hosts.


def work(pipe: Connection, load: Load, number: int) -> None:
    """Run every ``load.processes``-th host from ``number`` on, as the parent says over ``pipe``."""
    trio.run(_work, pipe, load, range(number, load.hosts, load.processes))


async def _work(pipe: Connection, load: Load, mine: range) -> None:
    async with AsyncExitStack() as stack:
        hosts = {
            host: await stack.enter_async_context(open_network(NetworkConfig(), (host + 1).to_bytes(32, "big")))
            for host in mine
        }
        readers = {
            host: await net.subscribe(TOPIC, _judge_rfc if load.rfcs else _judge, max_bytes=4_224)
            for host, net in hosts.items()
        }
        pipe.send({host: net.multiaddrs for host, net in hosts.items()})
        addresses = await trio.to_thread.run_sync(pipe.recv)
        async with trio.open_nursery() as nursery:
            for host, net in hosts.items():
                for step in STEPS:
                    nursery.start_soon(_connect, net, addresses[(host + step) % load.hosts])
        for net in hosts.values():
            await net.wait_for_mesh(TOPIC, 3, timeout=START_S)
        pipe.send("ready")
        start = await trio.to_thread.run_sync(pipe.recv)
        pipe.send(await _run(hosts, readers, load, start))
        await trio.sleep_forever()  # others may still need us to pass bids on


async def _connect(net: Network, multiaddrs: Sequence[str]) -> None:
    await net.connect(multiaddrs, timeout=START_S)


async def _run(
    hosts: dict[int, Network],
    readers: dict[int, trio.MemoryReceiveChannel[GossipMessage]],
    load: Load,
    start: float,
) -> Outcome:
    outcome = Outcome()
    own = {host: len(range(host, load.bids, load.hosts)) for host in hosts}
    used = time.process_time()
    before = [net.statistics() for net in hosts.values()]
    with trio.move_on_after(start - time.monotonic() + load.seconds + DRAIN_S):
        async with trio.open_nursery() as nursery:
            for host, net in hosts.items():
                nursery.start_soon(_publish, net, range(host, load.bids, load.hosts), load, start, outcome)
                nursery.start_soon(_collect, readers[host], load.bids - own[host], load, outcome)
    outcome.cpu_seconds = time.process_time() - used
    for net, earlier in zip(hosts.values(), before, strict=True):
        now = net.statistics()
        outcome.bytes_in += now.bytes_in - earlier.bytes_in
        for reason, count in now.drops.items():
            outcome.drops[reason] = outcome.drops.get(reason, 0) + count - earlier.drops.get(reason, 0)
    return outcome


async def _publish(net: Network, bids: range, load: Load, start: float, outcome: Outcome) -> None:
    for number in bids:
        await trio.sleep(max(0.0, start + number / load.rate - time.monotonic()))
        data = _rfc(number) if load.rfcs else _bid(number)
        outcome.published[number] = time.monotonic()
        await net.publish(TOPIC, data)


async def _collect(
    reader: trio.MemoryReceiveChannel[GossipMessage], expected: int, load: Load, outcome: Outcome
) -> None:
    for _ in range(expected):
        data = (await reader.receive()).data
        number = decode(Signed[Rfc], data).payload.index if load.rfcs else decode(Signed[Bid], data).payload.sequence
        outcome.received.append((number, time.monotonic()))


def _judge(data: bytes, _: str) -> Verdict:
    try:
        decode(Signed[Bid], data).signer(DOMAIN)
    except MessageError:
        return Verdict.REJECT
    return Verdict.ACCEPT


def _judge_rfc(data: bytes, _: str) -> Verdict:
    try:
        rfc = decode(Signed[Rfc], data)
        rfc.signer(DOMAIN)
        rfc.payload.access_pass.signer(DOMAIN)
    except MessageError:
        return Verdict.REJECT
    return Verdict.ACCEPT


def _rfc(number: int) -> bytes:
    """As users send them: one in ten with a pass that nobody has seen before."""
    router, session = Key(b"\x01" * 32), Key((number // 10 + 1).to_bytes(32, "big"))
    granted = AccessPass(session.address, 0, 1_000_000, 9, router.address, Digest(bytes(32)))
    access_pass = sign(granted, router, DOMAIN)
    rfc = Rfc(access_pass, session.address, number, Digest(b"m" * 32), Unit.TEXT_TOKEN, 500, 512, 10**13)
    return encode(sign(rfc, session, DOMAIN))


def _bid(number: int) -> bytes:
    key = Key((number + 1).to_bytes(32, "big"))
    bid = Bid(
        provider=key.address,
        model_id=Digest(b"m" * 32),
        unit=Unit.TEXT_TOKEN,
        price_wei=10**11,
        slots=1,
        prompt_max=4_096,
        sequence=number,
        expires_ms=10**13,
    )
    return encode(sign(bid, key, DOMAIN))
