"""A small network's contracts in an in-process EVM. Every chain is a fresh one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import boa  # noqa: F401  # raises the recursion limit, which hypothesis forbids its tests
import msgspec
import pytest
from eth_hash.auto import keccak

from consensus.committee import Committee, Member
from contracts.bindings import certificate, compact_signature, compute_arguments
from contracts.budget import Economics, Schedule
from contracts.merkle import merkle_proof, merkle_root
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Signature, Uint256, digest
from gossip.messages.committee import BatchHeader, HandOver, Precommit, batch_hash
from testnet.evm import Contract, LocalChain, Refused

MOR = 10**18
UNBONDING_S = 3_600
RESCUE_DELAY_S = 7_200
RESCUE_NOTICE_S = 600
TERMS = (UNBONDING_S, 100, 5, RESCUE_DELAY_S, RESCUE_NOTICE_S)
"""What a registry is deployed with: all is lost by slashing, and a twentieth of it goes to the finder."""

FUNDS = 10_000 * MOR
"""What the Compute Contract holds at first."""

PAST_S = 100_000
"""How long before a network's contracts are deployed its slot 0 begins, so that tests may name any slot."""

GOVERNOR = Address(b"\x60" * 20)
DELAY_S = 86_400

AMPLE = Economics(
    Schedule(200_000 * MOR, 1_000 * MOR, payout_start_s=0, interval_s=10),
    genesis_s=0,
    slot_ms=1_000,
    day_slots=10,
    endowment_wei=10_000_000 * MOR,
)
"""A formula that allows more than any test credits, so that only what the contract really holds bounds it.

Times are relative: a world's genesis is added to them.
"""


def shifted(economics: Economics, by_s: int) -> Economics:
    """``economics`` begun ``by_s`` seconds later."""
    schedule = msgspec.structs.replace(economics.schedule, payout_start_s=economics.schedule.payout_start_s + by_s)
    return msgspec.structs.replace(economics, schedule=schedule, genesis_s=economics.genesis_s + by_s)


@contextmanager
def refused(reason: str) -> Iterator[None]:
    """The body's call must revert with exactly ``reason``."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.reason == reason


class World:
    """MOR, registry and Compute Contract with a committee of epoch 1, and what the committee signs."""

    def __init__(
        self,
        stakes: Sequence[int] = (100, 200, 300, 400),
        *,
        keys: Sequence[Key] | None = None,
        terms: Sequence[int] = TERMS,
        economics: Economics = AMPLE,
        past_s: int = PAST_S,
        funds: int = FUNDS,
    ) -> None:
        self.chain = LocalChain()
        self.mor = self.chain.deploy("mor")
        self.registry = self.chain.deploy("registry", self.mor.address, *terms)
        self.economics = shifted(economics, self.chain.now_s - past_s)
        self.compute = self.deploy_compute(self.registry.address)
        self.registry("bind", self.compute.address)
        if funds:
            self.mor("mint", self.compute.address, funds)
        self.keys = list(keys or (Key(bytes([1, index]) * 16) for index in range(1, len(stakes) + 1)))
        for key, stake in zip(self.keys, stakes, strict=True):
            self.stake(key.address, stake)
        self.root: Digest = self.registry("open_epoch")
        members = [Member(key.address, stake) for key, stake in zip(self.keys, stakes, strict=True)]
        self.committee = Committee.of(1, members)
        self.domain = Domain(self.chain.chain_id, self.compute.address)

    def stake(self, member: Address, amount: int) -> None:
        self.mor("mint", member, amount)
        self.mor("approve", self.registry.address, amount, sender=member)
        self.registry("stake", amount, sender=member)

    def deploy_compute(self, registry: Address) -> Contract:
        """A Compute Contract on the word of ``registry``'s committee."""
        arguments = compute_arguments(self.mor.address, registry, self.economics, GOVERNOR, DELAY_S)
        return self.chain.deploy("compute", *arguments)

    def deploy_source(self, funds: int) -> Contract:
        """An emission source that holds ``funds`` wei, bound to the Compute Contract."""
        fields = msgspec.structs.astuple(self.economics.schedule)
        source = self.chain.deploy("emission_source", self.mor.address, self.compute.address, fields)
        self.mor("mint", source.address, funds)
        self.compute("bind_source", source.address)
        return source

    def header(
        self, height: int, credits: Mapping[Address, int], slot: int | None = None, **changes: object
    ) -> BatchHeader:
        slot = height + 7 if slot is None else slot
        header = BatchHeader(
            height=height,
            slot=slot,
            day=slot // self.economics.day_slots,
            parent=Digest(keccak(b"parent")),
            body_root=Digest(keccak(b"body")),
            credit_root=merkle_root(credits),
            total_credited=Uint256(sum(credits.values())),
            bootstrap_credited=Uint256(0),
            state_root=Digest(keccak(b"state")),
            committee_root=self.root,
            beacon=Digest(keccak(b"beacon")),
            reveal=ZERO_DIGEST,
            proposer=self.keys[0].address,
        )
        return msgspec.structs.replace(header, **changes)

    def precommit(self, header: BatchHeader, round_: int = 0) -> Precommit:
        return Precommit(header.height, round_, batch_hash(header), header.committee_root)

    def sign(
        self, header: BatchHeader, keys: Sequence[Key] | None = None, round_: int = 0, domain: Domain | None = None
    ) -> list[Signature]:
        """Signatures of ``keys`` (all members by default), sorted by signer."""
        signers = sorted(self.keys if keys is None else keys, key=lambda key: key.address)
        value = digest(domain or self.domain, self.precommit(header, round_))
        return [key.sign_digest(value) for key in signers]

    def submit(self, header: BatchHeader, signatures: Sequence[bytes] | None = None, round_: int = 0) -> None:
        signed = self.sign(header, round_=round_) if signatures is None else signatures
        self.compute("submit", *certificate(header, round_, signed))

    def hand_over(
        self,
        members: Sequence[tuple[Address, int]],
        *,
        day: int = 1,
        signers: Sequence[Key] | None = None,
        domain: Domain | None = None,
        signed: Mapping[str, object] | None = None,
    ) -> Digest:
        """Hand over to ``members``; ``signed`` is what the signers (all members by default) sign otherwise."""
        following = Committee.of(self.committee.epoch + 1, [Member(*member) for member in members])
        message = HandOver(self.committee.epoch, day, self.committee.root, following.root)
        value = digest(domain or self.domain, msgspec.structs.replace(message, **(signed or {})))
        keys = sorted(self.keys if signers is None else signers, key=lambda key: key.address)
        signatures = [compact_signature(key.sign_digest(value)) for key in keys]
        addresses, stakes = [member for member, _ in members], [stake for _, stake in members]
        self.root = Digest(self.registry("hand_over", day, addresses, stakes, signatures))
        self.committee = following
        return self.root

    def claim(self, credits: Mapping[Address, int], provider: Address, height: int) -> int:
        proof = merkle_proof(credits, provider)
        return int(self.compute("claim", provider, credits[provider], height, proof))

    def balance(self, owner: Address) -> int:
        return int(self.mor("balanceOf", owner))
