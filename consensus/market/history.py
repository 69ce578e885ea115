"""The days that a ledger has seen, the forgotten ones included: what explains a past day.

The ledger itself forgets a day as soon as no ticket of it can be settled any more. Whoever follows the batches, as they
come or from the store, keeps this beside it, in a snapshot too; no rule reads it.
"""

from collections.abc import Mapping

import msgspec

from consensus.market.bootstrap import by_credit
from consensus.market.day_account import DayAccount
from consensus.market.ledger_state import Ledger
from consensus.market.maturing import Audits
from contracts.typed_data import Address, Uint256

LEADERS_KEPT = 3
"""Leaders of a day that are remembered by name."""


class DayRecord(msgspec.Struct, frozen=True):
    """One day as far as batches have told of it. Amounts are wei, and larger than 64 bits."""

    account: DayAccount
    as_of: int
    """The height up to which the account is told."""
    first: int = 0
    """The day's first batch, 0 where it had none; ``last`` is its last."""
    last: int = 0
    leaders: tuple[tuple[Address, Uint256], ...] = ()
    """Who was credited most in the day's batches, and how much."""
    bootstrap_wei: Uint256 = Uint256(0)
    """What batch ``paid_by`` paid to the day's leaders (S24); 0 while that hasn't come."""
    paid_by: int = 0
    immature_wei: Uint256 = Uint256(0)
    """Put by for second opinions after the day's last batch (S8), whichever day's; so are the others below."""
    forfeited_wei: Uint256 = Uint256(0)
    """Since genesis."""
    opinions_wei: Uint256 = Uint256(0)
    """What scorers had been paid since genesis."""
    picked: int = 0
    """Sessions that were picked for a second opinion and whose window has not ended."""
    deposits_wei: Uint256 = Uint256(0)
    """Providers' deposits, those included that have left and are not paid yet: ``leaving_wei``."""
    leaving_wei: Uint256 = Uint256(0)


class History:
    """The days since genesis, from a ledger and those that followed it one by one."""

    def __init__(self, genesis: Ledger) -> None:
        self._days = {genesis.day: _with_audits(DayRecord(genesis.account, genesis.height), genesis.audits)}

    @classmethod
    def of(cls, days: Mapping[int, DayRecord]) -> "History":
        """A history that knew ``days``: from a snapshot."""
        history = cls.__new__(cls)
        history._days = dict(days)
        return history

    @property
    def days(self) -> Mapping[int, DayRecord]:
        """What is known, by day."""
        return self._days

    def note(self, before: Ledger, after: Ledger) -> None:
        """``after`` came out of the batch that followed ``before``."""
        height = after.height
        for number, account in after.days.items():
            held = self._days.get(number)
            if held is None or held.account != account or number == after.day:
                held = DayRecord(account, height) if held is None else held
                self._days[number] = msgspec.structs.replace(held, account=account, as_of=height)
        today = self._days[after.day]
        leaders = tuple((who, Uint256(wei)) for who, wei in by_credit(after.day_credits, LEADERS_KEPT))
        first = today.first or height
        today = msgspec.structs.replace(today, first=first, last=height, leaders=leaders)
        self._days[after.day] = _with_audits(today, after.audits)
        if after.day > before.day:
            paid = Uint256(after.bootstrap_credited - before.bootstrap_credited)
            over = self._days[before.day]
            self._days[before.day] = msgspec.structs.replace(over, bootstrap_wei=paid, paid_by=height)


def _with_audits(record: DayRecord, audits: Audits) -> DayRecord:
    return msgspec.structs.replace(
        record,
        immature_wei=Uint256(audits.immature_wei),
        forfeited_wei=Uint256(audits.forfeited_wei),
        opinions_wei=Uint256(audits.opinions_wei),
        picked=sum(len(some) for some in audits.picks.values()),
        deposits_wei=Uint256(audits.deposits.held_wei + audits.deposits.leaving_wei),
        leaving_wei=Uint256(audits.deposits.leaving_wei),
    )
