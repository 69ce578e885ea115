"""The bounds that have to hold, and the rules that are tried against them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from consensus.params import NetworkParams
from testnet.economy.attacks import IDLE, STRATEGIES, honest
from testnet.economy.rules import SESSION_T, Proposals, Rules
from testnet.economy.simulation import Days, Setup, Simulation

TODAY = Rules()
"""A network's default parameters."""

PROPOSED = Rules(NetworkParams(), Proposals(charge_worth=True))
"""With which no wash trade is above its share even on a network without a list of models."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack, averaged over its days. Returns are MOR per MOR (held, or of capital) and day."""

    name: str
    per_mor: float
    per_capital: float
    honest_per_mor: float
    """Of the same holder, if it had served others instead."""
    share_per_mor: float
    """Its pro-rata share of the budget."""
    served: float
    """The part of honest users' demand that was answered."""
    others_percent: float
    """What all honest providers earned, in percent of what they earn beside an honest holder."""

    @property
    def broken(self) -> tuple[str, ...]:
        """The bounds that this attack breaks, in words."""
        found = []
        if self.per_mor > self.share_per_mor:
            found.append("above its share")
        if self.name in IDLE and self.per_mor >= self.honest_per_mor:
            found.append("idle beats honest")
        return tuple(found)


def play(setup: Setup, names: Sequence[str]) -> list[Outcome]:
    """Each attack on the same market, and the honest holder first."""
    base = Simulation(setup, honest).run()
    runs = [("honest", base), *((name, Simulation(setup, STRATEGIES[name]).run()) for name in names)]
    return [_outcome(name, days, base) for name, days in runs]


def _outcome(name: str, days: Days, base: Days) -> Outcome:
    return Outcome(
        name=name,
        per_mor=days.per_mor(),
        per_capital=days.per_capital(),
        honest_per_mor=base.per_mor(),
        share_per_mor=days.share_per_mor(),
        served=sum(days.served) / len(days.served),
        others_percent=100 * sum(days.honest_profit) / max(1, sum(base.honest_profit)),
    )


def variations() -> Iterator[tuple[str, Rules]]:
    """Today's rules with one thing changed, then the proposed ones with one thing left out."""
    params = TODAY.params
    for title, changed in (
        ("today, ceiling 100 %", replace(params, ceiling_percent=100)),
        ("today, half of all sessions audited", replace(params, audit_bps=5_000)),
        ("today, without the list of models", replace(params, listed_models=False)),
        ("today, 8 providers a model, without the list", replace(params, min_providers=8, listed_models=False)),
        ("today, a provider earns 1 % of its MOR a day at most", replace(params, earnings_percent=1)),
    ):
        yield title, Rules(changed, TODAY.proposals)
    rules = PROPOSED.proposals
    yield "proposed, forfeits of the pair", replace(PROPOSED, params=replace(params, forfeits="pair"))
    yield "proposed, without the list", replace(PROPOSED, params=replace(PROPOSED.params, listed_models=False))
    yield (
        "proposed, ceiling 100 % for quota by worth",
        Rules(replace(PROPOSED.params, ceiling_percent=100), replace(rules, charge_worth=False)),
    )
    for sessions in (0, 150, 300):
        deposit = replace(params, deposit_tokens=sessions * SESSION_T)
        yield f"proposed, deposit of {sessions} sessions", replace(PROPOSED, params=deposit)
