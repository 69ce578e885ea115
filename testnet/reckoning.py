"""The end of a run of days: a credit claimed under an old root, and a batch over budget that the contract refuses.

Synchronous, like the chain client: the run does it in a worker thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.committee import Committee
from consensus.market.day_account import DayAccount
from consensus.market.ledger_state import Ledger
from contracts.amounts import show_exact
from contracts.bindings import Compute, Mor
from contracts.merkle import CreditTree
from contracts.signing import Key
from contracts.typed_data import Address, Domain
from gossip.messages.committee import BatchHeader
from testnet.agreement import Views
from testnet.errors import TestnetError
from testnet.forgery import certify, credit_liar, refusal, would_pay

OVER_BUDGET = "compute: over budget"


class DaysFailed(TestnetError):
    """Something did not hold: the message says what."""


@dataclass(slots=True)
class Day:
    """One day as it was seen: the ledger's account, and the contract's views at the day's last batch. Wei."""

    account: DayAccount
    views: Views
    pool_before: int
    """In the unused pool when the day began, by the ledger (S23)."""
    pool_view: int
    """The same by the contract's view."""
    pool_after: int | None = None
    """When the day was over, by the ledger; None while it isn't."""
    credited: int = 0
    """Since genesis, bootstrap included, as of the day's last batch; so is ``bootstrap``."""
    bootstrap: int = 0
    batches: int = 0
    last_height: int = 0
    """Of the day's last batch."""
    credits: CreditTree = field(default_factory=lambda: CreditTree.of({}))
    """As of the day's last batch."""


def claim_late(
    compute: Compute, mor: Mor, purse: Key, provider: Address, between: tuple[Day, Ledger]
) -> tuple[str, ...]:
    """Pay ``provider`` its credit of a day long over under that day's last root, then the rest under the newest.

    ``between`` are that day and the ledger now; ``purse`` sends, for anybody may. Returns what came of it in words.
    Raises :class:`DaysFailed` where any amount is off by a wei, or the provider had been paid before.
    """
    day, ledger = between
    cumulative = int(day.credits.get(provider, 0))
    if cumulative == 0:
        raise DaysFailed(f"0x{provider.hex()} was credited nothing until the end of day {day.account.day}")
    proof = day.credits.proof(provider)
    already, held = compute.paid(provider), mor.balance_of(provider)
    claimable = compute.claimable(provider, cumulative, day.last_height, proof)
    payment = compute.claim(purse, provider, cumulative, day.last_height, proof)
    arrived = mor.balance_of(provider) - held
    if already or not claimable == payment.amount == arrived == cumulative:
        told = f"{already} wei had been paid, {claimable} were claimable, {payment.amount} paid, {arrived} arrived"
        raise DaysFailed(f"{told}, and {cumulative} are credited")
    newest = CreditTree.of(ledger.credits)
    owed = int(newest[provider]) - cumulative
    shown, gas = show_exact(arrived), payment.receipt.gas_used
    lines = (
        f"0x{provider.hex()} had claimed nothing until batch {ledger.height} of day {ledger.day}; under the root of"
        f" batch {day.last_height}, the last of day {day.account.day}, it is paid {shown}, {gas:,} gas",
    )
    if owed == 0:
        return lines
    rest = compute.claim(purse, provider, int(newest[provider]), ledger.height, newest.proof(provider))
    if rest.amount != owed:
        raise DaysFailed(f"{rest.amount} wei were paid under the newest root, {owed} were owed")
    return (
        *lines,
        f"and what it was credited since, under the root of batch {ledger.height}: {show_exact(rest.amount)}",
    )


def forge(
    compute: Compute, purse: Key, last: BatchHeader, liars: tuple[Committee, Sequence[Key]], domain: Domain
) -> tuple[str, ...]:
    """Have a whole committee sign 1 wei more than the day's budget has left, and see the contract refuse it.

    The same for exactly what is left would be taken, by a call that changes nothing: so it is the budget that refused.
    Raises :class:`DaysFailed`, or :class:`~testnet.forgery.ForgeryTaken`.
    """
    committee, keys = liars
    liar, left = purse.address, compute.budget_left(last.day)
    before = compute.credited_total(), compute.latest_height()
    over, within = credit_liar(last, left + 1, liar), credit_liar(last, left, liar)
    reason = refusal(compute, purse, over, certify(over, committee, keys, domain))
    if reason != OVER_BUDGET:
        raise DaysFailed(f"the forged batch was refused for another reason: {reason}")
    if (compute.credited_total(), compute.latest_height()) != before:
        raise DaysFailed("the refused batch has changed the contract")
    paid = would_pay(compute, within, certify(within, committee, keys, domain), liar, left)
    if paid != left:
        raise DaysFailed(f"a batch within the budget would pay {paid} wei, not {left}: the test proves nothing")
    return (
        f"all {len(keys)} members sign a batch {over.height} that credits {show_exact(left + 1)} more, 1 wei over what"
        f" is left of day {last.day}: the contract reverts with `{reason}` and keeps what it had",
        f"exactly {show_exact(left)} would be taken (a call, not a transaction): it is the budget that bounds a"
        " lying committee",
    )
