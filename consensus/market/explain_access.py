"""A day and an allowance in words: every formula with its numbers filled in, and where each number comes from."""

from collections.abc import Sequence

import msgspec

from consensus.market import access
from consensus.market.bootstrap import bootstrap_reserve, leaders
from consensus.market.errors import show
from consensus.market.ledger_state import DayAccount, Ledger, moved_price
from consensus.params import NetworkParams, Terms
from contracts.budget import BOOTSTRAP_SHARE, POOL_SHARE
from contracts.typed_data import Address

_LEADERS_SHOWN = 3


class Holding(msgspec.Struct, frozen=True):
    """What a node knows of one holder on one day. ``issued_t`` is None where it keeps no count."""

    user: Address
    balance_wei: int
    """At the day's snapshot block."""
    members: tuple[Address, ...]
    """The committee that the home routers are drawn from."""
    issued_t: int | None


def explain_day(ledger: Ledger, account: DayAccount, terms: Terms) -> tuple[str, ...]:
    """Lines of text for the day of ``account``, one of the ledger's; the last ones are the reader's own verdict."""
    day, params = account.day, terms.params
    opened = f"batch {account.opened_height}" if account.opened_height else "the genesis"
    lines = [
        f"day {day}, opened by {opened}; slots {day * params.day_slots} to {(day + 1) * params.day_slots - 1}"
        f" (params.day_slots = {params.day_slots})",
        f"supply {account.supply_wei} wei, at snapshot block {account.snapshot_block} (opening in {opened})",
        *_budget_lines(account, terms, opened),
        *_price_lines(account, params, opened),
        f"MaxT = budget / reference price = {account.budget_wei} / {account.reference_price_wei} ="
        f" {account.max_t} T (S38)",
        _access_rate_line(account),
        f"price ceiling = reference price x params.ceiling_percent = {account.reference_price_wei} x"
        f" {params.ceiling_percent} % = {account.ceiling_wei(params)} wei per T",
        "budget left = budget + forfeited - credited - second opinions ="
        f" {account.budget_wei} + {account.returned_wei} - {account.credited_wei} - {account.opinions_wei} ="
        f" {account.budget_left_wei} wei, with {account.credited_t} T so far (ledger of batch {ledger.height}, S37)",
        *_audit_lines(ledger, params),
        f"allowance seen in settlements {account.issued_t} T of MaxT {account.max_t} (ledger of batch {ledger.height})",
        *_bootstrap_lines(ledger, account, terms),
    ]
    return tuple(lines)


def explain_allowance(account: DayAccount, holding: Holding) -> tuple[str, ...]:
    """Lines of text for what a holder may use on the day of ``account``. Raises :class:`AccessInvalid` as S38 does."""
    balance, day = holding.balance_wei, account.day
    most = access.user_max(account.max_t, account.supply_wei, balance)
    lines = [
        f"{show(holding.user)} holds {balance} wei at snapshot block {account.snapshot_block}, day {day}'s",
        f"MaxT = budget / reference price = {account.budget_wei} / {account.reference_price_wei} = {account.max_t} T"
        f" (`explain day {day}` has both)",
        _access_rate_line(account),
        f"UserMax = MaxT x balance / supply = {account.max_t} x {balance} / {account.supply_wei} = {most} T (S36, S38)",
        f"largest single pass {access.round_allowance(most)} T: rounded down to two binary digits (S34); the rest on"
        " further passes",
        f"priority {access.rank(balance)}: 0 for nothing, 1 below 1 MOR, one more for every doubling (S26)",
    ]
    if holding.issued_t is not None:
        left = most - holding.issued_t
        lines.append(f"issued {holding.issued_t} T by all routers that this member heard of: {left} T are left")
        if left < 0:
            lines.append(f"verdict: OVER-ISSUED by {-left} T, provable fraud by an issuer")
    lines.append("home routers by rendezvous hashing of address and day: " + _ranking(holding, day))
    if most == 0:
        lines.append("verdict: no access today, the balance is worth less than 1 T")
    return tuple(lines)


def _budget_lines(account: DayAccount, terms: Terms, opened: str) -> Sequence[str]:
    day, economics, paid = account.day, terms.economics, int(account.paid_before_wei)
    income, unused, emission = economics.income(day), economics.unused(day, paid), economics.emission(day)
    gained, percent = economics.income(day + 1) - income, unused // POOL_SHARE
    cap, derived = gained + percent, economics.budget(day, paid)
    start_s = economics.day_start_s(day)
    is_emission = terms.params.budget_policy == "emission"
    wanted = f"the day's emission {emission}" if is_emission else f"1 % of the unused pool, {percent}"
    verdict = "holds" if derived == account.budget_wei else f"does NOT hold: the formula gives {derived}"
    return (
        f"compute emission of day {day} = {emission} wei, from {start_s} to {economics.day_start_s(day + 1)} (S7)",
        f"pool income before day {day} = endowment + emitted - bootstrap reserve = {economics.endowment_wei} +"
        f" {economics.schedule.emitted(start_s)} - {economics.reserve(start_s)} = {income} wei"
        f" (params.endowment_mor = {terms.params.endowment_mor})",
        f"unused pool = income - credited, late pay included = {income} - {paid} = {unused} wei ({opened})",
        f"1 % rule: income of the day + unused / {POOL_SHARE} = {gained} + {percent} = {cap} wei (S23)",
        f"budget = min(wanted, 1 % rule, unused) = min({emission if is_emission else percent}, {cap}, {unused}) ="
        f" {derived} wei; wanted is {wanted} (params.budget_policy = {terms.params.budget_policy}, S37)",
        f"verdict: the budget {account.budget_wei} wei of the opening in {opened} {verdict}",
    )


def _price_lines(account: DayAccount, params: NetworkParams, opened: str) -> Sequence[str]:
    price, before = account.reference_price_wei, account.before_price_wei
    if not account.opened_height:
        return (f"reference price {price} wei per T (reference_price_wei of the network file)",)
    source = f"day {account.day - 1} or the last before it, as of {opened}"
    if not account.before_t:
        return (f"reference price {price} wei per T, unchanged: nothing was credited ({source})",)
    step = params.reference_step_percent
    mean = account.before_wei // account.before_t
    derived = moved_price(before, account.before_t, account.before_wei, params)
    verdict = "holds" if derived == price else f"does NOT hold: it should be {derived}"
    return (
        f"mean price = credited wei / credited T = {account.before_wei} / {account.before_t} ="
        f" {mean} wei per T ({source})",
        f"reference price = {mean} kept within {before} -+ params.reference_step_percent {step} % = {price} wei per T",
        f"verdict: the reference price {verdict}",
    )


def _access_rate_line(account: DayAccount) -> str:
    rate = access.access_rate(account.max_t, account.supply_wei)
    return (
        f"AccessRate = MaxT / supply = {account.max_t} x 10^18 / {account.supply_wei} = {rate} T per 1 MOR a day (S40)"
    )


def _audit_lines(ledger: Ledger, params: NetworkParams) -> Sequence[str]:
    if params.audit_slots == 0:
        return ()
    audits = ledger.audits
    picks = sum(len(some) for some in audits.picks.values())
    return (
        f"immature credits {audits.immature_wei} wei, due after {params.audit_slots} slots (params.audit_slots);"
        f" forfeited since genesis {audits.forfeited_wei} wei, paid for second opinions {audits.opinions_wei} wei;"
        f" {picks} sessions are picked (ledger of batch {ledger.height}, S8)",
    )


def _bootstrap_lines(ledger: Ledger, account: DayAccount, terms: Terms) -> Sequence[str]:
    params, reserve = terms.params, bootstrap_reserve(account.day, terms)
    lines = [
        f"bootstrap of day {account.day} = emission / {BOOTSTRAP_SHARE} ="
        f" {reserve} wei on the first {params.bootstrap_days} days (S24), to {params.bootstrap_providers} leaders;"
        f" paid since genesis {ledger.bootstrap_credited} wei (ledger of batch {ledger.height})"
    ]
    if account.day == ledger.day:
        first = leaders(ledger.day_credits, params)[:_LEADERS_SHOWN]
        lines += [f"  leader {place}: {show(who)} with {wei} wei today" for place, (who, wei) in enumerate(first, 1)]
    return lines


def _ranking(holding: Holding, day: int) -> str:
    return ", ".join(show(member) for member in access.home_routers(holding.user, day, holding.members)[:3])
