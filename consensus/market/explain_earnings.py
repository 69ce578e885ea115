"""A provider's pay in words (S8, S32): what has matured, its deposit, what is immature, and when each comes."""

from collections.abc import Iterator

from consensus.market.deposits import RELEASE_PERCENT, Deposits, has_deposits, release_slot
from consensus.market.errors import show
from consensus.market.ledger_state import Ledger
from consensus.market.opinions import due_slot
from consensus.market.trie import Trie
from consensus.params import NetworkParams
from contracts.amounts import show_exact, show_mor
from contracts.typed_data import Address


def explain_earnings(ledger: Ledger, params: NetworkParams, provider: Address) -> tuple[str, ...]:
    """Lines of text for what ``provider`` has been credited, as of the ledger."""
    return tuple(_lines(ledger, params, provider))


def immature_of(ledger: Ledger, provider: Address) -> dict[int, tuple[int, int]]:
    """Wei of a provider that come due, and those that are forfeited when they do, by part of the window."""
    found: dict[int, tuple[int, int]] = {}
    for bucket, sums in ledger.audits.immature.items():
        own = lost = 0
        for key, wei in Trie.of(sums).with_prefix(provider).items():
            if ledger.audits.is_struck(provider, Address(key[20:40]), bucket):
                lost += wei
            else:
                own += wei
        if own or lost:
            found[bucket] = own, lost
    return found


def _lines(ledger: Ledger, params: NetworkParams, provider: Address) -> Iterator[str]:
    yield f"Earnings of {show(provider)} as of batch {ledger.height}, slot {ledger.slot}"
    yield f"  matured = {show_exact(ledger.credits.get(provider, 0))} since genesis: the contract pays this much in all"
    if params.audit_slots == 0:
        yield "  credits mature at once; this network asks for no second opinions (params.audit_slots = 0)"
        return
    immature = immature_of(ledger, provider)
    waits = f"for params.audit_slots = {params.audit_slots:,} slots"
    yield f"  immature = {show_exact(sum(own for own, _ in immature.values()))}, {waits}"
    for bucket, (own, lost) in immature.items():
        forfeited = f", and {show_mor(lost)} are FORFEITED" if lost else ""
        yield f"    {show_mor(own)} come due in slot {due_slot(bucket, params)}{forfeited}"
    fresh = sum(made.credited_wei for made in ledger.outcomes if made.provider == provider)
    if fresh:
        yield f"    {show_mor(fresh)} more were settled by the last batch; the next one says when they come due"
    if has_deposits(params):
        yield from _deposit_lines(ledger, params, provider)


def _deposit_lines(ledger: Ledger, params: NetworkParams, provider: Address) -> Iterator[str]:
    deposits, price = ledger.audits.deposits, ledger.account.reference_price_wei
    deposit, full = deposits.of(provider), params.deposit_tokens * price
    yield (
        f"  deposit = {show_exact(deposit.wei)} of params.deposit_tokens x reference price ="
        f" {params.deposit_tokens:,} x {price:,} wei per T = {show_mor(full)}"
    )
    if deposit.wei < full:
        yield f"    what comes due fills it first: {show_mor(full - deposit.wei)} until credits mature"
    if deposit.is_full:
        yield (
            f"    released in slot {release_slot(deposit.part, params)} unless another session is credited before"
            f" (params.deposit_slots = {params.deposit_slots:,})"
        )
    else:
        yield "    not released before it has been full"
    yield "    forfeited with all that is immature if a second opinion fails"
    before, own = _leaving(deposits, provider)
    if own:
        yield (
            f"  leaving = {show_exact(own)}, behind {show_mor(before)} of others: paid by the first batch of the next"
            f" days, {RELEASE_PERCENT} % of a day's budget at most"
        )


def _leaving(deposits: Deposits, provider: Address) -> tuple[int, int]:
    """Wei of others that are paid before the last of a provider's, and its own."""
    before = own = others = 0
    for released in deposits.leaving.values():
        for who, wei in released.items():
            if who == provider:
                own, before = own + wei, others
            else:
                others += wei
    return before, own
