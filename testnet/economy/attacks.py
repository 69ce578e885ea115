"""What an attacker does with its MOR on one day. Each strategy is one function from what it sees to its turn.

An attacker's MOR gives it access to W T a day, and it has hardware for W T a day or none. Addresses are free.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consensus.market.access import pass_commitment
from consensus.market.allowances import MAX_PASSES_PER_USER, Allowances
from consensus.market.day_account import DayAccount
from consensus.market.errors import RfcRefused
from consensus.market.filings import least_charge, unfiled_charge
from consensus.market.matching import MAX_PENALTY
from consensus.market.penalties import share_points
from consensus.market.promises import Promises
from consensus.market.speed import BATCHES, SpeedSample, Timed, draw_timed, is_fast_enough, with_samples
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Signature
from gossip.messages.base import Signed, Unit
from gossip.messages.market import AccessPass, PassIssued, PassRequest, Rfc
from testnet.economy.market_day import Offer
from testnet.economy.population import Provider, name, standing
from testnet.economy.rules import SESSION_T, Cut, Flow, Rules, charged_worth, compute_found_out, compute_kept

SYBIL_USERS = 1_000
SYBIL_PROVIDERS = 5_000
PAID_SHARE = 10
"""Percent of what a model's providers have been paid that went to the attacker, for work it did: its part of scorers,
who are drawn by it."""
CUTS = (SESSION_T, 5_000, 25_000, 100_000, 400_000)
"""T of a session, as a cheat may choose them."""
OWN_SHARE = 80
"""Percent of its own sessions on a public model that an attacker steers to itself, by price and by timing of slots."""
LONG = 0.5
"""Where rivals go unpaid for so much of a day, the attacker sells as dear as it may instead of as cheap as they."""
HONEST_US = 20_000
"""µs per T of a provider that does what it says."""
NOBODY = Signature(bytes(65))


@dataclass(frozen=True, slots=True)
class View:
    """What an attacker sees of a day. ``access_t`` is W, ``lowest`` the lowest honest price by model (wei per T)."""

    day: int
    days: int
    account: DayAccount
    rules: Rules
    access_t: int
    cost_wei: int
    lowest: tuple[int, ...]
    honest: Mapping[int, tuple[Provider, ...]]
    """By model."""
    twin: Provider
    """What the attacker would be if it were honest; its price follows what the attacker sells to others."""
    idle_t: int
    """T that honest providers could still compute yesterday."""
    chance: random.Random

    @property
    def ceiling_wei(self) -> int:
        """The day's price ceiling."""
        return self.account.ceiling_wei(self.rules.params)


@dataclass(slots=True)
class Turn:
    """An attacker's day."""

    flows: list[Flow] = field(default_factory=list)
    """Its own sessions with itself."""
    offers: list[tuple[int, Offer]] = field(default_factory=list)
    """Bids on public models, for anybody; whatever they sell is computed."""
    computed_t: int = 0
    """T computed for its own flows."""
    kept: float = 1.0
    """The share of the flows' credit that matures."""
    fails: dict[Address, int] = field(default_factory=dict)
    """Penalty points that it hands out."""
    slowed: dict[int, float] = field(default_factory=dict)
    """Models whose honest providers fail the speed test, and for what part of the day."""
    offers_fast: bool = True
    """Whether its own public sessions pass the speed test."""
    stolen_t: int = 0
    """T of answers that it got and no quota paid for."""
    hardware_t: int = 0
    """T a day that its hardware could compute."""


Strategy = Callable[[View], Turn]

TARGET = 0
"""The public model that is attacked: the one most asked for."""


def honest(view: View) -> Turn:
    """Serve others as all honest providers do, with hardware for one's share."""
    return Turn(offers=[_offer(view, view.twin.price_wei, "twin")], hardware_t=view.access_t)


def wash_computing(view: View) -> Turn:
    """Ask oneself and compute the answers."""
    turn = _wash(view, users=1, providers=2)
    turn.computed_t, turn.kept, turn.hardware_t = sum(f.sessions * f.tokens for f in turn.flows), 1.0, view.access_t
    return turn


def wash_idle(view: View) -> Turn:
    """Ask oneself and compute nothing."""
    return _wash(view, users=1, providers=2)


def sybil_users(view: View) -> Turn:
    """As wash_idle, over so many session keys that no pair has much to forfeit."""
    return _wash(view, users=SYBIL_USERS, providers=2)


def sybil_providers(view: View) -> Turn:
    """As sybil_users, over so many providers that none has much to forfeit."""
    return _wash(view, users=SYBIL_USERS, providers=SYBIL_PROVIDERS)


def colluding_opinions(view: View) -> Turn:
    """As sybil_providers, and the Sybils score one another where they are drawn: for work they have been paid for."""
    return _wash(view, users=SYBIL_USERS, providers=SYBIL_PROVIDERS, paid_share=PAID_SHARE)


def undercutting(view: View) -> Turn:
    """Half of the time a tenth below everybody's cost, then as dear as the ceiling lets."""
    price = view.cost_wei * 7 // 10 if view.day < view.days // 2 else view.ceiling_wei * 95 // 100
    return Turn(offers=[_offer(view, price, "predator")], hardware_t=view.access_t)


def false_fails(view: View) -> Turn:
    """Say Fail to every rival, with all of one's access and from as many addresses as it takes, and sell above them."""
    rivals = view.honest.get(TARGET, ())
    each = view.access_t // max(1, len(rivals))
    turn = Turn(hardware_t=view.access_t)
    turn.fails = {rival.address: share_points(each, each + rival.sold_t) for rival in rivals}
    points = min(turn.fails.values(), default=0)
    price = min(view.ceiling_wei, view.lowest[TARGET] * (100 + min(MAX_PENALTY, points)) // 100)
    turn.offers = [_offer(view, price, "slanderer")]
    return turn


def withholding(view: View) -> Turn:
    """Take what a provider sends ahead of a voucher and vouch for nothing more: without a word, with a Fail or a Pass
    of 0 T, or after a voucher for 1 T, whichever gives most for the quota; and ask again as soon as one may."""
    params = view.rules.params
    patience_ms = params.slot_ms * (1 + params.report_deadline_slots)
    held_ms = params.ticket_ttl_ms + params.session_max_ms + patience_ms
    window, free = params.voucher_window, 0
    for signed, charged, lasts_ms in (
        (0, unfiled_charge(SESSION_T, params), held_ms),
        (0, max(1, least_charge(SESSION_T, 0, window, params)), patience_ms),
        (1, max(1, least_charge(SESSION_T, 1, 1 + window, params)), patience_ms),
    ):
        rounds = params.slot_ms * params.day_slots // lasts_ms
        at_once = view.access_t // SESSION_T
        sessions = min(at_once * rounds, view.access_t // charged)
        free = max(free, sessions * (signed + window - charged))
    return Turn(stolen_t=min(free, view.idle_t))


def quota_double_spend(view: View) -> Turn:
    """Sign two RFCs with each index; what is admitted twice is stolen."""
    key, router = name("double"), name("router")
    desk = Allowances(router, lambda _: (router,), Promises())
    most = min(view.access_t, 2**62)
    granted = Signed(AccessPass(key, view.account.day, most, 1, router, pass_commitment(key, ZERO_DIGEST)), NOBODY)
    request = Signed(PassRequest(key, key, view.account.day, 0, 0), NOBODY)
    desk.note_issued(PassIssued(granted, request, ZERO_DIGEST, router))
    rfc = Rfc(granted, key, 0, Digest(bytes(32)), Unit.TEXT_TOKEN, SESSION_T, 1, 2**50)
    desk.reserve(rfc)
    try:
        desk.reserve(rfc)
    except RfcRefused:
        return Turn()
    return Turn(stolen_t=view.access_t)


def capacity_lies(view: View) -> Turn:
    """Offer three times what one can compute, cheapest of all; everything then takes three times as long."""
    samples = _samples(view, 0)
    turn = Turn(offers=[_offer(view, view.lowest[TARGET] * 94 // 100, "liar")], hardware_t=view.access_t)
    turn.offers_fast = is_fast_enough(samples, 3 * HONEST_US, view.rules.params)
    return turn


def latency_poisoning(view: View) -> Turn:
    """Report answers in no time between oneself and oneself, all of one's access at once, until honest providers look
    slow; sell in their place."""
    public_t = max(1, sum(rival.sold_t for rival in view.honest.get(TARGET, ())))
    slowed = 0.0
    for percent in range(5, 100, 5):
        if not is_fast_enough(_samples(view, percent), HONEST_US, view.rules.params):
            # so much of the model's T, for as long as the attacker's access lasts
            slowed = min(1.0, view.access_t * (100 - percent) / percent / public_t)
            break
    price = view.ceiling_wei * 95 // 100 if slowed > LONG else view.lowest[TARGET]
    turn = Turn(offers=[_offer(view, price, "poisoner")], hardware_t=view.access_t)
    turn.slowed = {TARGET: slowed} if slowed else {}
    return turn


STRATEGIES: dict[str, Strategy] = {
    "wash-computing": wash_computing,
    "wash-idle": wash_idle,
    "sybil-users": sybil_users,
    "sybil-providers": sybil_providers,
    "colluding-opinions": colluding_opinions,
    "undercutting": undercutting,
    "false-fails": false_fails,
    "withholding": withholding,
    "quota-double-spend": quota_double_spend,
    "capacity-lies": capacity_lies,
    "latency-poisoning": latency_poisoning,
}

IDLE = ("wash-idle", "sybil-users", "sybil-providers", "colluding-opinions")
"""Wash trade that skips the computing."""


def _offer(view: View, price_wei: int, who: str) -> tuple[int, Offer]:
    return TARGET, Offer(standing(name(who), TARGET, max(1, price_wei)), view.access_t)


def _wash(view: View, *, users: int, providers: int, paid_share: int = 0) -> Turn:
    """Own sessions with own providers: on a public model just below everybody's price, as far as the draw can be
    steered; on a network without a list of models on one that nobody else has, at the ceiling. They are cut as it pays
    best where nothing is computed."""
    rules, is_own = view.rules, not view.rules.params.listed_models
    price = view.ceiling_wei if is_own else min(view.ceiling_wei, view.lowest[TARGET] * 94 // 100)
    steered = view.access_t if is_own else view.access_t * OWN_SHARE // 100
    reference, best = view.account.reference_price_wei, Turn(kept=-1.0)
    for tokens in CUTS:
        sessions = steered // charged_worth(tokens, price, reference, rules.proposals)
        cut = Cut(sessions, tokens, users * MAX_PASSES_PER_USER, providers, price / reference)
        others = 0 if is_own else 100 - paid_share
        kept = compute_kept(cut, compute_found_out(paid_share, others, tokens, rules.params), rules.params)
        if kept > best.kept:
            best = Turn(flows=_halved(view, price, sessions, tokens), kept=kept)
    return best


def _halved(view: View, price_wei: int, sessions: int, tokens: int) -> list[Flow]:
    """Sessions between two providers of its own: each is paid for half of a pass."""
    return [
        Flow(name("wash key"), name(f"wash provider {n}"), view.access_t, price_wei, half, tokens)
        for n, half in enumerate((sessions - sessions // 2, sessions // 2))
        if half
    ]


def _samples(view: View, percent: int) -> tuple[SpeedSample, ...]:
    """A model's last speed samples, where ``percent`` of its T are an attacker's that says that they took no time."""
    params, chance = view.rules.params, view.chance
    samples = tuple[SpeedSample, ...]()
    for _ in range(2 * BATCHES):
        passed = []
        for n in range(40):
            value = int(HONEST_US * chance.uniform(0.8, 1.2))
            passed.append(Timed(name(f"key {chance.random()}"), name(f"honest {n}"), value, SESSION_T))
        passed += [
            Timed(name(f"poison key {chance.random()}"), name(f"poisoner {chance.random()}"), 1, SESSION_T)
            for _ in range(40 * percent // (100 - percent))
        ]
        chance.shuffle(passed)
        drawn = draw_timed(passed, Digest(chance.randbytes(32)), Digest(bytes(32)), params)
        samples = with_samples(samples, drawn, params)
    return samples
