"""Provider deposits in the ledger (S8): what a provider has at stake however little of its credit is immature.

A provider's credits that come due first fill its deposit, until that is worth ``deposit_tokens`` at the reference price
of the day; only what is beyond matures. A failed pick takes the deposit. Once nothing of a provider's has been put by
for ``deposit_slots``, a deposit that was full is released: it leaves with the first batches of the following days, out
of their budgets and not of those that it came from, which the contract has long closed. One that was never full stays,
and is filled on when its provider comes back: addresses cost nothing, so whoever computes nothing would else put a
session or two on each, too few to be picked, and have them all released.

A provider costs one entry here and one in a calendar, which looks at it once a period, not once a session.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from consensus.market.trie import Trie, numbered_roots
from consensus.params import NetworkParams
from contracts.typed_data import Address, Uint256

RELEASE_PERCENT = 10
"""Of a day's budget, what deposits that leave take at most: many may leave at once, and users need the rest."""

PARTS = 64
"""Parts that ``deposit_slots`` is cut into: deposits are released, and last sessions remembered, a part at a time."""

NOTHING = Uint256(0)


class Deposit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a provider has at stake."""

    wei: Uint256
    part: int
    """Part of the calendar in which it may be released unless another session of the provider is put by; 0 once that
    has ended."""
    is_full: bool = False
    """Whether it has ever been full since it was last empty."""


NO_DEPOSIT = Deposit(NOTHING, 0)


class Deposits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The state after a batch. All of it is empty on a network without deposits."""

    held_wei: Uint256 = NOTHING
    """At stake, all providers' together."""
    leaving_wei: Uint256 = NOTHING
    """Released, and not paid yet."""
    held: Mapping[Address, Deposit] = {}
    calendar: Mapping[int, Mapping[Address, bool]] = {}
    """Part to the providers that are looked at when it ends."""
    leaving: Mapping[int, Mapping[Address, Uint256]] = {}
    """Part in which they were released to provider to wei; who left first is paid first."""

    def of(self, provider: Address) -> Deposit:
        """A provider's; one without anything where it has none."""
        return self.held.get(provider, NO_DEPOSIT)


def has_deposits(params: NetworkParams) -> bool:
    """Whether the network takes deposits: only where credits wait for second opinions."""
    return params.audit_slots > 0 and params.deposit_tokens > 0


def part_step(params: NetworkParams) -> int:
    """Slots of one part of the calendar."""
    return max(1, params.deposit_slots // PARTS)


def part_of(slot: int, params: NetworkParams) -> int:
    """The part in which a deposit is released whose provider had its last session put by in ``slot``."""
    return (slot + params.deposit_slots) // part_step(params) + 1


def release_slot(part: int, params: NetworkParams) -> int:
    """The first slot whose batch ends a part of the calendar."""
    return part * part_step(params)


def compute_released(deposits: Deposits, budget_wei: int) -> int:
    """Of a day's budget, what its first batch pays to those that left."""
    return min(deposits.leaving_wei, budget_wei * RELEASE_PERCENT // 100)


def has_release(deposits: Deposits, slot: int, params: NetworkParams, *, is_new_day: bool) -> bool:
    """Whether a batch that closes ``slot`` would release a deposit, or as the first of its day pay one."""
    is_due = any(release_slot(part, params) <= slot for part in deposits.calendar)
    return is_due or (is_new_day and deposits.leaving_wei > 0)


class DepositDraft:
    """The next :class:`Deposits` in the making, beside the old ones, which stay as they are."""

    def __init__(self, held: Deposits, params: NetworkParams, slot: int, price_wei: int) -> None:
        self._old = held
        self._params = params
        self._slot = slot
        self._full_wei = params.deposit_tokens * price_wei
        self._is_on = has_deposits(params)
        self._changed: dict[Address, Deposit] = {}
        self._calendar: dict[int, dict[Address, bool]] = {}

    def note(self, provider: Address) -> None:
        """A session of a provider has been put by: its deposit stays for a whole period from here."""
        if not self._is_on:
            return
        held, part = self._of(provider), part_of(self._slot, self._params)
        if held.part == part:
            return
        if held.part == 0:
            self._list(part, provider)
        self._changed[provider] = replace(held, part=part)

    def forfeit(self, provider: Address) -> int:
        """Take a provider's deposit; its wei."""
        held = self._of(provider)
        if held.wei:
            self._changed[provider] = replace(held, wei=NOTHING, is_full=False)
        return held.wei

    def fill(self, provider: Address, wei: int) -> int:
        """Of what has come due, the wei that the deposit doesn't need."""
        if not self._is_on:
            return wei
        held = self._of(provider)
        kept = min(wei, max(0, self._full_wei - held.wei))
        is_full = held.is_full or held.wei + kept >= self._full_wei
        if kept or is_full != held.is_full:
            self._changed[provider] = replace(held, wei=Uint256(held.wei + kept), is_full=is_full)
        return wei - kept

    def close(self, pay_wei: int) -> tuple[Deposits, dict[Address, int]]:
        """The deposits after the batch, and what of ``pay_wei`` was paid to whom of those that had left before it."""
        old = self._old
        leaving = dict(old.leaving)
        paid = _pay(leaving, pay_wei)
        calendar = {part: Trie.of(listed) for part, listed in old.calendar.items()}
        released = self._release(calendar, leaving)
        for part, listed in self._calendar.items():
            calendar[part] = calendar.get(part, Trie[Address, bool]()).with_items(listed)
        kept = sum(one.wei - old.of(provider).wei for provider, one in self._changed.items())
        deposits = Deposits(
            held_wei=Uint256(old.held_wei + kept),
            leaving_wei=Uint256(old.leaving_wei + released - sum(paid.values())),
            held=Trie.of(old.held).with_items(self._changed),
            calendar=dict(sorted(calendar.items())),
            leaving=dict(sorted(leaving.items())),
        )
        return deposits, paid

    def _of(self, provider: Address) -> Deposit:
        return self._changed.get(provider) or self._old.of(provider)

    def _list(self, part: int, provider: Address) -> None:
        self._calendar.setdefault(part, {})[provider] = True

    def _release(self, calendar: dict[int, Trie[Address, bool]], leaving: dict[int, Mapping[Address, Uint256]]) -> int:
        """Look at all whose part has ended: full deposits leave, unless their last sessions have moved them on.

        Gives the wei that leave.
        """
        total = 0
        while due := [part for part in {*calendar, *self._calendar} if release_slot(part, self._params) <= self._slot]:
            part = min(due)
            released: dict[Address, Uint256] = {}
            for provider in (*calendar.pop(part, ()), *self._calendar.pop(part, ())):
                held = self._of(provider)
                if held.part > part:
                    self._list(held.part, provider)
                    continue
                self._changed[provider] = NO_DEPOSIT if held.is_full else replace(held, part=0)
                if held.is_full:
                    released[provider] = held.wei
            if released:
                leaving[part] = Trie.of(released)
                total += sum(released.values())
        return total


def _pay(leaving: dict[int, Mapping[Address, Uint256]], pay_wei: int) -> dict[Address, int]:
    """Pay those that left first, in part where it doesn't reach; what they are paid is no longer in ``leaving``."""
    paid: dict[Address, int] = {}
    for part in sorted(leaving):
        if not pay_wei:
            break
        rest: dict[Address, Uint256] = {}
        for provider, wei in leaving[part].items():
            now = min(wei, pay_wei)
            pay_wei -= now
            if now:
                paid[provider] = paid.get(provider, 0) + now
            if now < wei:
                rest[provider] = Uint256(wei - now)
        if rest:
            leaving[part] = Trie.of(rest)
        else:
            del leaving[part]
    return paid


# The state's encodings.


def without_tries(deposits: Deposits) -> Deposits:
    """What is small, for a state root: the rest enters by :func:`deposit_roots`."""
    return replace(deposits, held={}, calendar={}, leaving={})


def deposit_roots(deposits: Deposits) -> list[bytes]:
    """The roots of what grows."""
    return [
        Trie.of(deposits.held).root,
        *numbered_roots(deposits.calendar),
        *numbered_roots(deposits.leaving),
    ]


def plain(deposits: Deposits) -> Deposits:
    """For a snapshot."""
    return replace(
        deposits,
        held=dict(deposits.held),
        calendar={part: dict(listed) for part, listed in deposits.calendar.items()},
        leaving={part: dict(wei) for part, wei in deposits.leaving.items()},
    )


def restored(deposits: Deposits) -> Deposits:
    """From a snapshot."""
    return replace(
        deposits,
        held=Trie.of(deposits.held),
        calendar={part: Trie.of(listed) for part, listed in deposits.calendar.items()},
        leaving={part: Trie.of(wei) for part, wei in deposits.leaving.items()},
    )
