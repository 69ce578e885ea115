"""Listed models (S8): which models are payable on which day, and the orders that change that.

Whoever owns every provider of a model owns whoever could find out that nothing was computed. So only models are
payable that the committee has listed, which decides over credits anyway: more than 2/3 of its voting power orders a
change, a batch carries the order, and it comes into force with a day, so that all routers judge alike for a day and a
late settlement is judged by the list of its ticket's day.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.errors import CertificateInvalid
from consensus.market.errors import ListingInvalid
from consensus.market.trie import Trie
from consensus.params import NetworkParams, Terms
from consensus.tendermint.certificate import check_signers
from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import Address, Digest, Signature, digest
from gossip.messages.listing import ListingOrder, ListModel

MAX_MODELS = 4_096
"""Models listed at a time, at most."""

ORDER_DAYS = 7
"""An order can be taken on its day and the days after it, so many in all: operators don't all speak on one day."""

MAX_ORDERED = 1_024
"""Models whose last order is still remembered, at most: further orders wait until :data:`ORDER_DAYS` are over."""

NOTICE_PARTS = 8
"""An order in the last eighth of a day waits for the day after the next: whoever serves on a day knows its list."""

NONE: Mapping[Digest, int] = {}


class Listing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The lists of the days whose tickets may still be settled, and of the days to come."""

    lists: Mapping[int, Mapping[Digest, int]] = {}
    """The first day that a list is in force to its models, each with the first day of its being listed."""
    ordered: Mapping[Digest, int] = {}
    """Model to the day of the last order that was taken for it, as long as an older one could still be told."""

    def on(self, day: int) -> Mapping[Digest, int]:
        """The models listed on ``day``; for days whose tickets are past, those of the oldest day that is remembered."""
        begun = [first for first in self.lists if first <= day]
        return self.lists[max(begun or self.lists)] if self.lists else NONE


NO_LISTING = Listing()


def genesis_listing(models: Iterable[Digest], day: int, params: NetworkParams) -> Listing:
    """The list that a network starts with on ``day``. Raises :class:`ListingInvalid` where it is too long."""
    listed = sorted(set(models))
    if len(listed) > MAX_MODELS:
        raise ListingInvalid("list_full", len(listed))
    if not params.listed_models:
        return NO_LISTING
    return Listing({day: Trie.of(dict.fromkeys(listed, day))})


def is_payable(listing: Listing, model_id: Digest, day: int, params: NetworkParams) -> bool:
    """Whether tickets of ``day`` for a model are paid."""
    return not params.listed_models or model_id in listing.on(day)


def unlisted(listing: Listing, model_id: Digest, day: int, params: NetworkParams) -> str | None:
    """For people: that a model isn't payable on ``day``; None where it is."""
    if is_payable(listing, model_id, day, params):
        return None
    coming = next((first for first in sorted(listing.lists) if first > day and model_id in listing.lists[first]), None)
    later = "" if coming is None else f", it will be from day {coming} on"
    return f"model 0x{model_id.hex()} is not listed on day {day}: nobody is paid for it{later} (S8)"


def listed_since(listing: Listing, model_id: Digest, day: int, params: NetworkParams) -> str:
    """For people: whether a model is payable on ``day``, and since when."""
    if (why := unlisted(listing, model_id, day, params)) is not None:
        return why
    if not params.listed_models:
        return "every model is payable here (params.listed_models)"
    return f"the model is listed since day {listing.on(day)[model_id]} (params.listed_models, S8)"


def in_force(slot: int, params: NetworkParams) -> int:
    """The first day on which an order counts that a batch closing ``slot`` carries."""
    return params.day_of(slot + params.day_slots // NOTICE_PARTS) + 1


def check_order(order: ListModel, listing: Listing, slot: int, params: NetworkParams) -> None:
    """Raise :class:`ListingInvalid` where a batch that closes ``slot`` can't take ``order``, whoever gives it."""
    day = params.day_of(slot)
    if not params.listed_models:
        raise ListingInvalid("no_list", order.model_id)
    if order.day > day:
        raise ListingInvalid("order_from_future", order.day, retry=True)
    if order.day <= day - ORDER_DAYS:
        raise ListingInvalid("order_too_old", order.day)
    recent = _recent(listing.ordered, day)
    if order.day <= recent.get(order.model_id, -1):
        raise ListingInvalid("order_overtaken", order.day)
    coming = listing.on(in_force(slot, params))
    if (order.model_id in coming) == order.is_listed:
        raise ListingInvalid("nothing_changes", order.model_id, retry=True)
    if order.is_listed and len(coming) >= MAX_MODELS:
        raise ListingInvalid("list_full", len(coming), retry=True)
    if order.model_id not in recent and len(recent) >= MAX_ORDERED:
        raise ListingInvalid("too_many_orders", len(recent), retry=True)


def verify_order(told: ListingOrder, committee: Committee, terms: Terms) -> None:
    """Raise :class:`ListingInvalid` unless more than 2/3 of ``committee``'s voting power gives the order."""
    signed = digest(terms.domain, told.order)
    try:
        check_signers(tuple(recover(signed, signature) for signature in told.signatures), committee)
    except (SignatureInvalid, CertificateInvalid) as error:
        raise ListingInvalid("signatures", str(error)) from error


def assemble_order(
    order: ListModel, committee: Committee, signatures: Mapping[Address, Signature]
) -> ListingOrder | None:
    """An order with its signatures by member, each checked by the caller; None while they are 2/3 of power or less."""
    signers = sorted(member for member in signatures if committee.weight(member))
    if not committee.is_quorum(sum(map(committee.weight, signers))):
        return None
    return ListingOrder(order, tuple(signatures[signer] for signer in signers))


class ListingDraft:
    """The listing that a batch closing ``slot`` will leave behind, in the making."""

    def __init__(self, listing: Listing, terms: Terms, slot: int) -> None:
        self._listing = listing
        self._terms = terms
        self._slot = slot

    def is_payable(self, model_id: Digest, day: int) -> bool:
        """Whether tickets of ``day``, which is the batch's or an earlier one, are paid: its own orders come later."""
        return is_payable(self._listing, model_id, day, self._terms.params)

    def take(self, told: ListingOrder, committee: Committee) -> None:
        """Take an order of the running ``committee``. Raises :class:`ListingInvalid`, and then changes nothing."""
        order, params = told.order, self._terms.params
        check_order(order, self._listing, self._slot, params)
        verify_order(told, committee, self._terms)
        first = in_force(self._slot, params)
        before = self._listing.on(first)
        if order.is_listed:
            models = Trie.of(before).with_items({order.model_id: first})
        else:
            models = Trie.of({model: since for model, since in before.items() if model != order.model_id})
        ordered = _recent(self._listing.ordered, params.day_of(self._slot)) | {order.model_id: order.day}
        self._listing = Listing({**self._listing.lists, first: models}, dict(sorted(ordered.items())))

    def finish(self, first_day: int) -> Listing:
        """The new listing, without the lists that were over before ``first_day`` and orders that nobody can repeat."""
        begun = [first for first in self._listing.lists if first <= first_day]
        oldest = max(begun, default=first_day)
        lists = {first: models for first, models in self._listing.lists.items() if first >= oldest}
        ordered = _recent(self._listing.ordered, self._terms.params.day_of(self._slot))
        if len(lists) == len(self._listing.lists) and len(ordered) == len(self._listing.ordered):
            return self._listing
        return Listing(lists, ordered)


def _recent(ordered: Mapping[Digest, int], day: int) -> dict[Digest, int]:
    """Those after which an older order could still be told on ``day``."""
    return {model: last for model, last in ordered.items() if last > day - ORDER_DAYS}


# What of it stands in tries.


def without_lists(listing: Listing) -> Listing:
    """``listing`` with all but its lists, which enter the state root by roots of their own."""
    return replace(listing, lists={})


def plain_listing(listing: Listing) -> Listing:
    """``listing`` as it is written to disk."""
    return replace(listing, lists={first: dict(models) for first, models in listing.lists.items()})


def restored_listing(listing: Listing) -> Listing:
    """``listing`` as it was before it was written."""
    return replace(listing, lists={first: Trie.of(models) for first, models in listing.lists.items()})
