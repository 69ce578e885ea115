"""The contracts as a second judge: in an EVM in this process they get what a simulated committee decided."""

import dataclasses
from collections.abc import Mapping, Sequence

from contracts.bindings import GOVERNANCE_DELAY_S, certificate, compact_signature, compute_arguments
from contracts.budget import Economics, Schedule
from contracts.merkle import merkle_proof
from contracts.typed_data import Address, Domain
from gossip.messages.committee import CertifiedBatch, DrawnMember
from testnet.evm import LocalChain, Refused
from testnet.simulator.errors import Violation
from testnet.simulator.faults import FaultPlan, draw_plan
from testnet.simulator.setting import PARAMS, WEI, make_setting
from testnet.simulator.simulation import Result, Simulation

_REGISTRY_TERMS = (3_600, 100, 5, 7_200, 600)
"""Unbonding in seconds, percent slashed and to the finder, rescue's delay and notice in seconds."""

_FUNDS_WEI = 10_000 * WEI
_GOVERNOR = Address(b"\x60" * 20)
_PAST_S = 100_000
"""The network's slot 0 is so long ago that all slots of a run have ended."""


class ContractJudge:
    """Registry and Compute Contract of one committee, on a chain of their own."""

    def __init__(self, plan: FaultPlan, members: int) -> None:
        """Raises :class:`~testnet.errors.TestnetError` where there is no EVM to be had."""
        chain = LocalChain()
        self._mor = chain.deploy("mor")
        self._registry = chain.deploy("registry", self._mor.address, *_REGISTRY_TERMS)
        arguments = compute_arguments(
            self._mor.address,
            self._registry.address,
            self._economics(plan, members, chain.now_s),
            _GOVERNOR,
            GOVERNANCE_DELAY_S,
        )
        self._compute = chain.deploy("compute", *arguments)
        self._registry("bind", self._compute.address)
        self._mor("mint", self._compute.address, _FUNDS_WEI)
        self.setting = make_setting(members, Domain(chain.chain_id, self._compute.address), people=plan.people)
        self._stake(range(members))
        self._registry("open_epoch")
        self._stake(self.setting.spares)

    def judge(self, batches: Sequence[CertifiedBatch], credits: Mapping[Address, int] | None = None) -> int:
        """Submit what was decided, in order, and what the committees handed over; how many batches were taken.

        ``credits`` are all that was earned by then, under whichever committee: claimed on the last one's word.

        Ends with the first batch of a rescued committee: the registry's own rescue takes days. Raises
        :class:`Violation` where the contracts refuse anything, or end with other sums.
        """
        taken = 0
        drawn: tuple[DrawnMember, ...] = ()
        for batch in batches:
            if batch.body.rescue is not None:
                break
            drawn = self._submit(batch, drawn)
            taken += 1
        if taken:
            last = batches[taken - 1].header
            found = self._compute("latest_height"), self._compute("credited_total")
            if found != (last.height, last.total_credited):
                raise Violation("contract", f"{found} where {last.height} and {last.total_credited} were decided")
            if credits is not None and taken == len(batches):
                self._claim(credits, last.height)
        return taken

    def _submit(self, batch: CertifiedBatch, drawn: tuple[DrawnMember, ...]) -> tuple[DrawnMember, ...]:
        """Who waits to take over after it."""
        opening, handed = batch.body.opening, batch.body.hand_over
        signatures = list(batch.certificate.signatures)
        try:
            self._compute("submit", *certificate(batch.header, batch.certificate.round, signatures))
            if handed is not None:
                signed = [compact_signature(signature) for signature in handed.signatures]
                members, stakes = [one.address for one in drawn], [int(one.stake) for one in drawn]
                self._registry("hand_over", handed.hand_over.day, members, stakes, signed)
                drawn = ()
        except Refused as error:
            raise Violation("contract", f"height {batch.header.height}: {error.reason}") from error
        return opening.drawn if opening is not None and opening.drawn else drawn

    def _claim(self, credits: Mapping[Address, int], height: int) -> None:
        for provider, wei in credits.items():
            try:
                self._compute("claim", provider, wei, height, merkle_proof(credits, provider))
            except Refused as error:
                raise Violation("contract", f"claim of 0x{provider.hex()}: {error.reason}") from error
            if (paid := self._mor("balanceOf", provider)) != wei:
                raise Violation("contract", f"0x{provider.hex()} was paid {paid} wei, not {wei}")

    @staticmethod
    def _economics(plan: FaultPlan, members: int, now_s: int) -> Economics:
        """A formula that allows more than any run credits: what is judged here are certificates."""
        params = make_setting(members, people=plan.people).terms.params
        genesis_s = now_s - _PAST_S
        ample = Schedule(200_000 * WEI, 1_000 * WEI, payout_start_s=genesis_s, interval_s=10)
        return Economics(
            ample,
            genesis_s=genesis_s,
            slot_ms=params.slot_ms,
            day_slots=params.day_slots,
            endowment_wei=10_000_000 * WEI,
        )

    def _stake(self, numbers: Sequence[int]) -> None:
        setting = self.setting
        for number in numbers:
            member, amount = setting.keys[number].address, setting.people.stakes[number] * WEI
            self._mor("mint", member, amount)
            self._mor("approve", self._registry.address, amount, sender=member)
            self._registry("stake", amount, sender=member)


def simulate_and_judge(name: str, seed: int, members: int, slots: int) -> tuple[Result, int]:
    """As :func:`~testnet.simulator.simulation.simulate`, with the contracts as judges of what was decided.

    Also how many batches they took. Raises as they do.
    """
    plan = draw_plan(name, seed, members, slots, PARAMS.slot_ms)
    judge = ContractJudge(plan, members)
    simulation = Simulation(judge.setting, plan, seed, slots)
    result = simulation.run()
    if result.violation is not None:
        return result, 0
    try:
        furthest = max(simulation.nodes, key=lambda node: len(node.disk.batches))
        return result, judge.judge(furthest.disk.batches, furthest.ledger.credits)
    except Violation as error:
        return dataclasses.replace(result, violation=error), 0
