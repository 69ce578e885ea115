"""What a test network consists of, as plain data: its nodes, their prices, the MOR that everyone holds, its clock.

Pure: a plan is computed from the options and nothing else. :mod:`testnet.launch` carries it out.
"""

from pathlib import Path
from typing import Literal

import msgspec

from consensus.params import NetworkParams
from contracts.emission import COMPUTE_INITIAL_WEI
from testnet.errors import OptionInvalid

MOR = 10**18
"""Wei in one MOR."""

SUPPLY_WEI = 10_000_000 * MOR
"""Minted in all (S39's supply)."""
BUDGET_WEI = COMPUTE_INITIAL_WEI
"""A day's budget: compute's share of the first day's emission (S7)."""
POOL_WEI = 100_000 * MOR
"""What the Compute Contract holds at the start: 1 % of it outweighs the bootstrap's share of a day (S23)."""
SOURCE_WEI = 1_000_000 * MOR
"""What the emission source can pay in all."""
STAKE_WEI = 1_000 * MOR
"""Each member's stake."""
USER_WEI = 500 * MOR
"""The user's balance (S39's example)."""
PROVIDER_WEI = 10 * MOR
"""A provider's balance before it has earned anything: not zero (S43)."""
REFERENCE_PRICE_WEI = 10**11
"""The genesis reference price, in wei per T."""
BASE_BID_WEI = 9 * 10**10
"""The first provider's bid, in wei per T."""
GUEST_BID_WEI = 85 * 10**9
"""What the guest asks when it joins as a provider: so little that the others are out of the tie band."""
BID_STEP_PERCENT = 3
"""Every further provider asks so much more, so that the first two are within the 5 % tie band (S27, S34)."""

DEFAULT_PROMPT = "What is the capital of France?"
DEFAULT_BLOCK_S = 4
DAY_BLOCKS = 7_200

MEMBERS_MOST = 64
PROVIDERS_MOST = 32

Lie = Literal["draw", "count", "index"]
"""How a node may cheat (:mod:`testnet.liar`): a router in draws, a provider in receipts, a user with RFC indexes."""

NodeKind = Literal["member", "provider", "full", "user", "guest"]
Role = Literal["full", "member", "provider", "user"]

ROLES: dict[NodeKind, tuple[Role, ...]] = {
    "member": ("full", "member"),
    "provider": ("full", "provider"),
    "full": ("full",),
    "user": ("full", "user"),
    "guest": ("full",),
}


class TestnetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line can say about a test network."""

    __test__ = False  # a name that pytest would take for a test's

    prompt: str = DEFAULT_PROMPT
    members: int = 4
    providers: int = 2
    block_s: int = DEFAULT_BLOCK_S
    """Seconds of an inference block (a slot)."""
    day_s: int | None = None
    """Seconds of a day, a multiple of ``block_s``; None is 7,200 blocks."""
    max_tokens: int = 64
    """The most T that the answer may have (TokenMax)."""
    keep: bool = False
    """Stay up after the prompt has been answered and paid, until Ctrl-C."""
    directory: Path | None = None
    """The network's folder; None is ``.cache/testnet`` beside the sources."""
    engine: Literal["llamacpp", "synthetic"] = "llamacpp"
    """What the providers answer with; synthetic only for measuring the network without a model."""
    slots: int = 2
    """Sessions that each provider serves at once."""
    token_ms: int = 0
    """Engine ``synthetic``: ms a token."""
    user_wei: int = USER_WEI
    """The user's balance."""
    reference_price_wei: int = REFERENCE_PRICE_WEI
    """The genesis reference price, in wei per T."""
    bid_wei: int = BASE_BID_WEI
    """The first provider's bid, in wei per T."""
    pool_wei: int = POOL_WEI
    """What the Compute Contract holds at the start: whole MOR."""
    settle_window_slots: int | None = None
    """For so many slots a ticket may be settled; None is a day, and 60 slots at least."""
    chainless: int = 0
    """So many of the last providers have no chain endpoint: they serve and are credited, but can't claim."""


class NodePlan(msgspec.Struct, frozen=True):
    """One process of the network."""

    name: str
    kind: NodeKind
    balance_wei: int
    """MOR in hand once the stake is paid in."""
    stake_wei: int = 0
    price_wei: int = 0
    """A provider's bid per T; 0 for all others."""
    has_chain: bool = True

    @property
    def roles(self) -> tuple[Role, ...]:
        """The node's roles, as a node file names them."""
        return ROLES[self.kind]


class Plan(msgspec.Struct, frozen=True):
    """A whole network."""

    options: TestnetOptions
    params: NetworkParams
    nodes: tuple[NodePlan, ...]
    """In the order of their start: members, providers, the plain full node, the user.

    The guest has keys and MOR but isn't started.
    """

    def of_kind(self, kind: NodeKind) -> tuple[NodePlan, ...]:
        """The nodes of one kind, in order."""
        return tuple(node for node in self.nodes if node.kind == kind)

    @property
    def started(self) -> tuple[NodePlan, ...]:
        """The nodes that the launcher runs."""
        return tuple(node for node in self.nodes if node.kind != "guest")

    @property
    def faults_tolerated(self) -> int:
        """How many members may be gone while the rest still hold more than two thirds of the stake."""
        return (self.options.members - 1) // 3


def compute_plan(options: TestnetOptions) -> Plan:
    """The network that ``options`` describe. Raises :class:`OptionInvalid` naming the option and its value."""
    check_options(options)
    members = [
        NodePlan(f"member-{i}", "member", balance_wei=0, stake_wei=STAKE_WEI) for i in range(1, options.members + 1)
    ]
    providers = [
        NodePlan(
            f"provider-{i + 1}",
            "provider",
            balance_wei=PROVIDER_WEI,
            price_wei=compute_bid(i, options.bid_wei),
            has_chain=i < options.providers - options.chainless,
        )
        for i in range(options.providers)
    ]
    full = NodePlan("full", "full", balance_wei=0)
    user = NodePlan("user", "user", balance_wei=options.user_wei)
    guest = NodePlan("guest", "guest", balance_wei=PROVIDER_WEI)
    return Plan(options, compute_params(options), (*members, *providers, full, user, guest))


def compute_bid(index: int, first_wei: int = BASE_BID_WEI) -> int:
    """The bid of provider ``index`` (0 is the first, which asks ``first_wei``), in wei per T."""
    return first_wei * (100 + BID_STEP_PERCENT * index) // 100


def compute_params(options: TestnetOptions) -> NetworkParams:
    """The network's parameters: the paper's defaults with a shorter slot and day and patience for one small machine."""
    defaults = NetworkParams()
    day_slots = options.day_s // options.block_s if options.day_s is not None else DAY_BLOCKS
    return msgspec.structs.replace(
        defaults,
        slot_ms=options.block_s * 1_000,
        day_slots=day_slots,
        settle_window_slots=options.settle_window_slots or max(day_slots, 60),
        endowment_mor=options.pool_wei // MOR,
        # a network of one machine may have one provider and one user, who asks little
        min_providers=1,
        pair_percent=100,
        audit_slots=0,
        # all nodes and models share a machine's cores: a liveness check waits behind somebody's prefill
        liveness_ms=2_000,
    )


def check_options(options: TestnetOptions) -> None:
    """Raise :class:`OptionInvalid` for the first option that makes no network."""
    if not options.prompt.strip():
        raise OptionInvalid("prompt", repr(options.prompt), "there is nothing to ask")
    ranges = (
        ("members", options.members, 1, MEMBERS_MOST),
        ("providers", options.providers, 1, PROVIDERS_MOST),
        ("block", options.block_s, 1, 3_600),
        ("max-tokens", options.max_tokens, 1, 4_096),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:
            raise OptionInvalid(name, value, f"must be {least} to {most}")
    if options.day_s is not None and (options.day_s % options.block_s or options.day_s < 2 * options.block_s):
        raise OptionInvalid(
            "day", options.day_s, f"must be a multiple of --block {options.block_s}, two blocks or more"
        )
