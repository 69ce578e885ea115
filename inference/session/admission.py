"""What a provider checks before it serves: ticket and query, against its own key and bid. Pure."""

from contracts.typed_data import Address, Domain
from gossip.errors import MessageError
from gossip.messages.base import Signed, Unit
from gossip.messages.market import Ticket
from gossip.messages.session import Query
from inference.errors import SessionError
from inference.session.stream import Code


def check_ticket(ticket: Signed[Ticket], provider: Address, domain: Domain, now_ms: int) -> None:
    """Raise :class:`SessionError` unless ``ticket`` buys a session from ``provider`` now.

    Whether the router that signed is a member of the committee is the caller's to check.
    """
    payload, bid = ticket.payload, ticket.payload.bid.payload
    if bid.provider != provider:
        raise SessionError(Code.BAD_TICKET, f"the ticket is for provider 0x{bid.provider.hex()}")
    try:
        ticket.signer(domain)
        payload.bid.signer(domain)
    except MessageError as error:
        raise SessionError(Code.BAD_TICKET, str(error)) from error
    if bid.unit is not Unit.TEXT_TOKEN:
        raise SessionError(Code.BAD_TICKET, f"unit {bid.unit.name} is not served yet")
    if payload.prompt_bound > bid.prompt_max:
        detail = f"a prompt of {payload.prompt_bound} T, but the bid takes {bid.prompt_max}"
        raise SessionError(Code.BAD_TICKET, detail)
    if payload.token_max < 1:
        raise SessionError(Code.BAD_TICKET, "TokenMax is 0")
    if payload.expires_ms <= now_ms:
        raise SessionError(Code.TICKET_EXPIRED, f"the ticket expired {now_ms - payload.expires_ms} ms ago")


def check_query(query: Signed[Query], ticket: Signed[Ticket], domain: Domain) -> None:
    """Raise :class:`SessionError` unless the ticket's session key asks, and for this ticket."""
    if query.payload.ticket_id != ticket.id(domain):
        raise SessionError(Code.BAD_QUERY, f"the query is for ticket {query.payload.ticket_id.hex()}")
    if query.payload.session_key != ticket.payload.session_key:
        detail = f"the query names session key 0x{query.payload.session_key.hex()}, the ticket another"
        raise SessionError(Code.BAD_QUERY, detail)
    try:
        query.signer(domain)
    except MessageError as error:
        raise SessionError(Code.BAD_QUERY, str(error)) from error
