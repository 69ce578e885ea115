"""Listing orders as members sign them."""

from collections.abc import Sequence

from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.messages.base import Signed, sign
from gossip.messages.listing import ListingOrder, ListModel
from tests.consensus.builders import World


def order_of(
    world: World, model_id: Digest, day: int = 0, *, is_listed: bool = True, members: Sequence[Key] | None = None
) -> ListingOrder:
    """An order by ``members``, all but one of the committee's unless a test says otherwise."""
    order = ListModel(model_id, is_listed, day)
    signers = sorted(world.members[:-1] if members is None else members, key=lambda one: one.address)
    return ListingOrder(order, tuple(one.sign(order, world.domain) for one in signers))


def vote_of(world: World, member: Key, model_id: Digest, day: int = 0, *, is_listed: bool = True) -> Signed[ListModel]:
    """One member's."""
    return sign(ListModel(model_id, is_listed, day), member, world.domain)
