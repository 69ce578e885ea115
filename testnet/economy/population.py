"""Who takes part honestly: users with balances, needs and no tricks; providers with costs, capacity and a price."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from consensus.market import access
from consensus.market.book import StandingBid
from contracts.typed_data import Address, Digest, Signature
from gossip.messages.base import Signed, Unit
from gossip.messages.records import Bid

GENESIS_PRICE_WEI = 10**11
"""The reference price of day 0: MaxT is then 30 billion T a day or so (S39)."""

MODELS = 5
MARGIN = 1.25
"""What a provider asks at first, over its cost."""
LEAST_MARGIN = 1.05
STEP = 1.03
"""By how much a provider moves its price in a day."""
HARDWARE_DAYS = 400
"""A machine costs as much as computing on it for so many days; half of a T's cost is its wear, half power."""
PASSES = 4
"""Passes that a user's agent takes a day: what rounding leaves over is asked for again."""


@dataclass(slots=True)
class Provider:
    """An honest one: ``cost_wei`` per T computed, wear included; ``capacity_t`` a day."""

    address: Address
    balance_wei: int
    model: int
    cost_wei: int
    capacity_t: int
    price_wei: int
    sold_t: int = 0
    profit_wei: int = 0

    def adapt(self) -> None:
        """Ask for more when sold out, for less when idle, never for less than costs and a little."""
        if self.sold_t >= self.capacity_t * 95 // 100:
            self.price_wei = int(self.price_wei * STEP)
        elif self.sold_t < self.capacity_t * 70 // 100:
            self.price_wei = max(int(self.cost_wei * LEAST_MARGIN), int(self.price_wei / STEP))

    @property
    def capital_wei(self) -> int:
        """MOR held, and what the hardware costs in MOR."""
        return self.balance_wei + self.capacity_t * self.cost_wei * HARDWARE_DAYS // 2


@dataclass(frozen=True, slots=True)
class User:
    """``need`` is the share of UserMax that it uses on an average day."""

    address: Address
    balance_wei: int
    model: int
    need: float


def make_users(count: int, held_wei: int, chance: random.Random) -> tuple[User, ...]:
    """``count`` users whose balances, few of them large (Pareto), add up to ``held_wei``."""
    weights = [chance.paretovariate(1.2) for _ in range(count)]
    total = sum(weights)
    return tuple(
        User(name(f"user {n}"), int(held_wei * weight / total), _model(chance), chance.uniform(0.3, 1.0))
        for n, weight in enumerate(weights)
    )


def make_providers(count: int, capacity_t: int, chance: random.Random) -> list[Provider]:
    """``count`` providers that can compute ``capacity_t`` a day together, at 45 to 75 % of the genesis price."""
    weights = [chance.uniform(0.3, 1.7) for _ in range(count)]
    total = sum(weights)
    made = []
    for n, weight in enumerate(weights):
        cost = int(GENESIS_PRICE_WEI * chance.uniform(0.45, 0.75))
        model = n % MODELS if n < 4 * MODELS else _model(chance)
        made.append(
            Provider(
                name(f"provider {n}"),
                10 * access.WEI,
                model,
                cost,
                int(capacity_t * weight / total),
                int(cost * MARGIN),
            )
        )
    return made


def allowance(balance_wei: int, max_t: int, supply_wei: int) -> int:
    """T that a user's passes add up to on a day."""
    left = access.user_max(max_t, supply_wei, balance_wei)
    granted = 0
    for _ in range(PASSES):
        step = access.round_allowance(left - granted)
        granted += step
    return granted


def standing(provider: Address, model: int, price_wei: int) -> StandingBid:
    """A bid that has been in the book for a while. Nobody checks signatures here."""
    bid = Bid(provider, _model_id(model), Unit.TEXT_TOKEN, price_wei, 1, 4_096, 1, 2**50, scores=True)
    return StandingBid(Digest(sha256(provider + bid.model_id).digest()), Signed(bid, Signature(bytes(65))), 0)


def demand(users: Sequence[User], max_t: int, supply_wei: int, chance: random.Random) -> list[int]:
    """T that all users want of each model today."""
    wanted = [0] * MODELS
    for user in users:
        most = allowance(user.balance_wei, max_t, supply_wei)
        wanted[user.model] += int(most * min(1.0, user.need * chance.uniform(0.6, 1.4)))
    return wanted


def name(of: str) -> Address:
    """An address that is the same in every run."""
    return Address(sha256(of.encode()).digest()[:20])


def _model(chance: random.Random) -> int:
    """Few models are asked for by many."""
    return chance.choices(range(MODELS), weights=[1 / (n + 1) for n in range(MODELS)])[0]


def _model_id(model: int) -> Digest:
    return Digest(sha256(f"model {model}".encode()).digest())
