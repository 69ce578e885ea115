"""The market's messages, in the order in which they happen: pass, RFC, liveness, match, ticket, refusal."""

import enum
from typing import Annotated, ClassVar

import msgspec

from contracts.typed_data import Address, Digest
from gossip.messages.base import U64, Payload, Signed, Text, Unit
from gossip.messages.records import Bid

MAX_RIVALS = 8
"""Bids of others on a ticket at most."""


class PassRequest(Payload, frozen=True):
    """A user asks its home router for an access pass; the only message of a user that names its MOR address.

    Travels on an encrypted stream to a committee member and between members, never over gossip (S34).
    """

    SIGNER: ClassVar[str | None] = "user"

    user: Address
    session_key: Address
    day: U64
    tokens: U64
    """T wanted for this session key; 0 asks for all that is left of UserMax."""
    sent_ms: U64


class AccessPass(Payload, frozen=True):
    """One session key's right to T on one day (S25, S36, S38), signed by the issuing router."""

    SIGNER: ClassVar[str | None] = "issuer"

    session_key: Address
    day: U64
    allowance: U64
    """T, rounded down to coarse steps so that it identifies nobody."""
    priority: U64
    """Coarse rank by MOR balance: the bit length of the balance in MOR (S26)."""
    issuer: Address
    commitment: Digest
    """keccak(user address ‖ salt): the committee can open it, nobody else."""


class PassEnd(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A pass that ends before its day: ``used`` T of it count, the rest was given anew."""

    session_key: Address
    used: U64


class PassIssued(Payload, frozen=True):
    """A router tells the committee for whom a pass is, so that the next in rank knows what is left (S36)."""

    SIGNER: ClassVar[str | None] = "issuer"
    MAX_BYTES: ClassVar[int] = 4096

    access_pass: Signed[AccessPass]
    request: Signed[PassRequest]
    salt: Digest
    issuer: Address
    ends: Annotated[tuple[PassEnd, ...], msgspec.Meta(max_length=64)] = ()
    """Passes of a router that was gone, whose rest this one gives anew: they are worth no more than what was used."""


class Rfc(Payload, frozen=True):
    """A Request for Compute (S22): signed with the session key, gossiped, sent to the router that issued the pass."""

    SIGNER: ClassVar[str | None] = "session_key"

    access_pass: Signed[AccessPass]
    session_key: Address
    index: U64
    """Counts up for a session key, with gaps at will. Signing spends it, whatever becomes of the RFC: two RFCs with one
    index prove a double spend."""
    model_id: Digest
    unit: Unit
    token_max: U64
    """T of the response that the Router pays for at most (S21)."""
    prompt_bound: U64
    """The prompt has at most so many T."""
    deadline_ms: U64


class Withdrawal(Payload, frozen=True):
    """The asker of an RFC has left: its router is to match it no more. Only the RFC's own session key may say so."""

    SIGNER: ClassVar[str | None] = "session_key"

    rfc_id: Digest
    session_key: Address


class LivenessQuery(Payload, frozen=True):
    """A router asks the drawn provider whether it can serve now (S28)."""

    SIGNER: ClassVar[str | None] = "router"

    rfc_id: Digest
    bid_id: Digest
    router: Address
    sent_ms: U64


class LivenessAnswer(Payload, frozen=True):
    """The provider's answer; ``free_slots`` of 0 is a refusal."""

    SIGNER: ClassVar[str | None] = "provider"

    query_id: Digest
    provider: Address
    free_slots: U64


class Ticket(Payload, frozen=True):
    """The right to one session with one provider. Names the session key, never the user (S34)."""

    SIGNER: ClassVar[str | None] = "router"

    rfc_id: Digest
    session_key: Address
    bid: Signed[Bid]
    token_max: U64
    prompt_bound: U64
    slot: U64
    """The slot in which the match was made."""
    expires_ms: U64
    router: Address
    rivals: Annotated[tuple[Signed[Bid], ...], msgspec.Meta(max_length=MAX_RIVALS)] = ()
    """Live bids of other providers for the model: what shows everybody that it is payable (S8)."""


class Why(enum.IntEnum):
    """Why a provider whose bid ranks within the band, or below it, took no part in a draw: the router's word for it."""

    UNPROVEN = 0
    """It has not shown this router that it has the model (S42)."""
    NO_MOR = 1
    """It held no MOR at the day's snapshot, as far as this router knows (S43)."""
    NO_SLOT = 2
    """This router has filled every slot that it advertises."""
    PAIR_CAP = 3
    """It has had its share of the pass (S8)."""
    UNLIVE = 4
    """It was drawn in a cheaper band, all of which failed the liveness check (S28)."""
    RESTING = 5
    """It refused or was silent shortly before, though its bid says that it has slots."""
    NO_RIVALS = 6
    """Too few others could be named beside it (S8)."""


class LeftOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A provider that a draw left out."""

    provider: Address
    why: Why


class Match(Payload, frozen=True):
    """Why this provider: everything needed to check the draw, once the slot's secret is revealed (S27, S34)."""

    SIGNER: ClassVar[str | None] = "router"
    MAX_BYTES: ClassVar[int] = 65_536

    rfc_id: Digest
    ticket_id: Digest
    slot: U64
    beacon: Digest
    draw: Digest
    """keccak(beacon ‖ the router's secret of the slot ‖ RFC id ‖ attempt)."""
    attempt: U64
    """How many drawn providers failed the liveness check before this one."""
    candidates: Annotated[tuple[Signed[Bid], ...], msgspec.Meta(max_length=64)]
    """Live bids within 5 % of the lowest, sorted by bid id, those that failed liveness still among them."""
    unlive: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=64)]
    """Ids of the candidates' bids that failed liveness, in the order of the attempts."""
    router: Address
    left_out: Annotated[tuple[LeftOut, ...], msgspec.Meta(max_length=64)] = ()
    """Whoever else bids that low and took no part, by address: what lets a reader with a book of its own see whether
    somebody was hidden."""


class Refusal(Payload, frozen=True):
    """A router's answer to a pass request or RFC that it does not serve.

    ``code`` is one of: unknown_model, model_not_listed, token_max_over_allowance, allowance_held, prompt_over_limit,
    no_balance, no_provider, too_few_providers, pair_capped, pair_held, wrong_router, wrong_day, index_used,
    unit_unsupported, budget_spent, budget_held, expired, busy, no_quorum, withdrawn; of an RFC that somebody asks about
    also: waiting, unknown_rfc; of a withdrawal: not_the_asker, unknown_rfc.
    """

    SIGNER: ClassVar[str | None] = "router"

    request_id: Digest
    code: Text
    detail: Text
    allowance_left: U64
    """T left of the pass after this refusal: the same as before it."""
    router: Address
