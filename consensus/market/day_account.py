"""A day's account in the ledger: what opens it, what it may spend, and the reference price of the next (S37).

Pure rules on single days; which days a ledger holds is :mod:`consensus.market.ledger_state`'s.
"""

import msgspec

from consensus.market import access
from consensus.market.errors import BatchInvalid
from consensus.market.trie import Trie
from consensus.params import NetworkParams
from contracts.typed_data import Address, Uint256
from gossip.messages.committee import DayOpening


class DayAccount(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One day's opening numbers, and what has been issued and credited on it."""

    day: int
    snapshot_block: int
    supply_wei: Uint256
    budget_wei: Uint256
    reference_price_wei: int
    """Wei per T."""
    issued_t: Uint256
    """T of allowance on the passes of this day that have been settled against: what the committee has seen used."""
    credited_t: Uint256
    """Of the day's tickets, whichever batch settled them; so is ``credited_wei``."""
    credited_wei: Uint256
    epoch: int
    """Of the committee that was running when the day was opened: the day's routers, whoever takes over meanwhile."""
    opened_height: int
    """The batch that opened the day; 0 is the genesis."""
    before_price_wei: int
    """The reference price of the day before; on the genesis day its own."""
    before_t: Uint256
    """T credited on the day before, when this one opened: with ``before_wei`` the mean that moved the price."""
    before_wei: Uint256
    paid_before_wei: Uint256
    """Wei that sessions had been credited when the day opened, and what the days before could still pay: what its
    budget follows from (S23)."""
    returned_wei: Uint256 = Uint256(0)
    """Of ``credited_wei``, what was forfeited before it matured (S8)."""
    opinions_wei: Uint256 = Uint256(0)
    """What scorers were paid on this day."""
    released_wei: Uint256 = Uint256(0)
    """Of the budget, what the day's first batch pays to providers whose deposits have left (S8)."""

    @property
    def max_t(self) -> int:
        """T that the day's budget buys (S38), once deposits that leave have been paid out of it."""
        return access.max_t(self.market_wei, self.reference_price_wei)

    @property
    def market_wei(self) -> int:
        """Wei of the budget that are for the day's sessions."""
        return self.budget_wei - self.released_wei

    @property
    def budget_left_wei(self) -> int:
        """Wei that may still be credited on this day (S37)."""
        return self.market_wei + self.returned_wei - self.credited_wei - self.opinions_wei

    def ceiling_wei(self, params: NetworkParams) -> int:
        """The highest price per T that is matched on this day."""
        return self.reference_price_wei * params.ceiling_percent // 100


def opened(
    opening: DayOpening,
    reference_price_wei: int,
    epoch: int,
    before: DayAccount | None = None,
    *,
    height: int = 0,
    paid_before_wei: int = 0,
    released_wei: int = 0,
) -> DayAccount:
    """A day's account at its start.

    ``epoch`` is the running committee's, ``before`` the account that the price follows from, None at genesis, and
    ``released_wei`` what deposits that have left take of the budget.
    """
    return DayAccount(
        day=opening.day,
        snapshot_block=opening.snapshot_block,
        supply_wei=opening.supply_wei,
        budget_wei=opening.budget_wei,
        reference_price_wei=reference_price_wei,
        issued_t=Uint256(0),
        credited_t=Uint256(0),
        credited_wei=Uint256(0),
        epoch=epoch,
        opened_height=height,
        before_price_wei=reference_price_wei if before is None else before.reference_price_wei,
        before_t=Uint256(0 if before is None else before.credited_t),
        before_wei=Uint256(0 if before is None else before.credited_wei),
        paid_before_wei=Uint256(paid_before_wei),
        released_wei=Uint256(released_wei),
    )


def check_opening(opening: DayOpening, day: int, last_block: int) -> None:
    """Raise :class:`BatchInvalid` where ``opening`` can't open ``day`` after a snapshot at ``last_block``.

    Whether its numbers are the chain's is for the members to check before they vote.
    """
    if opening.day != day:
        raise BatchInvalid("opening_day", opening.day)
    if opening.supply_wei == 0:
        raise BatchInvalid("opening_supply", opening.supply_wei)
    if opening.snapshot_block < last_block:
        raise BatchInvalid("opening_snapshot_block", opening.snapshot_block)
    listed = [one.provider for one in opening.ranks]
    if listed != sorted(set(listed)):
        raise BatchInvalid("opening_ranks", "not sorted, or twice the same")


def next_reference_price(account: DayAccount, params: NetworkParams) -> int:
    """The reference price of the day after ``account``'s, in wei per T."""
    return moved_price(account.reference_price_wei, account.credited_t, account.credited_wei, params)


def moved_price(old: int, credited_t: int, credited_wei: int, params: NetworkParams) -> int:
    """The reference price, in wei per T, after a day at ``old`` on which ``credited_t`` T cost ``credited_wei``.

    The T-weighted mean price credited, moved by at most ``reference_step_percent`` a day; unchanged where nothing
    was credited, and never below 1.
    """
    if credited_t == 0:
        return old
    lowest = max(1, -(-old * (100 - params.reference_step_percent) // 100))
    highest = old * (100 + params.reference_step_percent) // 100
    return min(highest, max(lowest, credited_wei // credited_t))


def listed_ranks(opening: DayOpening) -> Trie[Address, int]:
    """The ranks that an opening tells, by provider."""
    return Trie.of({one.provider: one.rank for one in opening.ranks})


def oldest_day(slot: int, params: NetworkParams) -> int:
    """The first day of which a ticket can still be settled in a batch that closes ``slot``."""
    return params.day_of(max(0, slot - params.settle_window_slots))
