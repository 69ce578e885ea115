"""Months of the market, day by day: the budget by the contract's formula, quotas, draws, settlement, prices."""

import random
from dataclasses import dataclass, field

from msgspec.structs import replace

from consensus.market import access
from consensus.market.day_account import DayAccount, next_reference_price, opened
from consensus.market.penalties import Penalties
from consensus.params import economics_of
from contracts.typed_data import Address, Uint256
from gossip.messages.committee import DayOpening
from testnet.economy.attacks import TARGET, Strategy, Turn, View
from testnet.economy.market_day import Offer, allocate
from testnet.economy.population import (
    GENESIS_PRICE_WEI,
    HARDWARE_DAYS,
    MARGIN,
    MODELS,
    Provider,
    allowance,
    demand,
    make_providers,
    make_users,
    name,
    standing,
)
from testnet.economy.rules import SESSION_T, Flow, Rules, settle_flows

SUPPLY_WEI = 10_000_000 * access.WEI
HELD_PERCENT = 50
"""Of the supply, in honest users' hands; the rest asks for nothing."""
SPARE_PERCENT = 130
"""What honest providers can compute together, of an average day's demand."""
LEAVES_AFTER = 14
"""Days without pay after which an honest provider turns its machine off, and for how long."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A run. ``attack_percent`` of the supply are the attacker's, beside what honest users hold."""

    days: int = 120
    users: int = 2_000
    providers: int = 200
    seed: int = 1
    attack_percent: int = 2
    rules: Rules = field(default_factory=Rules)


@dataclass(slots=True)
class Days:
    """What a run came to; a number a day. Wei, unless it says otherwise."""

    profit: list[int] = field(default_factory=list)
    """The attacker's: credit that matures, and stolen T at the lowest price, less the computing."""
    share: list[int] = field(default_factory=list)
    """The attacker's pro-rata share of the budget: budget × its MOR ÷ supply."""
    spent: list[int] = field(default_factory=list)
    budget: list[int] = field(default_factory=list)
    reference: list[int] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    """The part of honest users' demand that was answered."""
    honest_profit: list[int] = field(default_factory=list)
    """All honest providers' together."""
    balance_wei: int = 0
    capital_wei: int = 0
    """The attacker's MOR and hardware."""

    def per_mor(self) -> float:
        """Profit in MOR per MOR held and day."""
        return sum(self.profit) / len(self.profit) / self.balance_wei

    def per_capital(self) -> float:
        """Profit in MOR per MOR of capital, hardware included, and day."""
        return sum(self.profit) / len(self.profit) / self.capital_wei

    def share_per_mor(self) -> float:
        """The pro-rata share in MOR per MOR held and day."""
        return sum(self.share) / len(self.share) / self.balance_wei


class Simulation:
    """One population, one strategy. The population and its needs depend on the seed alone, never on the strategy."""

    def __init__(self, setup: Setup, strategy: Strategy) -> None:
        self._setup = setup
        self._strategy = strategy
        self._needs = _chance("needs", setup.seed)
        self._chance = _chance("attack", setup.seed)
        params = setup.rules.params
        self._economics = economics_of(params, 0)
        budget = self._economics.budget(1, 0)
        born = _chance("population", setup.seed)
        held = SUPPLY_WEI * HELD_PERCENT // 100
        self._users = make_users(setup.users, held, born)
        max_t = access.max_t(budget, GENESIS_PRICE_WEI)
        capacity = max_t * HELD_PERCENT * 65 * SPARE_PERCENT // 1_000_000
        self._providers = make_providers(setup.providers, capacity, born)
        self._unpaid: dict[Address, int] = {}
        self._away: dict[Address, int] = {}
        self._balance = SUPPLY_WEI * setup.attack_percent // 100
        self._cost = sorted(one.cost_wei for one in self._providers)[len(self._providers) // 2]
        self._twin = Provider(name("twin"), self._balance, TARGET, self._cost, 0, int(self._cost * MARGIN))
        self._penalties = Penalties({}, 1)
        self._credited = 0
        self._idle_t = capacity // 4
        self.days = Days(balance_wei=self._balance, capital_wei=self._balance)

    def run(self) -> Days:
        """Play all days; the first is day 1, for day 0 has no budget before anything is emitted."""
        account: DayAccount | None = None
        for day in range(1, self._setup.days + 1):
            account = self._open(day, account)
            account = self._play(account)
        return self.days

    def _open(self, day: int, before: DayAccount | None) -> DayAccount:
        price = GENESIS_PRICE_WEI if before is None else next_reference_price(before, self._setup.rules.params)
        budget = self._economics.budget(day, self._credited)
        opening = DayOpening(day, day, Uint256(SUPPLY_WEI), Uint256(budget))
        return opened(opening, price, 1, before)

    def _play(self, account: DayAccount) -> DayAccount:
        params, days = self._setup.rules.params, self.days
        present = [one for one in self._providers if self._away.get(one.address, 0) <= account.day]
        view = self._view(account, present)
        turn = self._strategy(view)
        self._penalties = self._penalties.on(account.day)
        ceiling, own = account.ceiling_wei(params), {offer.standing.bid.provider for _, offer in turn.offers}
        wanted = demand(self._users, account.max_t, SUPPLY_WEI, self._needs)
        flows, sold = list(turn.flows), dict[Address, int]()
        for model in range(MODELS):
            offers = [Offer(standing(p.address, model, p.price_wei), p.capacity_t) for p in present if p.model == model]
            offers += [offer for of, offer in turn.offers if of == model]
            got = allocate(offers, wanted[model], ceiling, params, self._penalties)
            prices = {offer.standing.bid.provider: offer.standing.bid.price_wei for offer in offers}
            for provider, tokens in got.items():
                slow = tokens * (not turn.offers_fast)
                if provider not in own:
                    slow = int(tokens * turn.slowed.get(model, 0.0))
                flows += _pooled(provider, tokens - slow, wanted[model], prices[provider])
                flows += _pooled(provider, slow, wanted[model], prices[provider], is_fast=False)
            sold |= got
        balances = {one.address: one.balance_wei for one in present} | dict.fromkeys(own, self._balance)
        balances |= {flow.provider: self._balance // len(turn.flows) for flow in turn.flows}
        paid = settle_flows(flows, account, params, balances)
        self._penalise(turn)
        self._twin.sold_t, self._twin.capacity_t = sum(sold.get(one, 0) for one in own), view.access_t
        self._twin.adapt()
        self._note_attacker(account, view, turn, paid.wei, self._twin.sold_t)
        honest_profit = self._move_providers(account.day, present, sold, paid.wei)
        self._idle_t = max(0, sum(one.capacity_t for one in present) - sum(sold.values()))
        self._credited += paid.credited_wei
        days.spent.append(paid.credited_wei)
        days.budget.append(account.budget_wei)
        days.reference.append(account.reference_price_wei)
        days.served.append(sum(sold.values()) / max(1, sum(wanted)))
        days.honest_profit.append(honest_profit)
        return _credited(account, paid.credited_t, paid.credited_wei)

    def _view(self, account: DayAccount, present: list[Provider]) -> View:
        by_model = {model: tuple(one for one in present if one.model == model) for model in range(MODELS)}
        lowest = tuple(
            min((one.price_wei for one in by_model[model]), default=account.reference_price_wei)
            for model in range(MODELS)
        )
        return View(
            day=account.day,
            days=self._setup.days,
            account=account,
            rules=self._setup.rules,
            access_t=allowance(self._balance, account.max_t, SUPPLY_WEI),
            cost_wei=self._cost,
            lowest=lowest,
            honest=by_model,
            twin=self._twin,
            idle_t=self._idle_t,
            chance=self._chance,
        )

    def _penalise(self, turn: Turn) -> None:
        points = {who: count + self._penalties.get(who, 0) for who, count in turn.fails.items() if count}
        self._penalties = self._penalties.with_points(points)

    def _note_attacker(
        self, account: DayAccount, view: View, turn: Turn, wei: dict[Address, int], public_t: int
    ) -> None:
        public = {offer.standing.bid.provider for _, offer in turn.offers}
        own = {flow.provider for flow in turn.flows}
        matured = int(sum(wei.get(one, 0) for one in own) * turn.kept) + sum(wei.get(one, 0) for one in public)
        stolen = turn.stolen_t * view.lowest[TARGET]
        self.days.profit.append(matured + stolen - (turn.computed_t + public_t) * self._cost)
        self.days.share.append(account.budget_wei * self._balance // SUPPLY_WEI)
        hardware = turn.hardware_t * self._cost * HARDWARE_DAYS // 2
        self.days.capital_wei = max(self.days.capital_wei, self._balance + hardware)

    def _move_providers(
        self, day: int, present: list[Provider], sold: dict[Address, int], wei: dict[Address, int]
    ) -> int:
        """Prices follow sales; whoever goes unpaid for long enough stays away for a while."""
        gained = 0
        for one in present:
            one.sold_t = sold.get(one.address, 0)
            gained += wei.get(one.address, 0) - one.sold_t * one.cost_wei
            one.adapt()
            unpaid = 0 if wei.get(one.address, 0) else self._unpaid.get(one.address, 0) + 1
            if unpaid >= LEAVES_AFTER:
                self._away[one.address], unpaid = day + LEAVES_AFTER, 0
            self._unpaid[one.address] = unpaid
        return gained


def _pooled(provider: Address, tokens: int, wanted: int, price_wei: int, *, is_fast: bool = True) -> list[Flow]:
    """All honest users' sessions with one provider, as one pass's: the share that a provider may have is the same."""
    full, rest = divmod(tokens, SESSION_T)
    sizes = [(full, SESSION_T)] * bool(full) + [(1, rest)] * bool(rest)
    key = name("all users")
    return [Flow(key, provider, wanted, price_wei, count, size, is_fast=is_fast) for count, size in sizes]


def _credited(account: DayAccount, tokens: int, wei: int) -> DayAccount:
    """The day's account at its end."""
    return replace(account, credited_t=Uint256(tokens), credited_wei=Uint256(wei))


def _chance(of: str, seed: int) -> random.Random:
    """A stream of its own for each purpose: what one draws more shifts no other."""
    return random.Random(f"{of} {seed}")  # noqa: S311  # a simulation, nothing secret
