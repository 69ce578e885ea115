"""Listed models (S8): a committee member's word on whether a model is payable, and what a batch carries of it."""

from typing import Annotated

import msgspec

from contracts.typed_data import Digest, Signature
from gossip.messages.base import U64, Payload, Signed

MAX_ORDERS = 16
"""Listing orders in one batch at most."""


class ListModel(Payload, frozen=True):
    """The order to list a model, or not to list it any more; more than 2/3 of a committee's voting power gives it.

    The signer is looked up in the committee. Every member signs the same words, the day included.
    """

    model_id: Digest
    is_listed: bool
    """False: the model is to leave the list."""
    day: U64
    """The day that the order is of: it can be taken for some days, and never after a later one for the same model."""


class ListingOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An order with the signatures of those who give it."""

    order: ListModel
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=64)]
    """Sorted by signer address; as many as a committee has members at most."""


ListingOrders = Annotated[tuple[ListingOrder, ...], msgspec.Meta(max_length=MAX_ORDERS)]
"""A batch's."""


class ListingFrame(msgspec.Struct, frozen=True, array_like=True, tag=52, forbid_unknown_fields=True):
    """On the committee link: a member gives an order, said again each slot until it is taken or too old."""

    vote: Signed[ListModel]
