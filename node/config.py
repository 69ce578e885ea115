"""A node's configuration: network.toml (see :mod:`node.network_file`) and node.toml.

Paths in node.toml are relative to the file itself, so that a node's folder can be moved.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gossip.addresses import find_fault, is_unspecified
from node import settings, toml
from node.errors import ConfigInvalid
from node.files import write_atomic
from node.network_file import ContractAddresses, NetworkFile, load_network, write_network

__all__ = [
    "ChainAccess",
    "ContractAddresses",
    "Exl2Options",
    "KeyFiles",
    "Listen",
    "LogLevel",
    "ModelOffer",
    "NetworkFile",
    "NodeFile",
    "Role",
    "UserAgent",
    "load_network",
    "load_node",
    "write_network",
    "write_node",
]

Role = Literal["full", "provider", "member", "user"]
LogLevel = Literal["debug", "info", "warning", "error"]

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
"""0 asks for any free port."""

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class KeyFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a node's two keys are."""

    mor: Path
    """Keystore of the MOR key: identity and stake (S9)."""
    node: Path
    """Keystore of the libp2p host's seed."""
    password_file: Path | None = None
    """Opens both; without one the variable YELLOWSTONE_PASSWORD or a prompt does."""


P2P_PORT = 28_555
"""Where nodes listen unless their file says otherwise: a port that is forwarded once stays right."""


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a node listens, and what it tells others. The control API is on loopback only.

    Multiaddrs, IPv4 and IPv6 together where both are served. ``announce`` is what others dial, behind a NAT for
    instance; without it the addresses that are listened on are told, an unspecified one as those of all interfaces.
    """

    p2p: tuple[str, ...] = (f"/ip4/0.0.0.0/tcp/{P2P_PORT}",)
    announce: tuple[str, ...] = ()
    control_port: Port = 0


class ChainAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chain endpoint. ``rpc_url`` is empty for a node that needs no chain."""

    rpc_url: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    poll_ms: Annotated[int, msgspec.Meta(ge=10, le=3_600_000)] = 1_000


class Exl2Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engine ``exllamav2`` alone: how a model lies in the GPUs."""

    cache: Literal["fp16", "q8", "q6", "q4"] = "fp16"
    """Bits of keys and values in the cache; fewer hold more T."""
    cache_tokens: Count = 0
    """T that all sessions share; 0: a whole context for each slot."""
    chunk: Annotated[int, msgspec.Meta(ge=256, le=1 << 20)] = 512
    """T of a prompt taken in one step: fewer interrupt the other sessions less."""
    gpu_split: tuple[Annotated[float, msgspec.Meta(gt=0, le=4096)], ...] = ()
    """GB of weights for each GPU; empty: as they fit."""


class ModelOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model that a provider sells (S19)."""

    model: str
    """The name that users ask for."""
    price_wei: Positive
    """Wei of MOR per T."""
    engine: Literal["llamacpp", "exllamav2", "openai", "synthetic"] = "llamacpp"
    path: Path | None = None
    """The model file, of engine ``exllamav2`` its folder; without one the model store's."""
    url: str = ""
    """The upstream of engine ``openai``, with or without ``/v1``."""
    upstream: Literal["vllm", "llama-server", "tabbyapi"] = "vllm"
    """Which server the upstream of engine ``openai`` is."""
    upstream_model: str = ""
    """What the upstream calls the model; empty: as ``model``."""
    api_key_file: Path | None = None
    """A file (0600) with the upstream's API key; without one none is sent."""
    slots: Positive = 2
    context: Positive = 1_024
    """T of prompt and answer together."""
    prompt_max: Positive = 512
    """Largest prompt accepted, in T."""
    threads: Count = 1
    """0: all cores but one."""
    token_ms: Count = 0
    """Engine ``synthetic``: ms a token."""
    exl2: Exl2Options = Exl2Options()


class UserAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user's side: its gateway on loopback and what an RFC asks for."""

    gateway_port: Port = 0
    token_max: Positive = 256
    """T of an answer where the request names no limit (S21)."""
    token_limit: Positive = 4_096
    """A request for more T is refused."""
    audit_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """The share of greedy answers that another provider scores before the report goes: it sees the prompt (S46)."""
    padded: bool = False
    """Answers come in frames of one size at even times, against whoever watches the line; costs a tenth of a second."""


class NodeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """node.toml. Every path is absolute once loaded."""

    network: Path
    data_dir: Path
    keys: KeyFiles
    roles: tuple[Role, ...] = ("full",)
    listen: Listen = Listen()
    chain: ChainAccess = ChainAccess()
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs beyond those of network.toml."""
    models: tuple[ModelOffer, ...] = ()
    user: UserAgent = UserAgent()
    finder: bool | None = None
    """Whether to submit evidence of equivocation to the registry, for the finder's share: a transaction of the MOR
    key. Left out, a provider with a chain does and nobody else; a member never may (S12)."""
    follow_rfcs: bool = False
    """Whether to hear the RFCs of all models in the book, which only `yellowstone rfcs` needs; members hear their
    share of all anyway."""
    log_level: LogLevel = "info"

    def has_role(self, role: Role) -> bool:
        """Whether this node takes part as ``role``; every node is a full node."""
        return role == "full" or role in self.roles

    @property
    def is_finder(self) -> bool:
        """Whether this node submits evidence to the registry."""
        if self.finder is None:
            return bool(self.chain.rpc_url) and "provider" in self.roles and "member" not in self.roles
        return self.finder


def load_node(path: Path, overrides: Mapping[str, str] | None = None) -> NodeFile:
    """Read node.toml; ``overrides`` are dotted keys with values as text (``--set listen.control_port=8080``).

    Raises :class:`ConfigInvalid`, naming file and key.
    """
    folder = path.absolute().parent
    document = settings.read(path)
    settings.override(path, document, overrides or {})
    _drop_empty_paths(document)

    def hook(kind: type, value: Any) -> Any:
        if kind is not Path:
            raise NotImplementedError(kind)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{value!r} is not a path")
        return Path(os.path.normpath(folder / Path(value).expanduser()))

    config = settings.convert(path, document, NodeFile, hook)
    _check(path, config)
    return config


def write_node(path: Path, config: NodeFile) -> None:
    """Write node.toml (0600); paths inside its folder are written relative. Raises :class:`ConfigInvalid`."""
    _check(path, config)
    folder = path.absolute().parent

    def hook(value: Any) -> str:
        if not isinstance(value, Path):
            raise NotImplementedError(type(value))
        absolute = value.absolute()
        return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)

    document = _without_none(msgspec.to_builtins(config, enc_hook=hook))
    write_atomic(path, toml.dumps(document).encode())


def _drop_empty_paths(document: dict[str, Any]) -> None:
    """An empty optional path means none; TOML has no null."""
    models = document.get("models")
    tables = [
        (document.get("keys"), "password_file"),
        *((m, key) for m in (models if isinstance(models, list) else []) for key in ("path", "api_key_file")),
    ]
    for table, key in tables:
        if isinstance(table, dict) and table.get(key) == "":
            del table[key]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _check(path: Path, config: NodeFile) -> None:
    """What types alone don't say."""
    for index, role in enumerate(config.roles):
        if role in config.roles[:index]:
            raise ConfigInvalid(path, "roles", f"{role!r} is there twice")
    if config.has_role("provider") and not config.models:
        raise ConfigInvalid(path, "models", "a provider needs at least one [[models]]")
    if config.models and not config.has_role("provider"):
        raise ConfigInvalid(path, "roles", "there are [[models]], but 'provider' is not among the roles")
    for index, offer in enumerate(config.models):
        _check_offer(path, f"models[{index}]", offer)
        if offer.model in (other.model for other in config.models[:index]):
            raise ConfigInvalid(path, f"models[{index}].model", f"{offer.model!r} is there twice")
    if config.user.token_max > config.user.token_limit:
        raise ConfigInvalid(path, "user.token_max", f"{config.user.token_max} is above user.token_limit")
    _check_url(path, "chain.rpc_url", config.chain.rpc_url, required=False)
    if config.finder and "member" in config.roles:
        raise ConfigInvalid(path, "finder", "is true, but a member never sends a transaction (S12)")
    if config.finder and not config.chain.rpc_url:
        raise ConfigInvalid(path, "finder", "is true, but there is no chain.rpc_url to submit evidence to")
    _check_addresses(path, config)


def _check_addresses(path: Path, config: NodeFile) -> None:
    listen = config.listen
    if not listen.p2p:
        raise ConfigInvalid(path, "listen.p2p", "names no address to listen on")
    faults = [
        *(("listen.p2p", find_fault(item, is_listened_on=True, names_peer=False)) for item in listen.p2p),
        *(("listen.announce", _announce_fault(item)) for item in listen.announce),
        *(("bootstrap", find_fault(item, names_peer=True)) for item in config.bootstrap),
    ]
    for key, fault in faults:
        if fault is not None:
            raise ConfigInvalid(path, key, fault)


def _announce_fault(address: str) -> str | None:
    if is_unspecified(address):
        return f"{address!r} stands for all interfaces: name the address that others dial"
    return find_fault(address, names_peer=False)


def _check_offer(path: Path, key: str, offer: ModelOffer) -> None:
    if not offer.model:
        raise ConfigInvalid(path, f"{key}.model", "is empty")
    if offer.prompt_max >= offer.context:
        raise ConfigInvalid(
            path, f"{key}.prompt_max", f"{offer.prompt_max} leaves no room in a context of {offer.context}"
        )
    if offer.engine == "exllamav2" and offer.path is None:
        raise ConfigInvalid(path, f"{key}.path", "is needed: the folder of an EXL2 or GPTQ model")
    if 0 < offer.exl2.cache_tokens < offer.context:
        raise ConfigInvalid(
            path, f"{key}.exl2.cache_tokens", f"{offer.exl2.cache_tokens} holds no context of {offer.context}"
        )
    if offer.engine == "openai":
        _check_url(path, f"{key}.url", offer.url, required=True)
    elif offer.api_key_file is not None:
        raise ConfigInvalid(path, f"{key}.api_key_file", f"engine {offer.engine!r} has no use for a key")


def _check_url(path: Path, key: str, url: str, *, required: bool) -> None:
    if (url or required) and not url.startswith(("http://", "https://")):
        raise ConfigInvalid(path, key, f"{url!r} is not an http address")
