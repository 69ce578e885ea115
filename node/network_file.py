"""network.toml: what every node of a network must agree on before it starts.

The file holds hex and decimal text; :class:`NetworkFile` holds bytes and integers. Reading checks all that can be
checked without a network, the signatures of beacon commitments included.
"""

from pathlib import Path
from typing import Any

import msgspec

from consensus.committee import Committee, Member
from consensus.market.ledger_state import Ledger, genesis_ledger
from consensus.market.listing import MAX_MODELS
from consensus.params import NetworkParams, Terms
from contracts.budget import BOOTSTRAP_INTERVALS
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.addresses import find_fault
from gossip.errors import MessageError
from gossip.messages import Signed, decode, encode
from gossip.messages.committee import MAX_RANK, MAX_RANKED, DayOpening, ProviderRank
from gossip.messages.market import MAX_RIVALS
from gossip.messages.records import BeaconCommitment
from node import settings, toml
from node.errors import ConfigInvalid
from node.files import write_atomic

MEMBERS_MAX = 64
"""A committee has at most so many members."""


class ContractAddresses(msgspec.Struct, frozen=True):
    """Where the network's three contracts are."""

    mor: Address
    registry: Address
    compute: Address


class NetworkFile(msgspec.Struct, frozen=True, kw_only=True):
    """A network's genesis. Amounts are wei, ``genesis_ms`` is Unix ms."""

    name: str
    genesis_ms: int
    chain_id: int
    contracts: ContractAddresses
    epoch: int
    members: tuple[Member, ...]
    params: NetworkParams = NetworkParams()
    snapshot_block: int
    supply_wei: int
    budget_wei: int
    reference_price_wei: int
    commitments: tuple[Signed[BeaconCommitment], ...] = ()
    """For day 0 and, where known, day 1."""
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs with ``/p2p/<peer id>``."""
    ranks: tuple[tuple[Address, int], ...] = ()
    """Providers' coarse ranks by MOR on day 0, for the variant of S44."""
    listed: tuple[Digest, ...] = ()
    """Ids of the models that are payable from day 0 on, where the network has a list (S8)."""

    def terms(self) -> Terms:
        """What pure rules need to know of this network."""
        return Terms(Domain(self.chain_id, self.contracts.compute), self.genesis_ms, self.params)

    def committee(self) -> Committee:
        """The committee of the first epoch, in canonical order."""
        return Committee.of(self.epoch, list(self.members))

    def opening(self) -> DayOpening:
        """What day 0 starts from."""
        ranks = tuple(ProviderRank(who, rank) for who, rank in sorted(self.ranks))
        return DayOpening(0, self.snapshot_block, Uint256(self.supply_wei), Uint256(self.budget_wei), ranks=ranks)

    def genesis(self) -> Ledger:
        """The state at height 0, that every node starts from. Raises as :func:`genesis_ledger`."""
        opening, price = self.opening(), self.reference_price_wei
        return genesis_ledger(self.terms(), self.committee(), opening, price, self.commitments, models=self.listed)


class HexAddress(bytes):
    """``0x`` and 40 hex digits in the file."""


class HexDigest(bytes):
    """``0x`` and 64 hex digits in the file."""


class _Hex(bytes):
    """Hex of any length in the file."""


class Wei(int):
    """An amount: an integer, or decimal text where other TOML readers would lose digits."""


class _Contracts(msgspec.Struct, forbid_unknown_fields=True):
    mor: HexAddress
    registry: HexAddress
    compute: HexAddress


class _Member(msgspec.Struct, forbid_unknown_fields=True):
    address: HexAddress
    stake_wei: Wei


class _Committee(msgspec.Struct, forbid_unknown_fields=True):
    members: list[_Member]
    epoch: int = 1


class _Rank(msgspec.Struct, forbid_unknown_fields=True):
    provider: HexAddress
    rank: int


class _Opening(msgspec.Struct, forbid_unknown_fields=True):
    snapshot_block: int
    supply_wei: Wei
    budget_wei: Wei
    ranks: list[_Rank] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file's own shape."""

    name: str
    genesis_ms: int
    chain_id: int
    reference_price_wei: Wei
    contracts: _Contracts
    committee: _Committee
    opening: _Opening
    params: NetworkParams = NetworkParams()
    commitments: list[_Hex] = []
    bootstrap: list[str] = []
    listed: list[HexDigest] = []


def load_network(path: Path) -> NetworkFile:
    """Read and check network.toml. Raises :class:`ConfigInvalid`, naming the key and the offending value."""
    file = settings.convert(path, settings.read(path), _File, from_text)
    network = NetworkFile(
        name=file.name,
        genesis_ms=file.genesis_ms,
        chain_id=file.chain_id,
        contracts=ContractAddresses(
            *(Address(bytes(one)) for one in (file.contracts.mor, file.contracts.registry, file.contracts.compute))
        ),
        epoch=file.committee.epoch,
        members=tuple(Member(Address(bytes(item.address)), int(item.stake_wei)) for item in file.committee.members),
        params=file.params,
        snapshot_block=file.opening.snapshot_block,
        supply_wei=int(file.opening.supply_wei),
        budget_wei=int(file.opening.budget_wei),
        reference_price_wei=int(file.reference_price_wei),
        commitments=tuple(_commitment(path, index, item) for index, item in enumerate(file.commitments)),
        bootstrap=tuple(file.bootstrap),
        ranks=tuple((Address(bytes(one.provider)), one.rank) for one in file.opening.ranks),
        listed=tuple(Digest(bytes(model)) for model in file.listed),
    )
    check_network(path, network)
    return network


def write_network(path: Path, network: NetworkFile) -> None:
    """Write network.toml, readable by all. Raises :class:`ConfigInvalid` where it could not be read back."""
    check_network(path, network)
    addresses = network.contracts
    document: dict[str, toml.Value] = {
        "name": network.name,
        "genesis_ms": network.genesis_ms,
        "chain_id": network.chain_id,
        "reference_price_wei": network.reference_price_wei,
        "bootstrap": list(network.bootstrap),
        "listed": [to_hex(model) for model in network.listed],
        "commitments": [encode(item).hex() for item in network.commitments],
        "contracts": {
            "mor": to_hex(addresses.mor),
            "registry": to_hex(addresses.registry),
            "compute": to_hex(addresses.compute),
        },
        "committee": {
            "epoch": network.epoch,
            "members": [{"address": to_hex(m.address), "stake_wei": str(m.stake)} for m in network.members],
        },
        "params": msgspec.to_builtins(network.params),
        "opening": {
            "snapshot_block": network.snapshot_block,
            "supply_wei": str(network.supply_wei),
            "budget_wei": str(network.budget_wei),
            "ranks": [{"provider": to_hex(who), "rank": rank} for who, rank in network.ranks],
        },
    }
    write_atomic(path, toml.dumps(document).encode(), mode=0o644)


def to_hex(value: bytes) -> str:
    """``value`` as :func:`from_text` reads it back."""
    return "0x" + value.hex()


def from_text(kind: type, value: Any) -> Any:
    """What :func:`node.settings.convert` makes of hex and decimal text."""
    if kind is Wei:
        if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
            raise ValueError(f"{value!r} is not an amount of wei")
        if int(value) < 0:
            raise ValueError(f"{value!r} is negative")
        return Wei(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not hex text")
    try:
        raw = bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise ValueError(f"{value!r} is not hex") from None
    if kind is HexAddress:
        if len(raw) != 20 or not value.startswith("0x"):
            raise ValueError(f"{value!r} is not an address: 0x and 40 hex digits")
        return HexAddress(raw)
    if kind is HexDigest:
        if len(raw) != 32 or not value.startswith("0x"):
            raise ValueError(f"{value!r} is not an id: 0x and 64 hex digits")
        return HexDigest(raw)
    return _Hex(raw)


def _commitment(path: Path, index: int, raw: bytes) -> Signed[BeaconCommitment]:
    try:
        return decode(Signed[BeaconCommitment], raw)
    except MessageError as error:
        raise ConfigInvalid(path, f"commitments[{index}]", str(error)) from error


def check_network(path: Path, network: NetworkFile) -> None:
    """What types alone don't say. Raises :class:`ConfigInvalid` with the key of ``path`` that is at fault."""
    for key in ("chain_id", "genesis_ms", "reference_price_wei"):
        _check_positive(path, key, getattr(network, key))
    for key in ("supply_wei", "budget_wei"):
        _check_positive(path, f"opening.{key}", getattr(network, key))
    if network.snapshot_block < 0:
        raise ConfigInvalid(path, "opening.snapshot_block", f"{network.snapshot_block} is negative")
    check_params(path, network.params)
    check_listed(path, network.listed, network.params)
    _check_ranks(path, network)
    _check_members(path, network.members)
    committee = {member.address for member in network.members}
    for index, signed in enumerate(network.commitments):
        key = f"commitments[{index}]"
        try:
            signer = signed.signer(network.terms().domain)
        except MessageError as error:
            raise ConfigInvalid(path, key, str(error)) from error
        if signer not in committee:
            raise ConfigInvalid(path, key, f"{to_hex(signer)} is not a member")
    for index, address in enumerate(network.bootstrap):
        if (fault := find_fault(address, names_peer=True)) is not None:
            raise ConfigInvalid(path, f"bootstrap[{index}]", fault)


def _check_positive(path: Path, key: str, value: int) -> None:
    if value <= 0:
        raise ConfigInvalid(path, key, f"{value} is not positive")


def check_params(path: Path, params: NetworkParams) -> None:
    """Raise :class:`ConfigInvalid` where no network could run with ``params``."""
    positive = ("slot_ms", "day_slots", "speed_samples", "speed_share", "age_boost_ms", "voucher_window")
    for key in (*positive, "challenge_slots", "challenge_ms"):
        _check_positive(path, f"params.{key}", getattr(params, key))
    if not 1 <= params.min_providers <= MAX_RIVALS + 1:
        raise ConfigInvalid(path, "params.min_providers", f"{params.min_providers} is not 1 to {MAX_RIVALS + 1}")
    if not 1 <= params.pair_percent <= 100:
        raise ConfigInvalid(path, "params.pair_percent", f"{params.pair_percent} is not 1 to 100")
    if params.audit_bps > 10_000:
        raise ConfigInvalid(path, "params.audit_bps", f"{params.audit_bps} is above 10000")
    waits = params.settle_window_slots + params.audit_slots
    if params.audit_slots and params.deposit_tokens and params.deposit_slots <= waits:
        told = f"{params.deposit_slots} is not above settle_window_slots + audit_slots = {waits}"
        raise ConfigInvalid(path, "params.deposit_slots", told)
    if params.bootstrap_days > BOOTSTRAP_INTERVALS:
        raise ConfigInvalid(path, "params.bootstrap_days", f"{params.bootstrap_days} is above {BOOTSTRAP_INTERVALS}")
    for field in msgspec.structs.fields(params):
        if isinstance(value := getattr(params, field.name), int) and value < 0:
            raise ConfigInvalid(path, f"params.{field.name}", f"{value} is negative")


def check_listed(path: Path, listed: tuple[Digest, ...], params: NetworkParams) -> None:
    """Raise :class:`ConfigInvalid` where no network with ``params`` could start with this list of models."""
    if listed and not params.listed_models:
        raise ConfigInvalid(path, "listed", "models are listed only with params.listed_models")
    if len(set(listed)) != len(listed) or len(listed) > MAX_MODELS:
        raise ConfigInvalid(path, "listed", f"a model is there twice, or more than {MAX_MODELS} are")


def _check_ranks(path: Path, network: NetworkFile) -> None:
    if network.ranks and not network.params.tells_ranks:
        raise ConfigInvalid(path, "opening.ranks", "ranks are told only with params.withhold_only_if_user_richer")
    if len({who for who, _ in network.ranks}) != len(network.ranks) or len(network.ranks) > MAX_RANKED:
        raise ConfigInvalid(path, "opening.ranks", f"a provider is there twice, or more than {MAX_RANKED} are")
    for index, (_, rank) in enumerate(network.ranks):
        if not 1 <= rank <= MAX_RANK:
            raise ConfigInvalid(path, f"opening.ranks[{index}].rank", f"{rank} is not 1 to {MAX_RANK}")


def _check_members(path: Path, members: tuple[Member, ...]) -> None:
    if not 1 <= len(members) <= MEMBERS_MAX:
        raise ConfigInvalid(path, "committee.members", f"{len(members)} members; 1 to {MEMBERS_MAX} are possible")
    seen: set[Address] = set()
    for index, member in enumerate(members):
        key = f"committee.members[{index}]"
        _check_positive(path, f"{key}.stake_wei", member.stake)
        if member.address in seen:
            raise ConfigInvalid(path, f"{key}.address", f"{to_hex(member.address)} is there twice")
        seen.add(member.address)
