"""The chain as trio sees it: blocking calls in worker threads, each with a deadline, and balances that are remembered.

An outage raises :class:`~contracts.errors.ChainUnavailable` and nothing else; what a snapshot block said stays known,
so routing goes on without the chain (S5). web3 is heavy, so :mod:`contracts.client` is imported only to open a chain.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
import trio

from contracts.errors import ChainUnavailable
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.committee import BatchHeader, CommitCertificate, HandOverCertificate
from gossip.messages.evidence import Equivocation
from node.errors import ChainMismatch
from node.recursion import kept_recursion_limit

if TYPE_CHECKING:
    from node.config import ContractAddresses

T = TypeVar("T")

THREADS = 4
"""Reads at once; a hanging endpoint holds no more threads than these."""

BLOCKS_KEPT = 4
"""Snapshot blocks whose balances are remembered: a day or two, and what is being compared."""

BALANCES_KEPT = 100_000
"""Balances remembered of one block."""

TRANSACTION_S = 120.0
"""Deadline of a claim in s, waiting for it to be mined and one raise of its fee included."""


@dataclass(frozen=True, slots=True)
class ClaimPaid:
    """A mined claim: ``amount_wei`` went to the provider."""

    amount_wei: int
    tx_hash: Digest
    gas_used: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch in the registry: its members with what each weighs in wei, and whether a rescue opened it."""

    number: int
    members: tuple[tuple[Address, int], ...]
    is_rescue: bool


@dataclass(frozen=True, slots=True)
class Slashing:
    """A mined slashing: ``reward_wei`` went to the finder."""

    reward_wei: int
    tx_hash: Digest
    gas_used: int


class ChainCalls(Protocol):
    """The blocking calls that a reader makes; :class:`ContractCalls` makes them by web3."""

    def chain_id(self) -> int:
        """The chain's id."""

    def snapshot(self, addresses: Sequence[Address], block: int | None) -> tuple[int, int, Sequence[int]]:
        """Block number, MOR supply and balances (wei, in the order asked) at ``block``, None being the newest."""

    def candidates(self, block: int) -> Sequence[tuple[Address, int]]:
        """Who has staked in the registry at ``block``, and how many wei."""

    def epoch(self) -> int:
        """The registry's newest epoch."""

    def epochs(self, after: int) -> Sequence[Epoch]:
        """The epochs later than ``after`` that the registry has opened."""

    def hand_over(self, key: Key, certificate: HandOverCertificate, members: Sequence[tuple[Address, int]]) -> Digest:
        """Open the next epoch in the registry; the transaction's hash when it is mined."""

    def paid(self, provider: Address) -> int:
        """Wei that the Compute Contract has paid to ``provider`` since genesis."""

    def claim(
        self,
        key: Key,
        header: BatchHeader,
        certificate: CommitCertificate,
        *,
        provider: Address,
        cumulative: int,
        proof: Sequence[Digest],
    ) -> ClaimPaid:
        """Submit a certificate and claim on it in one transaction; returns when it is mined."""

    def is_slashed(self, member: Address) -> bool:
        """Whether the registry has ever slashed ``member``."""

    def slash(self, key: Key, member: Address, evidence: Equivocation) -> Slashing:
        """Have ``member`` punished, the finder's share going to ``key``; returns when it is mined."""


class ContractCalls:
    """:class:`ChainCalls` on the real contracts. Constructing it imports web3 (about a second)."""

    def __init__(self, url: str, contracts: "ContractAddresses", timeout_s: float) -> None:
        with kept_recursion_limit():
            from contracts.bindings import Compute, Registry  # noqa: PLC0415  # web3 is heavy: only where there is a chain
            from contracts.client import ChainClient  # noqa: PLC0415  # as above

        self._client = ChainClient(url, timeout_s)
        self._mor = contracts.mor
        self._compute = Compute(self._client, contracts.compute)
        self._registry = Registry(self._client, contracts.registry)

    def chain_id(self) -> int:
        """As :meth:`ChainCalls.chain_id`."""
        return self._client.chain_id()

    def snapshot(self, addresses: Sequence[Address], block: int | None) -> tuple[int, int, Sequence[int]]:
        """As :meth:`ChainCalls.snapshot`; one request."""
        found = self._client.snapshot(self._mor, addresses, block)
        return found.block, found.supply_wei, found.balances

    def candidates(self, block: int) -> Sequence[tuple[Address, int]]:
        """As :meth:`ChainCalls.candidates`."""
        return self._registry.candidates(block)

    def epoch(self) -> int:
        """As :meth:`ChainCalls.epoch`."""
        return self._registry.epoch()

    def epochs(self, after: int) -> Sequence[Epoch]:
        """As :meth:`ChainCalls.epochs`."""
        registry, block = self._registry, self._client.block_number()
        later = range(after + 1, registry.epoch(block) + 1)
        return [Epoch(one, tuple(registry.committee(one, block)), registry.is_rescue(one, block)) for one in later]

    def hand_over(self, key: Key, certificate: HandOverCertificate, members: Sequence[tuple[Address, int]]) -> Digest:
        """As :meth:`ChainCalls.hand_over`."""
        return self._registry.hand_over(key, certificate.hand_over.day, members, certificate.signatures).tx_hash

    def paid(self, provider: Address) -> int:
        """As :meth:`ChainCalls.paid`."""
        return self._compute.paid(provider)

    def claim(
        self,
        key: Key,
        header: BatchHeader,
        certificate: CommitCertificate,
        *,
        provider: Address,
        cumulative: int,
        proof: Sequence[Digest],
    ) -> ClaimPaid:
        """As :meth:`ChainCalls.claim`."""
        payment = self._compute.claim_with_certificate(
            key,
            header,
            certificate.round,
            certificate.signatures,
            provider=provider,
            cumulative=cumulative,
            proof=proof,
        )
        return ClaimPaid(payment.amount, payment.receipt.tx_hash, payment.receipt.gas_used)

    def is_slashed(self, member: Address) -> bool:
        """As :meth:`ChainCalls.is_slashed`."""
        return self._registry.is_slashed(member)

    def slash(self, key: Key, member: Address, evidence: Equivocation) -> Slashing:
        """As :meth:`ChainCalls.slash`."""
        receipt = self._registry.slash(key, member, evidence.first, evidence.second)
        return Slashing(self._registry.reward_of(receipt), receipt.tx_hash, receipt.gas_used)


class ChainReader:
    """One node's view of its chain.

    Every method raises :class:`ChainUnavailable` where there is no answer in time, and
    :class:`~contracts.errors.TransactionReverted` where the chain refuses.
    """

    def __init__(self, calls: ChainCalls, url: str, timeout_s: float) -> None:
        self._calls = calls
        self.url = url
        self._timeout_s = timeout_s
        self._limiter = trio.CapacityLimiter(THREADS)
        self._sending = trio.CapacityLimiter(1)
        self._known: OrderedDict[int, dict[Address, int]] = OrderedDict()
        self._supplies: dict[int, int] = {}
        self._wanted: dict[int, set[Address]] = {}
        self._fetching = trio.Lock()

    async def check(self, chain_id: int) -> None:
        """Raise :class:`ChainMismatch` where the endpoint serves another chain than ``chain_id``."""
        found = await self._ask(self._calls.chain_id)
        if found != chain_id:
            raise ChainMismatch(self.url, found, chain_id)

    async def snapshot_supply(self) -> tuple[int, int]:
        """The newest block's number and the MOR supply there, in wei: what a day may open with."""
        block, supply, _ = await self._ask(partial(self._calls.snapshot, (), None))
        self._remember(block, supply, {})
        return block, supply

    async def supply(self, block: int) -> int:
        """The MOR supply at ``block``, in wei."""
        if block not in self._supplies:
            _, supply, _ = await self._ask(partial(self._calls.snapshot, (), block))
            self._remember(block, supply, {})
        return self._supplies[block]

    async def balance(self, address: Address, block: int) -> int:
        """Wei of MOR that ``address`` holds at ``block``; remembered, so an outage doesn't matter afterwards."""
        return (await self.balances([address], block))[address]

    async def balances(self, addresses: Sequence[Address], block: int) -> dict[Address, int]:
        """Wei of MOR by address at ``block``; callers that ask at the same time share one request."""
        with trio.move_on_after(self._timeout_s):
            while missing := [a for a in addresses if a not in self._known.get(block, {})]:
                self._wanted.setdefault(block, set()).update(missing)
                async with self._fetching:
                    await self._fetch(block)
            return {address: self._known[block][address] for address in addresses}
        raise self._too_late(self._timeout_s)

    async def candidates(self, block: int) -> Sequence[tuple[Address, int]]:
        """Who has staked in the registry at ``block``, and how many wei."""
        return await self._ask(partial(self._calls.candidates, block))

    async def epoch(self) -> int:
        """The registry's newest epoch."""
        return await self._ask(self._calls.epoch)

    async def epochs(self, after: int) -> Sequence[Epoch]:
        """The epochs later than ``after`` that the registry has opened, in order."""
        return await self._ask(partial(self._calls.epochs, after))

    async def hand_over(
        self, key: Key, certificate: HandOverCertificate, members: Sequence[tuple[Address, int]]
    ) -> Digest:
        """Open the next epoch in the registry; the transaction's hash when it is mined."""
        return await self._ask(partial(self._calls.hand_over, key, certificate, members), TRANSACTION_S, self._sending)

    async def paid(self, provider: Address) -> int:
        """Wei that the Compute Contract has paid to ``provider`` since genesis."""
        return await self._ask(partial(self._calls.paid, provider))

    async def claim_with_certificate(
        self,
        key: Key,
        header: BatchHeader,
        certificate: CommitCertificate,
        *,
        provider: Address,
        cumulative: int,
        proof: Sequence[Digest],
    ) -> ClaimPaid:
        """Submit and claim in one transaction (S32); returns when it is mined.

        After :class:`ChainUnavailable` it may still be mined: read :meth:`paid` before trying again. Claims are
        cumulative, so a second one never pays twice.
        """
        call = partial(
            self._calls.claim, key, header, certificate, provider=provider, cumulative=cumulative, proof=proof
        )
        return await self._ask(call, TRANSACTION_S, self._sending)

    async def is_slashed(self, member: Address) -> bool:
        """Whether the registry has ever slashed ``member``."""
        return await self._ask(partial(self._calls.is_slashed, member))

    async def slash(self, key: Key, member: Address, evidence: Equivocation) -> Slashing:
        """Submit evidence against ``member``; returns when it is mined.

        After :class:`ChainUnavailable` it may still be mined: a second one is then refused as already punished.
        """
        return await self._ask(partial(self._calls.slash, key, member, evidence), TRANSACTION_S, self._sending)

    async def _fetch(self, block: int) -> None:
        """Ask for all that is wanted of ``block``; the caller holds the lock."""
        wanted = sorted(a for a in self._wanted.pop(block, set()) if a not in self._known.get(block, {}))
        if wanted:
            _, supply, balances = await self._ask(partial(self._calls.snapshot, wanted, block))
            self._remember(block, supply, dict(zip(wanted, balances, strict=True)))

    def _remember(self, block: int, supply: int, balances: dict[Address, int]) -> None:
        known = self._known.setdefault(block, {})
        if len(known) + len(balances) > BALANCES_KEPT:
            known.clear()
        known |= balances
        self._supplies[block] = supply
        self._known.move_to_end(block)
        while len(self._known) > BLOCKS_KEPT:
            forgotten, _ = self._known.popitem(last=False)
            del self._supplies[forgotten]

    async def _ask(
        self, call: Callable[[], T], limit_s: float | None = None, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """A blocking call in a thread. A thread that hangs is left behind; it still counts among the few."""
        limit_s = self._timeout_s if limit_s is None else limit_s
        with trio.move_on_after(limit_s):
            return await trio.to_thread.run_sync(
                call,
                limiter=limiter or self._limiter,
                abandon_on_cancel=True,  # type: ignore[call-arg,unused-ignore]  # stubs of trio-typing are older than trio
            )
        raise self._too_late(limit_s)

    def _too_late(self, limit_s: float) -> ChainUnavailable:
        return ChainUnavailable(self.url, f"no answer in {limit_s:g} s")


async def open_chain(url: str, contracts: "ContractAddresses", timeout_s: float) -> ChainReader:
    """A reader of the chain at ``url``. Asks the chain nothing yet, so that a node starts without it."""
    calls = await trio.to_thread.run_sync(ContractCalls, url, contracts, timeout_s)
    return ChainReader(calls, url, timeout_s)


async def until_available(
    what: str,
    call: Callable[[], Awaitable[T]],
    *,
    log: structlog.stdlib.BoundLogger,
    first_s: float = 1.0,
    most_s: float = 60.0,
) -> T:
    """Repeat ``call`` until the chain answers, waiting twice as long each time; logs every failure.

    Only :class:`ChainUnavailable` is retried: a revert would happen again.
    """
    pause = first_s
    while True:
        try:
            return await call()
        except ChainUnavailable as error:
            log.warning("waiting for the chain", what=what, reason=str(error), retry_s=pause)
        await trio.sleep(pause)
        pause = min(2 * pause, most_s)
