"""Which tickets a provider may serve, by what it knows without asking anybody."""

from consensus.market.listing import unlisted
from consensus.market.rivals import find_fault
from gossip.messages import Signed
from gossip.messages.market import Ticket
from inference.errors import SessionError
from inference.session.stream import Code
from node.context import Node
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState


def judge_ticket(ticket: Signed[Ticket], node: Node, public: PublicState, evidence: EvidencePool) -> None:
    """Raises SessionError for a ticket that is not a member's, or that no batch would pay for."""
    day = node.terms.params.day_of(ticket.payload.slot)
    if not public.is_router(ticket.payload.router, day):
        raise SessionError(Code.BAD_TICKET, f"0x{ticket.payload.router.hex()} is not a router of day {day}")
    if evidence.has_issued_twice(ticket.payload.router, day):
        raise SessionError(Code.BAD_TICKET, f"0x{ticket.payload.router.hex()} gave one session key two passes")
    if (fault := find_fault(ticket.payload, node.terms)) is not None:
        raise SessionError(Code.BAD_TICKET, f"no batch would pay for it: {fault[0]} {fault[1]}")
    listing, model_id = public.ledger.listing, ticket.payload.bid.payload.model_id
    if (why := unlisted(listing, model_id, day, node.terms.params)) is not None:
        raise SessionError(Code.BAD_TICKET, f"no batch would pay for it: {why}")
