"""The contracts in an in-process EVM: they must accept what a simulated committee has decided, and pay for it.

Apart from the rest of the simulator because the EVM is a library for development only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import boa
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError

from contracts.artifacts import load_artifact
from contracts.bindings import certificate, compact_signature, compute_arguments
from contracts.budget import Economics, Schedule
from contracts.merkle import merkle_proof
from contracts.typed_data import Address
from gossip.messages.committee import CertifiedBatch, DrawnMember, HandOverCertificate, Rescue
from testnet.simulator.errors import Violation
from testnet.simulator.setting import DOMAIN, Setting

DEPLOYER = Address(b"\xdd" * 20)
GOVERNOR = Address(b"\x60" * 20)
FUNDS_WEI = 10_000_000 * 10**18
RESCUE_DELAY_S = 7_200
RESCUE_NOTICE_S = 600
REGISTRY_TERMS = (3_600, 100, 5, RESCUE_DELAY_S, RESCUE_NOTICE_S)
"""Unbonding (s), what slashing takes and its finder gets (percent), delay and notice of a rescue (s)."""

PAST_S = 100_000
"""So long before the contracts are there slot 0 began: a run's slots are all over by then."""

SLOT_MS = 1_000


class Contracts:
    """MOR, registry and Compute Contract for one run."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._env: Any = boa.Env()
        self._env.evm.patch.chain_id = DOMAIN.chain_id
        mor = self._deploy("mor")
        registry = self._deploy("registry", mor, *REGISTRY_TERMS)
        genesis_s = int(self._env.evm.patch.timestamp) - PAST_S
        schedule = Schedule(200_000 * 10**18, 1_000 * 10**18, payout_start_s=genesis_s, interval_s=10)
        day_slots = setting.terms.params.day_slots
        economics = Economics(schedule, genesis_s, SLOT_MS, day_slots, endowment_wei=FUNDS_WEI)
        compute = self._deploy("compute", *compute_arguments(mor, registry, economics, GOVERNOR, 1_000))
        if compute != setting.terms.domain.contract:
            raise Violation("contract", f"it lies at 0x{compute.hex()}, not where the domain says")
        self._at = {"mor": mor, "registry": registry, "compute": compute}
        self._call("registry", "bind", compute)
        self._call("mor", "mint", compute, FUNDS_WEI)
        for member in setting.committee.members:
            self._stake(member.address, member.stake)
        self._call("registry", "open_epoch")

    def check(self, batches: Sequence[CertifiedBatch], credits: Mapping[Address, int]) -> None:
        """Submit ``batches`` in order, hand over and rescue where they do, and claim ``credits``, all that was earned.

        Raises :class:`Violation` where the contracts refuse or pay something else.
        """
        drawn: Sequence[DrawnMember] = ()
        for batch in batches:
            if batch.body.rescue is not None:
                self._rescue(batch.body.rescue)
            signatures = list(batch.certificate.signatures)
            self._call("compute", "submit", *certificate(batch.header, batch.certificate.round, signatures))
            if batch.body.opening is not None and batch.body.opening.drawn:
                drawn = batch.body.opening.drawn
            if batch.body.hand_over is not None:
                self._hand_over(drawn, batch.body.hand_over)
        if batches:
            self._claim(batches[-1], credits)

    def _rescue(self, told: Rescue) -> None:
        """Let hours pass; whoever the batch names has staked meanwhile, and is a candidate."""
        self._raise(told.members)
        self._env.evm.patch.timestamp += RESCUE_DELAY_S
        self._call("registry", "announce_rescue")
        self._env.evm.patch.timestamp += RESCUE_NOTICE_S
        self._call("registry", "rescue")

    def _raise(self, members: Sequence[DrawnMember]) -> None:
        for member in members:
            held = self._call("registry", "stake_of", member.address)
            if member.stake > held:
                self._stake(member.address, member.stake - held)

    def _hand_over(self, drawn: Sequence[DrawnMember], signed: HandOverCertificate) -> None:
        self._raise(drawn)
        self._call(
            "registry",
            "hand_over",
            signed.hand_over.day,
            [member.address for member in drawn],
            [int(member.stake) for member in drawn],
            [compact_signature(signature) for signature in signed.signatures],
        )

    def _claim(self, batch: CertifiedBatch, credits: Mapping[Address, int]) -> None:
        """Whoever earned anything, under whichever committee, is paid on the word of the last one."""
        for provider, wei in credits.items():
            proof = merkle_proof(credits, provider)
            paid = self._call("compute", "claim", provider, wei, batch.header.height, proof)
            if paid != wei or self._call("mor", "balanceOf", provider) != wei:
                raise Violation("contract", f"0x{provider.hex()} was paid {paid} wei, not {wei}")

    def _stake(self, member: Address, wei: int) -> None:
        self._call("mor", "mint", member, wei)
        self._call("mor", "approve", self._at["registry"], wei, sender=member)
        self._call("registry", "stake", wei, sender=member)

    def _deploy(self, name: str, *arguments: object) -> Address:
        data = load_artifact(name).encode_deployment(*arguments)
        address, done = self._env.deploy(bytecode=data, sender=_hex(DEPLOYER))
        _check(name, "deployment", done)
        return Address(address.canonical_address)

    def _call(self, name: str, function: str, *arguments: object, sender: Address = DEPLOYER) -> Any:
        artifact = load_artifact(name)
        data = artifact.encode_call(function, *arguments)
        done = self._env.execute_code(to_address=_hex(self._at[name]), sender=_hex(sender), data=data)
        _check(name, function, done)
        values = artifact.decode_result(function, done.output)
        return values[0] if len(values) == 1 else values


def _check(name: str, function: str, done: Any) -> None:
    if not done.is_error:
        return
    output = bytes(done.output)
    try:
        reason = str(abi_decode(["string"], output[4:])[0])
    except DecodingError:
        reason = f"0x{output.hex()}"
    raise Violation("contract", f"{name}.{function} was refused: {reason}")


def _hex(address: Address) -> str:
    return "0x" + address.hex()
