"""Put a network's contracts on a chain, one step after another, and check afterwards that they stand there.

Token, registry, Compute Contract, emission source, then the two bindings between them. What has been placed is handed
to ``save`` after each step, and so is each transaction before it leaves: a deployment that was interrupted anywhere
goes on where it stopped and pays for nothing twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from contracts.artifacts import Artifact, load_artifact
from contracts.bindings import (
    GOVERNANCE_DELAY_S,
    RESCUE_DELAY_S,
    RESCUE_NOTICE_S,
    Compute,
    EmissionSource,
    Mor,
    Registry,
    compute_arguments,
)
from contracts.budget import Economics
from contracts.client import ChainClient, Sent, created_address
from contracts.errors import ChainUnavailable, CodeDiffers
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest


class RegistryTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a registry is deployed with: seconds, and whole percent."""

    unbonding_s: int = 1_814_400
    """How long unstaked MOR waits, three weeks by default: the window in which evidence can still be brought."""
    slash_percent: int = 100
    finder_percent: int = 5
    rescue_delay_s: int = RESCUE_DELAY_S
    rescue_notice_s: int = RESCUE_NOTICE_S


class Placed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A contract on the chain, and its constructor's arguments, ABI-encoded."""

    address: Address
    arguments: bytes


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A contract whose creating transaction may have left, while nobody has seen it mined."""

    name: str
    nonce: int
    """The deployer's: with its address it makes the contract's."""
    tx_hash: Digest
    """Of the newest version; one with a lower fee may be mined instead."""
    arguments: bytes


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a deployment has placed so far, by contract name."""

    chain_id: int
    deployer: Address
    mor: Address | None = None
    """The token, whoever deployed it."""
    genesis_s: int = 0
    """When slot 0 begins, Unix seconds; 0 before the Compute Contract's transaction is made."""
    contracts: Mapping[str, Placed] = {}
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """What is to be deployed. ``economics`` is asked once the genesis, Unix seconds, is known.

    ``mor`` None deploys a token of a test network, which its deployer can mint.
    """

    economics: Callable[[int], Economics]
    mor: Address | None = None
    registry: RegistryTerms = field(default_factory=RegistryTerms)
    governor: Address = ZERO_ADDRESS
    governance_delay_s: int = GOVERNANCE_DELAY_S
    has_source: bool = True
    genesis_s: int = 0
    """0: the chain's time when the Compute Contract is deployed."""


def ignore(_: object) -> None:
    """For callers that keep no file and say nothing."""


@dataclass
class Deployer:
    """Carries out one plan with one key. Every step raises :class:`~contracts.errors.ContractsError`."""

    client: ChainClient
    key: Key
    plan: DeploymentPlan
    done: Placement
    save: Callable[[Placement], None] = ignore
    note: Callable[[str], None] = field(default=ignore)

    def run(self) -> Placement:
        """All steps that are not done yet. A transaction of an earlier run comes first."""
        self.recover()
        for step in (self.token, self.registry, self.compute, self.source, self.bind):
            step()
        return self.done

    def recover(self) -> None:
        """Find out what became of a transaction that an earlier run announced and didn't see mined.

        What it created is placed, after a look at the code. One that still waits in the pool is waited for. One that
        created nothing, or that no pool knows, is forgotten: the step is done again, in the latter case with the same
        nonce, so that at most one of the two is ever mined.
        """
        pending = self.done.pending
        if pending is None:
            return
        what = f"deployment of {pending.name}"
        mined, pooled = self.client.transaction_counts(self.key.address)
        if mined <= pending.nonce < pooled:
            self.note(f"waiting for the {what} that an earlier run sent")
            sent = Sent(pending.nonce, pending.tx_hash)
            self.client.resume(self.key, sent, what, self._announcing(pending))
        address = created_address(self.key.address, pending.nonce)
        if not self.client.code(address):
            self._keep(pending=None)
            return
        contracts = {**self.done.contracts, pending.name: Placed(address, pending.arguments)}
        found = msgspec.structs.replace(self.done, contracts=contracts, pending=None)
        check_code(self.client, found, pending.name, load_artifact(pending.name))
        self.note(f"found {pending.name}, which an earlier run deployed")
        self._keep(contracts=contracts, pending=None)

    def token(self) -> Mor:
        """The plan's token, or a new one."""
        if self.done.mor is None:
            address = self.plan.mor
            if address is None:
                address = self._place("mor")
            elif not self.client.code(address):
                raise CodeDiffers("mor", address, "there is no contract")
            self._keep(mor=address)
        return Mor(self.client, self._needed("mor", self.done.mor))

    def registry(self) -> Registry:
        """The registry, once the token stands."""
        arguments = (self._needed("mor", self.done.mor), *msgspec.structs.astuple(self.plan.registry))
        return Registry(self.client, self._place("registry", *arguments))

    def compute(self) -> Compute:
        """The Compute Contract, whose clock begins with it."""
        genesis_s = self.plan.genesis_s or self.done.genesis_s or self.client.block_timestamp()
        arguments = compute_arguments(
            self._needed("mor", self.done.mor),
            self.registry().address,
            self.plan.economics(genesis_s),
            self.plan.governor,
            self.plan.governance_delay_s,
        )
        return Compute(self.client, self._place("compute", *arguments, genesis_s=genesis_s))

    def source(self) -> EmissionSource | None:
        """An emission source that holds nothing yet, where the plan has one."""
        if not self.plan.has_source:
            return None
        compute = self.compute().address
        schedule = msgspec.structs.astuple(self.plan.economics(self.done.genesis_s).schedule)
        arguments = (self._needed("mor", self.done.mor), compute, schedule)
        return EmissionSource(self.client, self._place("emission_source", *arguments))

    def bind(self) -> None:
        """Tell the registry of the Compute Contract, and that of its source, where they don't know yet."""
        registry, compute, source = self.registry(), self.compute(), self.source()
        if source is not None and compute.source() != source.address:
            self.note("binding the emission source to the Compute Contract")
            compute.bind_source(self.key, source.address)
        if registry.compute() != compute.address:
            self.note("binding the Compute Contract to the registry")
            registry.bind(self.key, compute.address)

    def _place(self, name: str, *arguments: object, genesis_s: int = 0) -> Address:
        """The contract's address, once it stands. Raises :class:`CodeDiffers` where other parameters made it."""
        artifact = load_artifact(name)
        encoded = artifact.encode_deployment(*arguments)[len(bytes.fromhex(artifact.bytecode)) :]
        if (held := self.done.contracts.get(name)) is not None:
            if held.arguments != encoded:
                raise CodeDiffers(name, held.address, "it was deployed with other parameters than are wanted now")
            return held.address
        self.note(f"deploying {name}")
        self.done = msgspec.structs.replace(self.done, genesis_s=genesis_s or self.done.genesis_s)
        announce = self._announcing(Pending(name, 0, ZERO_DIGEST, encoded))
        address = self.client.deploy(self.key, name, *arguments, announce=announce)
        self._keep(contracts={**self.done.contracts, name: Placed(address, encoded)}, pending=None)
        return address

    def _announcing(self, pending: Pending) -> Callable[[Sent], None]:
        """Saves under which nonce and hash a transaction leaves, before it does."""

        def announce(sent: Sent) -> None:
            self._keep(pending=msgspec.structs.replace(pending, nonce=sent.nonce, tx_hash=sent.tx_hash))

        return announce

    def _keep(self, **changes: object) -> None:
        self.done = msgspec.structs.replace(self.done, **changes)
        self.save(self.done)

    def _needed(self, name: str, address: Address | None) -> Address:
        if address is None:
            raise CodeDiffers(name, b"", "it must be deployed first")
        return address


def check_code(client: ChainClient, deployment: Placement, name: str, artifact: Artifact) -> None:
    """Compare what stands on the chain with ``artifact``, immutables included.

    The chain itself is asked what the artifact's bytecode would leave there with the arguments that were recorded, if
    the deployer sent it. Raises :class:`CodeDiffers`, and :class:`~contracts.errors.ChainUnavailable`.
    """
    placed = deployment.contracts[name]
    found = client.code(placed.address)
    if not found:
        raise CodeDiffers(name, placed.address, "there is no contract")
    data = bytes.fromhex(artifact.bytecode) + placed.arguments
    expected = client.would_create(data, deployment.deployer, f"a trial deployment of {name}")
    if not expected:
        raise ChainUnavailable(client.url, f"it does not tell what a deployment of {name} would leave behind")
    if found != expected:
        raise CodeDiffers(name, placed.address, _difference(found, expected, len(artifact.runtime) // 2))


def _difference(found: bytes, expected: bytes, code_bytes: int) -> str:
    if len(found) != len(expected):
        return f"{len(found)} bytes of code, {len(expected)} were expected"
    place = next(number for number, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    what = "the code" if place < code_bytes else "what was fixed at deployment"
    return f"{what} differs, first at byte {place}"
