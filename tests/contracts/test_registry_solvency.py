"""Every order of staking, leaving, slashing, handing over and rescuing, against a ledger of plain dicts."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.committee import Committee, Member
from contracts.bindings import evidence
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.base import sign
from gossip.messages.committee import Precommit
from tests.contracts.local_chain import RESCUE_DELAY_S, RESCUE_NOTICE_S, TERMS, UNBONDING_S, World, refused

FINDER = Address(b"\xf1" * 20)
KEYS = sorted((Key(bytes([1, number]) * 16) for number in range(1, 6)), key=lambda key: key.address)
KEY = st.sampled_from(KEYS)
SLASH_PERCENT, FINDER_PERCENT = 70, 10


class Stakes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        terms = (UNBONDING_S, SLASH_PERCENT, FINDER_PERCENT, *TERMS[3:])
        self.world = World((100, 200, 300, 400), keys=KEYS[:4], terms=terms)
        self.bonded = {key.address: stake for key, stake in zip(KEYS, (100, 200, 300, 400, 0), strict=True)}
        self.leaving = dict.fromkeys(self.bonded, 0)
        self.slashed: set[Address] = set()
        self.forfeited = self.rewards = self.withdrawn = 0
        self.deposited = 1_000
        self.height = 0

    def weighs(self, member: Address) -> bool:
        return self.world.committee.weight(member) > 0

    @rule(key=KEY, amount=st.integers(1, 500))
    def stake(self, key: Key, amount: int) -> None:
        if key.address in self.slashed:
            with refused("registry: slashed"):
                self.world.stake(key.address, amount)
            return
        self.world.stake(key.address, amount)
        self.bonded[key.address] += amount
        self.deposited += amount

    @rule(key=KEY, percent=st.integers(1, 100))
    def unstake(self, key: Key, percent: int) -> None:
        amount = self.bonded[key.address] * percent // 100
        if amount == 0:
            return
        self.world.registry("unstake", amount, sender=key.address)
        self.bonded[key.address] -= amount
        self.leaving[key.address] += amount

    @rule(key=KEY)
    def withdraw_after_the_wait(self, key: Key) -> None:
        self.world.chain.pass_time(UNBONDING_S)
        member = key.address
        if self.leaving[member] == 0:
            with refused("registry: nothing to withdraw"):
                self.world.registry("withdraw", sender=member)
        elif self.weighs(member):
            with refused("registry: still in the committee"):
                self.world.registry("withdraw", sender=member)
        else:
            self.world.registry("withdraw", sender=member)
            self.withdrawn += self.leaving[member]
            self.leaving[member] = 0

    @rule(key=KEY)
    def slash(self, key: Key) -> None:
        member = key.address
        self.height += 1
        votes = [
            sign(Precommit(self.height, 0, Digest(value * 32), self.world.root), key, self.world.domain)
            for value in (b"1", b"2")
        ]
        forfeited = (self.bonded[member] + self.leaving[member]) * SLASH_PERCENT // 100
        if forfeited == 0:
            with refused("registry: nothing to slash"):
                self.world.registry("slash", *evidence(member, *votes), sender=FINDER)
            return
        reward = self.world.registry("slash", *evidence(member, *votes), sender=FINDER)
        assert reward == forfeited * FINDER_PERCENT // 100
        self.leaving[member] += self.bonded[member] - forfeited
        self.bonded[member] = 0
        self.forfeited += forfeited
        self.rewards += reward
        self.slashed.add(member)

    @precondition(lambda self: any(self.bonded.values()))
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        staked = sorted(member for member, stake in self.bonded.items() if stake)
        chosen = data.draw(st.sets(st.sampled_from(staked), min_size=1))
        signers = [key for key in KEYS if self.weighs(key.address)]
        self.world.hand_over([(member, self.bonded[member]) for member in sorted(chosen)], signers=signers)

    @precondition(lambda self: any(self.bonded.values()))
    @rule()
    def rescue(self) -> None:
        self.world.chain.pass_time(RESCUE_DELAY_S)
        self.world.registry("announce_rescue")
        self.world.chain.pass_time(RESCUE_NOTICE_S)
        members = [Member(member, stake) for member, stake in self.bonded.items() if stake]
        self.world.committee = Committee.of(self.world.committee.epoch + 1, members)
        self.world.root = self.world.registry("rescue")
        assert self.world.root == self.world.committee.root

    @invariant()
    def the_registry_holds_what_it_owes(self) -> None:
        registry = self.world.registry
        held = self.world.balance(registry.address)
        assert held == sum(self.bonded.values()) + sum(self.leaving.values()) + self.forfeited - self.rewards
        assert held == self.deposited - self.withdrawn - self.rewards
        assert registry("forfeited_total") == self.forfeited - self.rewards
        assert self.world.balance(FINDER) == self.rewards

    @invariant()
    def stakes_and_candidates_are_exact(self) -> None:
        registry = self.world.registry
        assert {member: registry("stake_of", member) for member in self.bonded} == self.bonded
        assert {member: registry("unbonding", member)[0] for member in self.leaving} == self.leaving
        staked = sorted((member, stake) for member, stake in self.bonded.items() if stake)
        addresses, stakes = registry("candidates")
        assert list(zip(addresses, stakes, strict=True)) == [("0x" + member.hex(), stake) for member, stake in staked]
        assert {member for member in self.bonded if registry("is_slashed", member)} == self.slashed

    @invariant()
    def the_committee_is_the_newest_alone(self) -> None:
        registry, root = self.world.registry, self.world.committee.root
        assert registry("committee_root") == root
        assert registry("frozen_total", root) == self.world.committee.total
        for epoch in range(1, self.world.committee.epoch):
            assert registry("frozen_total", registry("root_of", epoch)) == 0


TestStakes = Stakes.TestCase
TestStakes.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
