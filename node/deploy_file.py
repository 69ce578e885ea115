"""deploy.toml, what a network's contracts are deployed with, and the address file that says where they stand.

::

    name = "yellowstone"
    rpc_url = "http://127.0.0.1:8545"
    key = "keys/deployer.json"            # a MOR key that pays for gas; beside it, if you like, password_file
    reference_price_wei = 90000000000     # of the genesis day, in wei per T
    mor = "0x…"                           # the token; left out: a mintable one for test networks
    listed = ["0x…"]                      # ids of the models that are payable from the start (`yellowstone model hash`)

    [registry]                            # unbonding_s, slash_percent, finder_percent, rescue_delay_s, rescue_notice_s
    [params]                              # as in network.toml: slot_ms, day_slots, budget_policy, endowment_mor, …
    [governance]                          # governor = "0x…", delay_s; left out: nobody can ever change anything
"""

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from consensus.params import NetworkParams, economics_of
from contracts.artifacts import CONTRACT_NAMES
from contracts.bindings import GOVERNANCE_DELAY_S
from contracts.deployment import DeploymentPlan, Pending, Placed, Placement, RegistryTerms
from contracts.errors import ContractsError
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest
from node import settings
from node.errors import ConfigInvalid
from node.files import write_atomic
from node.network_file import HexAddress, HexDigest, Wei, check_listed, check_params, from_text, to_hex

_PERCENT = 100

SHORTEST_DELAY_S = 86_400
"""A day: the Compute Contract takes no governor that could be seen coming for less."""


class _Governance(msgspec.Struct, forbid_unknown_fields=True):
    governor: HexAddress
    delay_s: int = GOVERNANCE_DELAY_S


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file's own shape."""

    name: str
    rpc_url: str
    key: str
    reference_price_wei: Wei
    password_file: str | None = None
    mor: HexAddress | None = None
    has_source: bool = True
    genesis_s: int = 0
    registry: RegistryTerms = RegistryTerms()
    governance: _Governance | None = None
    params: NetworkParams = NetworkParams()
    listed: list[HexDigest] = []


class DeployFile(msgspec.Struct, frozen=True, kw_only=True):
    """deploy.toml, read and checked; paths are from its folder."""

    name: str
    rpc_url: str
    key: Path
    password_file: Path | None
    reference_price_wei: int
    params: NetworkParams
    mor: Address | None
    registry: RegistryTerms
    governor: Address
    governance_delay_s: int
    has_source: bool
    genesis_s: int
    listed: tuple[Digest, ...]

    def plan(self) -> DeploymentPlan:
        """What the deployer carries out."""
        return DeploymentPlan(
            partial(economics_of, self.params),
            mor=self.mor,
            registry=self.registry,
            governor=self.governor,
            governance_delay_s=self.governance_delay_s,
            has_source=self.has_source,
            genesis_s=self.genesis_s,
        )


def load_deploy_file(path: Path) -> DeployFile:
    """Read and check deploy.toml. Raises :class:`ConfigInvalid`, naming the key and the offending value."""
    file = settings.convert(path, settings.read(path), _File, from_text)
    governance = file.governance
    found = DeployFile(
        name=file.name,
        rpc_url=file.rpc_url,
        key=path.parent / file.key,
        password_file=None if file.password_file is None else path.parent / file.password_file,
        reference_price_wei=int(file.reference_price_wei),
        params=file.params,
        mor=None if file.mor is None else Address(bytes(file.mor)),
        registry=file.registry,
        governor=ZERO_ADDRESS if governance is None else Address(bytes(governance.governor)),
        governance_delay_s=GOVERNANCE_DELAY_S if governance is None else governance.delay_s,
        has_source=file.has_source,
        genesis_s=file.genesis_s,
        listed=tuple(Digest(bytes(model)) for model in file.listed),
    )
    _check(path, found)
    return found


def check_opening(path: Path, file: DeployFile, genesis_s: int) -> None:
    """Whether a network that begins at ``genesis_s`` can open its first day; to be asked before gas is paid.

    Raises :class:`ConfigInvalid`: a day without a budget has no AccessRate, and nothing can be changed afterwards.
    """
    if economics_of(file.params, genesis_s).budget(0, 0) <= 0:
        reason = (
            "the first day would have no budget: name an endowment_mor and pay it in before genesis, or let the "
            "emission begin earlier (emission_start_s)"
        )
        raise ConfigInvalid(path, "params.endowment_mor", reason)


def _check(path: Path, file: DeployFile) -> None:
    """What types alone don't say, and the contracts would refuse only once gas was paid."""
    if not file.rpc_url.startswith(("http://", "https://")):
        raise ConfigInvalid(path, "rpc_url", f"{file.rpc_url!r} is no http or https address")
    if file.reference_price_wei <= 0:
        raise ConfigInvalid(path, "reference_price_wei", f"{file.reference_price_wei} is not positive")
    check_params(path, file.params)
    check_listed(path, file.listed, file.params)
    if file.params.slot_ms * file.params.day_slots % 1_000:
        raise ConfigInvalid(path, "params.day_slots", "a day must be whole seconds")
    for key in ("unbonding_s", "rescue_delay_s", "rescue_notice_s"):
        if (value := getattr(file.registry, key)) <= 0:
            raise ConfigInvalid(path, f"registry.{key}", f"{value} is not positive")
    for key in ("slash_percent", "finder_percent"):
        if not 0 <= (value := getattr(file.registry, key)) <= _PERCENT:
            raise ConfigInvalid(path, f"registry.{key}", f"{value} is not a percentage")
    for key in ("genesis_s", "governance_delay_s"):
        if (value := getattr(file, key)) < 0:
            raise ConfigInvalid(path, key, f"{value} is negative")
    if file.governor != ZERO_ADDRESS and file.governance_delay_s < SHORTEST_DELAY_S:
        reason = f"{file.governance_delay_s} would let the governor act unseen; {SHORTEST_DELAY_S} is the least"
        raise ConfigInvalid(path, "governance.delay_s", reason)
    try:
        economics_of(file.params, file.genesis_s or 1).budget(0, 0)
    except ContractsError as error:
        raise ConfigInvalid(path, "params", str(error)) from error


class _PlacedText(msgspec.Struct, forbid_unknown_fields=True):
    address: HexAddress
    arguments: str


class _PendingText(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    nonce: int
    tx_hash: str
    arguments: str


class _PlacementText(msgspec.Struct, forbid_unknown_fields=True):
    chain_id: int
    deployer: HexAddress
    mor: HexAddress | None = None
    genesis_s: int = 0
    contracts: dict[str, _PlacedText] = {}
    pending: _PendingText | None = None


def write_placement(path: Path, placement: Placement) -> None:
    """Write the address file, readable by all."""
    text: dict[str, Any] = {
        "chain_id": placement.chain_id,
        "deployer": to_hex(placement.deployer),
        "mor": None if placement.mor is None else to_hex(placement.mor),
        "genesis_s": placement.genesis_s,
        "contracts": {
            name: {"address": to_hex(placed.address), "arguments": placed.arguments.hex()}
            for name, placed in placement.contracts.items()
        },
    }
    if (pending := placement.pending) is not None:
        text["pending"] = {
            "name": pending.name,
            "nonce": pending.nonce,
            "tx_hash": to_hex(pending.tx_hash),
            "arguments": pending.arguments.hex(),
        }
    write_atomic(path, msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n", mode=0o644)


def read_placement(path: Path) -> Placement | None:
    """The address file; None where there is none. Raises :class:`ConfigInvalid` for anything else."""
    try:
        document = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigInvalid(path, "", f"is no address file: {error}") from error
    found = settings.convert(path, document, _PlacementText, from_text)
    contracts = {
        name: Placed(Address(bytes(one.address)), _from_hex(path, one.arguments))
        for name, one in found.contracts.items()
    }
    mor = None if found.mor is None else Address(bytes(found.mor))
    pending = None if found.pending is None else _pending(path, found.pending)
    return Placement(found.chain_id, Address(bytes(found.deployer)), mor, found.genesis_s, contracts, pending)


def _pending(path: Path, text: _PendingText) -> Pending:
    tx_hash = _from_hex(path, text.tx_hash.removeprefix("0x"))
    if len(tx_hash) != len(ZERO_DIGEST):
        raise ConfigInvalid(path, "pending.tx_hash", f"{text.tx_hash!r} is no transaction's hash")
    if text.name not in CONTRACT_NAMES or text.nonce < 0:
        raise ConfigInvalid(path, "pending", f"{text.name!r} with nonce {text.nonce} is no deployment")
    return Pending(text.name, text.nonce, Digest(tx_hash), _from_hex(path, text.arguments))


def _from_hex(path: Path, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigInvalid(path, "contracts", f"{text!r} is not hex: {error}") from error
