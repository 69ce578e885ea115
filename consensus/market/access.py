"""How much a holder of MOR may use in a day, which router keeps count of it, and how coarsely that is told.

The dollar cancels: MaxT is the day's budget over the day's reference price, both in MOR. The source's dollar form
stays as :func:`max_t_dollars`. All results are whole T, rounded down.
"""

from collections.abc import Iterable
from fractions import Fraction

from eth_hash.auto import keccak

from consensus.market.errors import AccessInvalid, PassRefused
from contracts.typed_data import Address, Digest

WEI = 10**18
"""Wei in 1 MOR."""

MAX_ALLOWANCE = 2**63 - 1
"""The most T that a pass can carry (uint64 on the wire, top bit unused)."""


MAX_PRIORITY = 256 - WEI.bit_length() + 2
"""No balance (a uint256 of wei) ranks above this; with a supply of 10 million MOR none ranks above 25."""


def max_t(budget_wei: int, reference_price_wei: int) -> int:
    """T that the budget of a day buys at its reference price (S38). Raises :class:`AccessInvalid` for a price of 0."""
    _above_zero("reference_price_wei", reference_price_wei)
    return budget_wei // reference_price_wei


def access_rate(max_t: int, supply_wei: int) -> int:
    """T per 1 MOR a day (S38, S40). Raises :class:`AccessInvalid` for a supply of 0."""
    _above_zero("supply_wei", supply_wei)
    return max_t * WEI // supply_wei


def user_max(max_t: int, supply_wei: int, balance_wei: int) -> int:
    """UserMax in T: AccessRate × balance, computed exactly and rounded down once (S2, S38)."""
    _above_zero("supply_wei", supply_wei)
    return max_t * balance_wei // supply_wei


def max_t_dollars(budget_mor: Fraction, dollars_per_mor: Fraction, dollars_per_1000_t: Fraction) -> int:
    """MaxT as S38 writes it: (budget × MOR price ÷ T price per 1000) × 1000, in T."""
    if dollars_per_1000_t <= 0:
        raise AccessInvalid("dollars_per_1000_t", int(dollars_per_1000_t))
    return int(budget_mor * dollars_per_mor / dollars_per_1000_t * 1000)


def rank(balance_wei: int) -> int:
    """Coarse rank by balance: 0 for nothing, 1 below 1 MOR, then one more for every doubling."""
    return (balance_wei // WEI).bit_length() + 1 if balance_wei > 0 else 0


def least_balance(rank: int) -> int:
    """The fewest wei of who has ``rank``: 0 for 0, 1 for 1."""
    return WEI << (rank - 2) if rank >= 2 else rank


def priority(balance_wei: int) -> int:
    """The priority of a pass (S26). Raises :class:`PassRefused` for a balance of 0; any other will do (S6, S25)."""
    if balance_wei <= 0:
        raise PassRefused("no_balance", "access needs a MOR balance above 0 at the day's snapshot block")
    return rank(balance_wei)


def round_allowance(tokens: int) -> int:
    """``tokens`` rounded down to two significant binary digits: 1, 2, 3, 4, 6, 8, 12, 16 … T.

    Two steps for every doubling, so that an allowance identifies nobody (S34). What rounding leaves over isn't lost:
    the agent may ask for a further pass on another session key.
    """
    shift = max(0, tokens.bit_length() - 2)
    return tokens >> shift << shift


def home_routers(user: Address, day: int, members: Iterable[Address]) -> tuple[Address, ...]:
    """``members`` in the order in which they serve ``user`` on ``day``: rendezvous hashing, the home router first."""
    seed = user + day.to_bytes(8, "big")
    return tuple(sorted(members, key=lambda member: (keccak(seed + member), member)))


def followed_shards(member: Address, members: Iterable[Address], shards: int, followers: int) -> tuple[int, ...]:
    """Which of ``shards`` RFC topics ``member`` follows, ascending: each is followed by ``followers`` of ``members``.

    By rendezvous hashing, so that a change of one member moves few; all follow all where there are no more of them.
    Home routers get their own RFCs directly: topics show everybody else what is asked for, and each needs some who are
    always there to pass it on.
    """
    known = tuple(members)
    return tuple(
        shard
        for shard in range(shards)
        if member in sorted(known, key=lambda one: (keccak(shard.to_bytes(2, "big") + one), one))[:followers]
    )


def pass_commitment(user: Address, salt: Digest) -> Digest:
    """What a pass says of its user: keccak(user ‖ salt), which only the committee can open."""
    return Digest(keccak(user + salt))


def _above_zero(name: str, value: int) -> None:
    if value <= 0:
        raise AccessInvalid(name, value)
