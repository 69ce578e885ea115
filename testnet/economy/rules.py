"""The network's rules as the simulation uses them, and the few that it proposes beside them; all of them in one place.

Prices, quotas, draws, penalties, speed and opinions are :mod:`consensus.market`'s functions. A day's sessions of one
session key with one provider are a :class:`Flow`, settled at once: :func:`settle_flows` says what the ledger would say
to them one by one in this order, and a test compares the two to the wei.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import msgspec

from consensus.market import access, pairs
from consensus.market.day_account import DayAccount
from consensus.market.deposits import has_deposits
from consensus.market.opinions import ALL_PICKED, SCORERS, TYPICAL_T, Offer, Pick, decide, pick_share, with_opinion
from consensus.params import NetworkParams
from contracts.typed_data import ZERO_DIGEST, Address
from gossip.messages.opinions import Opinion

SESSION_T = TYPICAL_T
"""T of a session, the source's."""


class Proposals(msgspec.Struct, frozen=True):
    """Rules that no ledger has yet, each off by default: what the simulation asks for where a bound doesn't hold."""

    charge_worth: bool = False
    """T above the day's reference price cost as much quota as they are worth: T × price ÷ reference, rounded up."""


class Rules(msgspec.Struct, frozen=True):
    """What a run is played by."""

    params: NetworkParams = NetworkParams()
    proposals: Proposals = Proposals()


@dataclass(slots=True)
class Flow:
    """One day's like sessions between one session key and one provider, in the order in which they are settled."""

    session_key: Address
    provider: Address
    allowance: int
    """T of the session key's pass."""
    price_wei: int
    sessions: int
    tokens: int
    """T of each session."""
    passed: bool = True
    is_fast: bool = True


@dataclass(slots=True)
class Paid:
    """What became of a day's flows, by provider."""

    wei: dict[Address, int] = field(default_factory=dict)
    tokens: dict[Address, int] = field(default_factory=dict)
    credited_t: int = 0
    credited_wei: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Sessions without a credit, by the ledger's word for it."""


def settle_flows(
    flows: Iterable[Flow], account: DayAccount, params: NetworkParams, balances: Mapping[Address, int]
) -> Paid:
    """Credit a day's flows one after the other: ceiling, Fail, speed, budget, pair cap, earnings bound (S8, S31, S37).

    ``balances`` are the providers' in wei, of which the ledger knows the ranks. What is above the ceiling the ledger
    refuses altogether. Where pair cap and earnings bound bind in one flow, this is a session off at most.
    """
    paid, budget = Paid(), account.budget_left_wei
    paired: dict[bytes, int] = {}
    for flow in flows:
        reason = _refusal(flow, account, params)
        if reason is not None:
            _refuse(paid, reason, flow.sessions)
            continue
        tokens, full = flow.tokens, flow.sessions
        affordable = budget // (tokens * flow.price_wei)
        if affordable < full:
            _refuse(paid, "budget_spent", full - affordable)
            full = affordable
        total = full * tokens
        if pairs.is_capped(params):
            key = pairs.pair_key(flow.session_key, flow.provider)
            left = max(0, pairs.pair_cap(flow.allowance, params) - paired.get(key, 0))
            if left < total:
                _refuse(paid, "pair_capped", full - -(-left // tokens))
                total = left
            paired[key] = paired.get(key, 0) + total
        if params.earnings_percent:
            held = access.least_balance(access.rank(balances.get(flow.provider, 0)))
            bound = held * params.earnings_percent // 100
            room = max(0, bound - paid.wei.get(flow.provider, 0)) // (tokens * flow.price_wei) * tokens
            if room < total:
                _refuse(paid, "over_balance", -(-(total - room) // tokens))
                total = room
        wei = total * flow.price_wei
        budget -= wei
        paid.wei[flow.provider] = paid.wei.get(flow.provider, 0) + wei
        paid.tokens[flow.provider] = paid.tokens.get(flow.provider, 0) + total
        paid.credited_t += total
        paid.credited_wei += wei
    return paid


def _refusal(flow: Flow, account: DayAccount, params: NetworkParams) -> str | None:
    if flow.price_wei > account.ceiling_wei(params):
        return "price_over_ceiling"
    if not flow.passed:
        return "failed"
    return None if flow.is_fast else "slow"


def _refuse(paid: Paid, reason: str, sessions: int) -> None:
    if sessions:
        paid.refused[reason] = paid.refused.get(reason, 0) + sessions


def charged_worth(tokens: int, price_wei: int, reference_price_wei: int, proposals: Proposals) -> int:
    """T of quota that ``tokens`` cost at a price: as many, or as proposed what they are worth where that is more."""
    if not proposals.charge_worth or price_wei <= reference_price_wei:
        return tokens
    return -(-tokens * price_wei // reference_price_wei)


# Second opinions, for a session whose answer was never computed.


@dataclass(frozen=True, slots=True)
class Cut:
    """How a cheat cuts and spreads a day's T."""

    sessions: float
    """A day."""
    tokens: int
    """T of each."""
    keys: int
    providers: int
    dearness: float = 1.0
    """Its price in reference prices: a deposit is filled with wei."""


def compute_found_out(friends: int, others: int, tokens: int, params: NetworkParams) -> float:
    """The chance that a pick of an answer of ``tokens`` T that nobody computed fails.

    Scorers are drawn by what they have been credited: ``friends`` parts of it are those of the cheat's friends, who
    say Pass, ``others`` those of all others, who say Fail.
    """
    if others == 0:
        return 0.0
    return sum(chance for order, chance in _orders(friends, others) if _fails(order, tokens, params))


def _orders(friends: int, others: int) -> Iterable[tuple[tuple[bool, ...], float]]:
    """Every order of friends (True) and others among the drawn scorers, and its chance."""
    drawn = min(SCORERS, friends + others)
    for order in product((True, False), repeat=drawn):
        chance, left = 1.0, [others, friends]
        for is_friend in order:
            chance *= left[is_friend] / sum(left)
            left[is_friend] -= 1
        if chance > 0:
            yield order, chance


@lru_cache
def _fails(order: tuple[bool, ...], tokens: int, params: NetworkParams) -> bool:
    """What the ledger's rules make of scorers who speak in this order as soon as they may."""
    scorers = tuple(Offer(Address(bytes([n]) * 20), 1, 0) for n in range(len(order)))
    pick = Pick(Address(bytes(20)), Address(b"\xff" * 20), ZERO_DIGEST, ZERO_DIGEST, tokens, 0, scorers)
    for number, passes in enumerate(order):
        if pick.decision:
            break
        opinion = Opinion(ZERO_DIGEST, ZERO_DIGEST, scorers[number].provider, tokens, 0, 0, passes)
        pick = with_opinion(pick, opinion, params)
    return decide(pick) != "passed"


def compute_kept(cut: Cut, found_out: float, params: NetworkParams) -> float:
    """The share of the credit of answers that nobody computed which gets out in the end.

    A credit survives where no pick fails among what is forfeited with it: what the pair, or the provider, has put by in
    a window, and at least what fills the provider's deposit, which nobody gets back before it was full. Each session is
    picked by the ledger's rule and then fails with ``found_out``.
    """
    if params.audit_slots == 0:
        return 1.0
    rate = min(1.0, pick_share(cut.tokens, params) / ALL_PICKED) * found_out
    in_window = cut.sessions * params.audit_slots / params.day_slots
    parts = cut.providers if params.forfeits == "provider" else cut.keys * min(cut.providers, 2)
    deposit = params.deposit_tokens / cut.tokens / cut.dearness if has_deposits(params) else 0
    return float((1 - rate) ** max(1.0, in_window / parts, deposit))
