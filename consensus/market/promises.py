"""What a home router has promised of a day's budget, so that nobody is matched with money that is gone (S37).

A router may promise as much as the passes that it has issued are worth: their T at the day's reference price. All
passes of a day together are at most MaxT, whose worth is the day's budget, so routers that know nothing of each
other's tickets never promise more than there is, and a session that was matched is never unpaid for want of budget.
A ticket is worth TokenMax × its price until a batch settles it, and then what it was credited.
"""

from consensus.market.errors import RfcRefused
from contracts.typed_data import Digest
from gossip.messages.market import Ticket


class Promises:
    """One router's, by day. Amounts are wei."""

    def __init__(self) -> None:
        self._issued_t: dict[int, int] = {}
        self._outstanding: dict[int, int] = {}
        self._credited: dict[int, int] = {}
        self._tickets: dict[Digest, tuple[int, int]] = {}
        """Ticket id to its day and its worth, from the match to the batch."""

    def issue(self, day: int, tokens: int) -> None:
        """This router has issued a pass of ``tokens`` T for ``day``."""
        self._issued_t[day] = self._issued_t.get(day, 0) + tokens

    def promise(self, ticket_id: Digest, ticket: Ticket, day: int) -> None:
        """A match was made."""
        worth = worth_wei(ticket.token_max, ticket.bid.payload.price_wei)
        self._tickets[ticket_id] = day, worth
        self._outstanding[day] = self._outstanding.get(day, 0) + worth

    def settle(self, ticket_id: Digest, credited_wei: int) -> None:
        """A batch has settled a ticket, or none will and ``credited_wei`` is 0."""
        if (held := self._tickets.pop(ticket_id, None)) is not None:
            day, worth = held
            self._outstanding[day] -= worth
            self.credit(day, credited_wei)

    def credit(self, day: int, credited_wei: int) -> None:
        """After a restart: what a ticket of ``day`` was credited before."""
        self._credited[day] = self._credited.get(day, 0) + credited_wei

    def left(self, day: int, reference_price_wei: int, budget_left_wei: int) -> int:
        """What may still be promised of ``day``; the budget that the ledger has left bounds it besides."""
        outstanding = self._outstanding.get(day, 0)
        own = self._issued_t.get(day, 0) * reference_price_wei - self._credited.get(day, 0)
        return min(own, budget_left_wei) - outstanding

    def refusal(self, wanted: tuple[int, int], day: int, left: int, allowance_left: int) -> RfcRefused:
        """Why an RFC is refused whose TokenMax and price, ``wanted``, need more wei of ``day`` than are ``left``.

        budget_held where tickets that no batch has settled may leave enough of what they were promised, else
        budget_spent.
        """
        (token_max, price_wei), held = wanted, self._outstanding.get(day, 0)
        needed = worth_wei(token_max, price_wei)
        code = "budget_held" if 0 < needed <= left + held else "budget_spent"
        rest = f"{max(0, left)} wei of the budget of day {day} are not promised yet, {held} wei are"
        what = f"TokenMax {token_max} T at {price_wei} wei need {needed} wei"
        return RfcRefused(code, f"{what}, {rest}", allowance_left)

    def forget_before(self, day: int) -> None:
        """Drop what was issued for earlier days; tickets of theirs are dropped when they are settled."""
        self._issued_t = {of: tokens for of, tokens in self._issued_t.items() if of >= day}
        self._credited = {of: wei for of, wei in self._credited.items() if of >= day}
        self._outstanding = {of: wei for of, wei in self._outstanding.items() if of >= day or wei}


def worth_wei(token_max: int, price_wei: int) -> int:
    """What a session may cost at most."""
    return token_max * price_wei
