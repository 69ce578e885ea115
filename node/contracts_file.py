"""contracts.toml: what a network's contracts are deployed with. Reading checks every value and names the first bad one.

Seconds, percent and wei; ``[params]`` is network.toml's, so that the contract and the nodes can't differ.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from consensus.params import NetworkParams, economics_of
from contracts.bindings import GOVERNANCE_DELAY_S, RESCUE_DELAY_S, RESCUE_NOTICE_S
from contracts.budget import Economics
from contracts.deploy import RegistryTerms
from contracts.typed_data import ZERO_ADDRESS, Address
from node import settings
from node.errors import ConfigInvalid
from node.network_file import check_params

SHORTEST_DELAY_S = 86_400
"""A governor's changes can be seen coming for a day at the least."""


class _HexAddress(bytes):
    """``0x`` and 40 hex digits in the file."""


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: _HexAddress | None = None
    """MOR on this chain; without it a test network's own is deployed."""


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["transfer", "deploy", "existing"] = "transfer"
    """Emission comes by plain transfer, from a source that is deployed for tests, or from one that is there."""
    address: _HexAddress | None = None


class _Registry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unbonding_s: int
    slash_percent: int = 100
    finder_percent: int = 5
    rescue_delay_s: int = RESCUE_DELAY_S
    rescue_notice_s: int = RESCUE_NOTICE_S


class _Governance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    governor: _HexAddress | None = None
    """Who may announce another emission source or governor; nobody where it is left out."""
    delay_s: int = GOVERNANCE_DELAY_S


class ContractsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    name: str
    chain_id: int
    """The chain that is meant: no other is deployed to."""
    registry: _Registry
    genesis_s: int = 0
    """When slot 0 begins, Unix seconds; 0: when the Compute Contract is deployed."""
    reference_price_wei: int = 10**11
    """The genesis reference price, in wei per T, for network.toml."""
    token: _Token = _Token()
    source: _Source = _Source()
    governance: _Governance = _Governance()
    params: NetworkParams = NetworkParams()

    @property
    def registry_terms(self) -> RegistryTerms:
        """What the registry is deployed with."""
        return RegistryTerms(*msgspec.structs.astuple(self.registry))

    @property
    def token_address(self) -> Address | None:
        """MOR, where it is there already."""
        return None if self.token.address is None else Address(bytes(self.token.address))

    @property
    def source_address(self) -> Address | None:
        """The emission source, where it is there already."""
        return None if self.source.address is None else Address(bytes(self.source.address))

    @property
    def governor(self) -> Address:
        """The zero address for nobody."""
        found = self.governance.governor
        return ZERO_ADDRESS if found is None else Address(bytes(found))

    def economics(self, genesis_s: int) -> Economics:
        """What the Compute Contract enforces where slot 0 begins at ``genesis_s``."""
        return economics_of(self.params, genesis_s)


def load_contracts(path: Path) -> ContractsFile:
    """Read and check contracts.toml. Raises :class:`ConfigInvalid`, naming the key and the offending value."""
    file = settings.convert(path, settings.read(path), ContractsFile, _from_text)
    ranges = (
        ("chain_id", file.chain_id, 1, 2**63 - 1),
        ("genesis_s", file.genesis_s, 0, 2**40 - 1),
        ("reference_price_wei", file.reference_price_wei, 1, 2**63 - 1),
        ("registry.unbonding_s", file.registry.unbonding_s, 1, 2**40 - 1),
        ("registry.slash_percent", file.registry.slash_percent, 1, 100),
        ("registry.finder_percent", file.registry.finder_percent, 0, 100),
        ("registry.rescue_delay_s", file.registry.rescue_delay_s, 1, 2**40 - 1),
        ("registry.rescue_notice_s", file.registry.rescue_notice_s, 1, 2**40 - 1),
        ("governance.delay_s", file.governance.delay_s, SHORTEST_DELAY_S, 2**40 - 1),
        ("params.slot_ms", file.params.slot_ms, 1, 2**40 - 1),
        ("params.day_slots", file.params.day_slots, 1, 2**40 - 1),
        ("params.endowment_mor", file.params.endowment_mor, 0, 77_000_000),
    )
    for key, value, least, most in ranges:
        if not least <= value <= most:
            raise ConfigInvalid(path, key, f"{value} is not from {least} to {most}")
    if file.params.slot_ms * file.params.day_slots % 1_000:
        day_ms = file.params.slot_ms * file.params.day_slots
        raise ConfigInvalid(path, "params.day_slots", f"a day of {day_ms} ms is not a whole number of seconds")
    if (file.source.kind == "existing") != (file.source.address is not None):
        raise ConfigInvalid(path, "source.address", f"belongs to kind = 'existing', not to {file.source.kind!r}")
    if file.source.kind == "deploy" and file.token.address is not None:
        raise ConfigInvalid(path, "source.kind", "'deploy' is for a test network, whose token is deployed as well")
    check_params(path, file.params)
    return file


def _from_text(kind: type, value: Any) -> Any:
    if kind is not _HexAddress:
        raise ValueError(f"{value!r} can't be read")
    try:
        raw = bytes.fromhex(value.removeprefix("0x"))
    except (ValueError, AttributeError, TypeError):
        raw = b""
    if len(raw) != 20 or not value.startswith("0x") or not any(raw):
        raise ValueError(f"{value!r} is not an address: 0x and 40 hex digits")
    return _HexAddress(raw)
