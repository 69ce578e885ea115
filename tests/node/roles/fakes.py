"""What stands in for a chain and for an engine in tests of whole nodes."""

import threading
from collections.abc import Sequence

import trio

from consensus.committee import Committee, Member
from consensus.evidence import Equivocation, examine
from consensus.membership import Term, verify_hand_over
from contracts.errors import ChainUnavailable, TransactionReverted
from contracts.merkle import merkle_verify
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip.messages.committee import BatchHeader, CommitCertificate, HandOver, HandOverCertificate, batch_hash
from inference.synthetic import SyntheticEngine
from node.chain import ClaimPaid, Epoch, Slashing
from tests.consensus.builders import key

WEI = 10**18
DOMAIN = Domain(77_101, Address(b"\x03" * 20))
MODEL = "synthetic"
URL = "http://127.0.0.1:1"
MEMBERS = sorted((key(f"member {number}") for number in range(4)), key=lambda one: one.address)
"""In the committee's order."""


class FakeChain:
    """A chain in memory: balances that tests set, outages, claims that it keeps."""

    def __init__(self) -> None:
        self.block = 7
        self.supply = 10_000_000 * WEI
        self.balances: dict[Address, int] = {}
        self.down = False
        self.refuses = ""
        """The reason for which claims revert."""
        self.swallows = 0
        """So many claims are mined, and the answer is lost."""
        self.staked = [(member.address, 1_000 * WEI) for member in MEMBERS]
        """The registry's candidates."""
        self.opened = [Epoch(1, tuple(self.staked), is_rescue=False)]
        """The registry's epochs."""
        self.claims: list[tuple[Address, int]] = []
        self.slashings: list[tuple[Address, Address, Digest]] = []
        """(finder, member, offence)."""
        self.slash_refusals: list[str] = []
        """The reasons for which the next slashings revert, one each."""
        self._paid: dict[Address, int] = {}
        self._lock = threading.Lock()

    def chain_id(self) -> int:
        return DOMAIN.chain_id

    def snapshot(self, addresses: Sequence[Address], block: int | None) -> tuple[int, int, Sequence[int]]:
        self._check()
        return (
            self.block if block is None else block,
            self.supply,
            [self.balances.get(address, 0) for address in addresses],
        )

    def candidates(self, block: int) -> Sequence[tuple[Address, int]]:  # noqa: ARG002  # the seam's shape
        self._check()
        return tuple(self.staked)

    def epoch(self) -> int:
        self._check()
        return self.opened[-1].number

    def epochs(self, after: int) -> Sequence[Epoch]:
        self._check()
        return [epoch for epoch in self.opened if epoch.number > after]

    def hand_over(
        self,
        key: Key,  # noqa: ARG002  # the seam's shape
        certificate: HandOverCertificate,
        members: Sequence[tuple[Address, int]],
    ) -> Digest:
        """As the registry: the running epoch's members relieve themselves."""
        self._check()
        with self._lock:
            running = self._committee(self.opened[-1])
            coming = Committee(running.epoch + 1, tuple(Member(address, stake) for address, stake in members))
            expected = HandOver(running.epoch, certificate.hand_over.day, running.root, coming.root)
            verify_hand_over(certificate, expected, Term.of(running), DOMAIN)
            self.opened.append(Epoch(coming.epoch, tuple(members), is_rescue=False))
        return Digest(bytes(31) + b"\x02")

    def _committee(self, epoch: Epoch) -> Committee:
        return Committee(epoch.number, tuple(Member(address, stake) for address, stake in epoch.members))

    def paid(self, provider: Address) -> int:
        self._check()
        return self._paid.get(provider, 0)

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
        self._check()
        with self._lock:
            if self.refuses:
                raise TransactionReverted("compute.claim", self.refuses)
            assert merkle_verify(header.credit_root, provider, cumulative, proof)
            assert certificate.batch_hash == batch_hash(header)
            if header.committee_root != self._committee(self.opened[-1]).root:
                raise TransactionReverted("compute.claim", "registry: unknown committee")
            assert key.address == provider
            amount = cumulative - self._paid.get(provider, 0)
            self._paid[provider] = cumulative
            self.claims.append((provider, cumulative))
            if self.swallows:
                self.swallows -= 1
                raise ChainUnavailable(URL, "the answer was lost")
        return ClaimPaid(amount, Digest(bytes(31) + b"\x01"), 147_000)

    def is_slashed(self, member: Address) -> bool:
        self._check()
        return any(member == slashed for _, slashed, _ in self.slashings)

    def slash(self, key: Key, member: Address, evidence: Equivocation) -> Slashing:
        self._check()
        with self._lock:
            if self.slash_refusals:
                raise TransactionReverted("registry.slash", self.slash_refusals.pop(0))
            offence = examine(evidence, DOMAIN)
            assert offence.offender == member
            if any(offence.id == punished for _, _, punished in self.slashings):
                raise TransactionReverted("registry.slash", "registry: already punished")
            if any(member == slashed for _, slashed, _ in self.slashings):
                raise TransactionReverted("registry.slash", "registry: nothing to slash")
            self.slashings.append((key.address, member, offence.id))
            if self.swallows:
                self.swallows -= 1
                raise ChainUnavailable(URL, "the answer was lost")
        return Slashing(50, Digest(bytes(31) + b"\x02"), 90_000)

    def _check(self) -> None:
        if self.down:
            raise ChainUnavailable(URL, "refused")


class GatedEngine(SyntheticEngine):
    """Says ``open_for`` T and then no more until :meth:`release`."""

    def __init__(self, *, open_for: int = 10**9, answer_tokens: int = 32, slots: int = 4) -> None:
        super().__init__(MODEL, answer_tokens=answer_tokens, slots=slots)
        self._open_for = open_for
        self._moved = trio.Event()

    def release(self) -> None:
        self._open_for = 10**9
        self._moved.set()

    async def pause(self, index: int) -> None:
        while index >= self._open_for:
            await self._moved.wait()
        await super().pause(index)
