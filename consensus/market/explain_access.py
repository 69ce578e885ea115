"""A day and an allowance in words: every formula with its numbers filled in, and where each number comes from.

A source is a batch, a block, a key of the network file, or a view of the Compute Contract or of MOR with the arguments
that lead to the same figure there.
"""

from collections.abc import Iterator

import msgspec

from consensus.market import access
from consensus.market.bootstrap import bootstrap_reserve
from consensus.market.day_account import DayAccount, moved_price
from consensus.market.deposits import RELEASE_PERCENT, has_deposits
from consensus.market.errors import show
from consensus.market.history import DayRecord
from consensus.params import NetworkParams, Terms
from contracts.amounts import show_exact, show_mor
from contracts.budget import BOOTSTRAP_SHARE, POOL_SHARE
from contracts.typed_data import Address


class Holding(msgspec.Struct, frozen=True):
    """What a node knows of one holder on one day. ``issued_t`` is None where it keeps no count."""

    user: Address
    balance_wei: int
    """At the day's snapshot block."""
    members: tuple[Address, ...]
    """The committee that the home routers are drawn from."""
    issued_t: int | None
    used_t: int | None = None
    """T reserved or spent on the passes that this node itself issued; None where it issues none."""


def explain_day(record: DayRecord, terms: Terms, today: int) -> tuple[str, ...]:
    """Lines of text for a day that batches have told of, where ``today`` is the day by the reader's clock.

    The verdicts in it are the reader's own: what the formulas give against what the committee certified.
    """
    return tuple(_day_lines(record, terms, today))


def _day_lines(record: DayRecord, terms: Terms, today: int) -> Iterator[str]:
    account, params = record.account, terms.params
    day, source = account.day, _opened_by(account)
    is_over = "over" if day < today else "not over yet"
    batches = f"batches {record.first} to {record.last}" if record.first else "no batch of its own"
    yield (
        f"Day {day}: slots {day * params.day_slots:,} to {(day + 1) * params.day_slots - 1:,}"
        f" (params.day_slots = {params.day_slots:,}), {batches}, opened by {source}, {is_over}"
    )
    yield "Supply"
    yield f"  supply = {show_exact(account.supply_wei)}"
    yield f"    MOR.totalSupply() at snapshot block {account.snapshot_block}, as {source} tells"
    yield from _budget_lines(account, terms, source)
    yield from _price_lines(account, params)
    yield "Access (S38, S40)"
    yield from _access_lines(account)
    ceiling = account.ceiling_wei(params)
    yield (
        f"  price ceiling = reference price x params.ceiling_percent = {account.reference_price_wei:,} x"
        f" {params.ceiling_percent} % = {ceiling:,} wei per T"
    )
    yield f"Use of the day's tickets, up to batch {record.as_of} (S37)"
    left = " - deposits that left" if account.released_wei else "", _less_released(account)
    yield (
        f"  budget left = budget{left[0]} + forfeited - credited - second opinions = {left[1]} +"
        f" {show_mor(account.returned_wei)} - {show_mor(account.credited_wei)} - {show_mor(account.opinions_wei)} ="
        f" {show_exact(account.budget_left_wei)}"
    )
    yield f"  credited {account.credited_t:,} T of MaxT {account.max_t:,} T"
    yield f"  allowance of the passes seen in settlements {account.issued_t:,} T of MaxT {account.max_t:,} T"
    if params.audit_slots:
        yield from _audit_lines(record, params)
    yield from _bootstrap_lines(record, terms)


def explain_allowance(
    account: DayAccount, holding: Holding, params: NetworkParams, *, is_opened: bool = True
) -> tuple[str, ...]:
    """Lines of text for what a holder may use on the day of ``account``; ``is_opened`` says that a batch has opened it.

    Raises :class:`AccessInvalid` as S38 does.
    """
    return tuple(_allowance_lines(account, holding, params, is_opened=is_opened))


def _allowance_lines(account: DayAccount, holding: Holding, params: NetworkParams, *, is_opened: bool) -> Iterator[str]:
    balance, day, user = holding.balance_wei, account.day, show(holding.user)
    most = access.user_max(account.max_t, account.supply_wei, balance)
    yield f"Allowance of {user} on day {day}"
    if not is_opened:
        yield "  no batch has opened the day yet: supply and snapshot block are those of the day before it"
    yield f"  balance = {show_exact(balance)}"
    yield f"    MOR.balanceOf({user}) at snapshot block {account.snapshot_block}"
    yield from _access_lines(account)
    yield f"    `explain day {day}` tells where budget, reference price and supply come from"
    yield (
        f"  UserMax = MaxT x balance / supply = {account.max_t:,} T x {show_mor(balance)} /"
        f" {show_mor(account.supply_wei)} = {most:,} T (S36, S38)"
    )
    yield f"    contract view user_max({account.max_t}, {account.supply_wei}, {balance})"
    yield (
        f"  largest single pass = {access.round_allowance(most):,} T: UserMax rounded down to two binary digits (S34);"
        " the rest goes on further passes"
    )
    yield f"  priority = {access.rank(balance)}: 0 for nothing, 1 below 1 MOR, one more for every doubling (S26)"
    if holding.issued_t is None:
        yield "  issued: only members keep count; ask one of them"
    else:
        left = most - holding.issued_t
        yield f"  issued {holding.issued_t:,} T by all routers that this member heard of: {max(0, left):,} T are left"
        if left < 0:
            yield f"  verdict: OVER-ISSUED by {-left:,} T, provable fraud by an issuer"
    if holding.used_t is not None:
        yield f"  used {holding.used_t:,} T of the passes that this member issued, what is reserved included"
    yield (
        f"  a ticket that nobody files for takes TokenMax or params.voucher_window = {params.voucher_window:,} T off"
        " the pass, the lesser; T that a provider sent and nobody vouched for count too, as many at most"
    )
    ranking = access.home_routers(holding.user, day, holding.members)[:3]
    yield "  home routers by rendezvous hashing of address and day: " + ", ".join(map(show, ranking))
    if most == 0:
        yield "  verdict: no access today, the balance is worth less than 1 T"


def _opened_by(account: DayAccount) -> str:
    return f"batch {account.opened_height}" if account.opened_height else "the genesis file"


def _just_before(account: DayAccount) -> str:
    """What the batch that opened the day built on."""
    return f"batch {account.opened_height - 1}" if account.opened_height > 1 else "the genesis"


def _budget_lines(account: DayAccount, terms: Terms, source: str) -> Iterator[str]:
    day, economics, paid = account.day, terms.economics, int(account.paid_before_wei)
    policy = terms.params.budget_policy
    income, unused, emission = economics.income(day), economics.unused(day, paid), economics.emission(day)
    gained, percent = economics.income(day + 1) - income, unused // POOL_SHARE
    cap, derived = gained + percent, economics.budget(day, paid)
    start_s = economics.day_start_s(day)
    wanted, why = (emission, "the day's emission") if policy == "emission" else (percent, "1 % of the unused pool")
    yield f"Budget (S7, S23, S35, S37), params.budget_policy = {policy}"
    yield f"  emission of the day = {show_mor(emission)}"
    yield f"    contract view emission_of({day}); Unix seconds {start_s} to {economics.day_start_s(day + 1)}"
    yield (
        f"  income before the day = endowment + emitted - bootstrap reserve = {show_mor(economics.endowment_wei)} +"
        f" {show_mor(economics.schedule.emitted(start_s))} - {show_mor(economics.reserve(start_s))} ="
        f" {show_mor(income)} (params.endowment_mor = {terms.params.endowment_mor:,})"
    )
    yield f"  credited before = {show_mor(paid)}, what earlier days may still be paid late included"
    yield f"    the ledger as of {_just_before(account)}"
    yield f"  unused pool = income - credited = {show_mor(income)} - {show_mor(paid)} = {show_mor(unused)}"
    yield (
        f"  1 % rule = income of the day + unused / {POOL_SHARE} = {show_mor(gained)} + {show_mor(percent)} ="
        f" {show_mor(cap)} (S23)"
    )
    yield (
        f"  budget = min({why}, 1 % rule, unused) = min({show_mor(wanted)}, {show_mor(cap)}, {show_mor(unused)}) ="
        f" {show_exact(derived)}"
    )
    yield f"    contract view budget({day}, {paid})"
    told = f"the budget of {source}, {show_exact(account.budget_wei)}"
    yield f"  verdict: {told}, {'holds' if derived == account.budget_wei else 'does NOT hold'}"


def _price_lines(account: DayAccount, params: NetworkParams) -> Iterator[str]:
    price, before = account.reference_price_wei, account.before_price_wei
    yield "Reference price"
    if not account.opened_height:
        yield f"  reference price = {price:,} wei per T: reference_price_wei of the network file"
        return
    source = f"the day before, as of {_just_before(account)}"
    if not account.before_t:
        yield f"  reference price = {price:,} wei per T, unchanged: nothing was credited"
        yield f"    {source}"
    else:
        mean, step = account.before_wei // account.before_t, params.reference_step_percent
        yield (
            f"  mean price = credited / credited T = {show_exact(account.before_wei)} / {account.before_t:,} T ="
            f" {mean:,} wei per T"
        )
        yield f"    {source}"
        yield (
            f"  reference price = the mean, kept within {step} % of the {before:,} wei per T before"
            f" (params.reference_step_percent) = {price:,} wei per T"
        )
    derived = moved_price(before, account.before_t, account.before_wei, params)
    verdict = "holds" if derived == price else f"does NOT hold: it should be {derived:,} wei per T"
    yield f"  verdict: the reference price {verdict}"


def _access_lines(account: DayAccount) -> Iterator[str]:
    budget, price, supply, max_t = account.market_wei, account.reference_price_wei, account.supply_wei, account.max_t
    if account.released_wei:
        yield (
            f"  MaxT = (budget - deposits that left) / reference price = ({_less_released(account)}) /"
            f" {price:,} wei per T = {max_t:,} T"
        )
    else:
        yield f"  MaxT = budget / reference price = {show_mor(budget)} / {price:,} wei per T = {max_t:,} T"
    yield f"    contract view max_t({budget}, {price})"
    rate = access.access_rate(max_t, supply)
    yield f"  AccessRate = MaxT / supply = {max_t:,} T / {show_mor(supply)} = {rate:,} T per 1 MOR a day"
    yield f"    contract view access_rate({max_t}, {supply})"


def _less_released(account: DayAccount) -> str:
    budget = show_mor(account.budget_wei)
    return f"{budget} - {show_mor(account.released_wei)}" if account.released_wei else budget


def _audit_lines(record: DayRecord, params: NetworkParams) -> Iterator[str]:
    yield f"Second opinions (S8), all days', as of batch {record.last}"
    due = f"due after params.audit_slots = {params.audit_slots:,} slots"
    yield f"  immature credits = {show_mor(record.immature_wei)}, {due}"
    yield f"  forfeited since genesis = {show_mor(record.forfeited_wei)}"
    yield f"  paid for opinions since genesis = {show_mor(record.opinions_wei)}"
    if has_deposits(params):
        yield (
            f"  deposits = {show_mor(record.deposits_wei)}, of which {show_mor(record.leaving_wei)} have left and are"
            f" paid by the next days' first batches, from {RELEASE_PERCENT} % of their budgets at most"
        )
    yield f"  sessions picked, until their window ends = {record.picked:,}"


def _bootstrap_lines(record: DayRecord, terms: Terms) -> Iterator[str]:
    params, day = terms.params, record.account.day
    reserve = bootstrap_reserve(day, terms)
    yield f"Bootstrap (S24), the first {params.bootstrap_days} days"
    yield (
        f"  reserve of the day = emission / {BOOTSTRAP_SHARE} = {show_exact(reserve)} for the first"
        f" {params.bootstrap_providers} by credit in the day's batches"
    )
    for place, (who, wei) in enumerate(record.leaders, 1):
        yield f"  leader {place} = {show(who)} with {show_mor(wei)}"
    if record.paid_by:
        yield f"  paid to them = {show_exact(record.bootstrap_wei)} by batch {record.paid_by}, pro rata, rounded down"
    else:
        yield "  paid by the first batch of the next day that has one"
