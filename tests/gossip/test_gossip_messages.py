"""The codec and the signatures of every message."""

import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain, Signature, Uint256
from gossip.errors import GossipError, MalformedMessage, MessageError, MessageExpired, MessageTooLarge, SignerMismatch
from gossip.messages import Signed, Unit, check_expiry, decode, encode, sign
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    CommitCertificate,
    DayOpening,
    HandOver,
    Precommit,
    Prevote,
    Proposal,
    StatusFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.listing import ListModel
from gossip.messages.market import AccessPass, Match, PassRequest, Refusal, Rfc, Ticket
from gossip.messages.records import BeaconCommitment, Bid, ModelProof, NodeRecord, SlotReveal
from gossip.messages.router import Refused, decode_router_answer, decode_router_ask
from gossip.messages.session import Cosigned, Query, Receipt, Report, TokenFrame, Voucher, decode_session_frame
from gossip.messages.sync import (
    MAX_SYNC_BATCHES,
    BookRequest,
    RecordItem,
    SyncRequest,
    decode_book_item,
    decode_sync_ask,
)

KEY, OTHER = Key(b"\1" * 32), Key(b"\2" * 32)
DOMAIN = Domain(7, Address(b"\3" * 20))

digests = st.binary(min_size=32, max_size=32).map(Digest)
u64 = st.integers(0, 2**63 - 1)
text = st.text(max_size=40)
units = st.sampled_from(Unit)


def signed(payloads: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return payloads.map(lambda payload: sign(payload, KEY, DOMAIN))  # type: ignore[type-var]  # payloads of any kind


bids = st.builds(Bid, st.just(KEY.address), digests, units, u64, u64, u64, u64, u64)
passes = st.builds(AccessPass, st.just(KEY.address), u64, u64, u64, st.just(KEY.address), digests)
rfcs = st.builds(Rfc, signed(passes), st.just(KEY.address), u64, digests, units, u64, u64, u64)
tickets = st.builds(Ticket, digests, st.just(KEY.address), signed(bids), u64, u64, u64, u64, st.just(KEY.address))
amounts = st.integers(0, 2**256 - 1).map(Uint256)
headers = st.builds(
    BatchHeader, u64, u64, u64, digests, digests, digests, amounts, amounts, digests, digests, digests,
    digests, st.just(KEY.address),
)  # fmt: skip
payloads = st.one_of(
    bids,
    passes,
    rfcs,
    tickets,
    headers,
    st.builds(NodeRecord, st.just(KEY.address), text, st.tuples(text), st.tuples(text, text), u64, u64),
    st.builds(ModelProof, st.just(KEY.address), digests, text, text, u64),
    st.builds(BeaconCommitment, st.just(KEY.address), u64, digests),
    st.builds(SlotReveal, st.just(KEY.address), u64, digests),
    st.builds(PassRequest, st.just(KEY.address), st.just(OTHER.address), u64, u64, u64),
    st.builds(
        Match, digests, digests, u64, digests, digests, u64, st.tuples(signed(bids)), st.tuples(digests),
        st.just(KEY.address),
    ),
    st.builds(Refusal, digests, text, text, u64, st.just(KEY.address)),
    st.builds(Query, digests, st.just(KEY.address), st.binary(max_size=100)),
    st.builds(Voucher, digests, st.just(KEY.address), u64),
    st.builds(Receipt, digests, u64, u64, digests, text),
    st.builds(Report, digests, st.just(KEY.address), u64, u64, u64, st.booleans(), st.sampled_from(Unit)),
    st.builds(Proposal, u64, u64, u64, digests, st.just(KEY.address)),
    st.builds(Prevote, u64, u64, u64, digests),
    st.builds(Precommit, u64, u64, digests, digests),
    st.builds(HandOver, u64, u64, digests, digests),
    st.builds(ListModel, digests, st.booleans(), u64),
)  # fmt: skip

BID = Bid(KEY.address, Digest(b"m" * 32), Unit.TEXT_TOKEN, 5, 1, 100, 1, 10**13)


@settings(max_examples=100, deadline=None)
@given(payload=payloads)
def test_every_message_survives_the_wire_with_its_signature(payload: Any) -> None:
    message = sign(payload, KEY, DOMAIN)
    kind: Any = types.GenericAlias(Signed, (type(payload),))
    decoded: Signed[Any] = decode(kind, encode(message))
    assert decoded == message
    assert encode(decoded) == encode(message)
    assert decoded.signer(DOMAIN) == KEY.address
    assert decoded.id(DOMAIN) == message.id(DOMAIN)


@settings(max_examples=50, deadline=None)
@given(header=headers, signatures=st.lists(st.binary(min_size=65, max_size=65).map(Signature), max_size=4))
def test_a_certified_batch_survives_the_wire(header: BatchHeader, signatures: list[Signature]) -> None:
    certificate = CommitCertificate(header.height, 0, batch_hash(header), header.committee_root, tuple(signatures))
    body = BatchBody(DayOpening(1, 2, Uint256(3), Uint256(2**200)), (), ())
    batch = CertifiedBatch(header, certificate, body)
    assert decode(CertifiedBatch, encode(batch)) == batch


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
@pytest.mark.parametrize(
    "parse",
    [
        lambda data: decode(Signed[Bid], data),
        lambda data: decode(Signed[Rfc], data),
        lambda data: decode(CertifiedBatch, data),
        decode_link_frame,
        decode_sync_ask,
        decode_book_item,
        decode_router_ask,
        decode_router_answer,
        decode_session_frame,
    ],
    ids=["bid", "rfc", "batch", "link", "sync", "book", "ask", "answer", "session"],
)
def test_random_bytes_raise_nothing_but_message_errors(parse: object, data: bytes) -> None:
    assert callable(parse)
    try:
        parse(data)
    except MessageError:
        return
    assert data[:1] in (b"\x91", b"\x92", b"\x93"), "only an array can be a frame"


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_bit_is_never_taken_for_the_signers_word(position: int, flip: int) -> None:
    message = sign(BID, KEY, DOMAIN)
    data = bytearray(encode(message))
    data[position % len(data)] ^= flip
    with pytest.raises(MessageError):
        decode(Signed[Bid], bytes(data)).signer(DOMAIN)


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(1, 400))
def test_a_cut_or_padded_message_is_malformed(cut: int) -> None:
    data = encode(sign(BID, KEY, DOMAIN))
    with pytest.raises(MalformedMessage):
        decode(Signed[Bid], data[: -min(cut, len(data))])
    with pytest.raises(MalformedMessage):
        decode(Signed[Bid], data + bytes(min(cut, 100)))


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(MessageTooLarge) as caught:
        decode(Signed[Bid], b"\xff" * (Bid.MAX_BYTES + 129))
    assert (caught.value.size, caught.value.limit) == (Bid.MAX_BYTES + 129, Bid.MAX_BYTES + 128)
    with pytest.raises(MessageTooLarge):
        decode(Signed[Bid], encode(sign(BID, KEY, DOMAIN)), limit=10)
    with pytest.raises(MessageTooLarge):
        decode_sync_ask(bytes(65))


def test_deep_nesting_is_malformed_not_a_crash() -> None:
    with pytest.raises(MalformedMessage):
        decode(Signed[Bid], b"\x91" * 4000)


def test_lengths_and_ranges_are_part_of_the_type() -> None:
    good = encode(sign(BID, KEY, DOMAIN))
    for field, value in (("provider", b"\1" * 19), ("model_id", b"m" * 33), ("slots", -1), ("price_wei", 2**63)):
        values = {name: getattr(BID, name) for name in BID.__struct_fields__} | {field: value}
        bad = encode(Signed(Bid(**values), Signature(bytes(65))))
        with pytest.raises(MalformedMessage):
            decode(Signed[Bid], bad)
    assert decode(Signed[Bid], good).payload == BID


def test_a_signature_is_worth_nothing_in_another_domain() -> None:
    message = sign(BID, KEY, DOMAIN)
    for domain in (Domain(8, DOMAIN.contract), Domain(7, Address(b"\4" * 20))):
        with pytest.raises(SignerMismatch):
            message.signer(domain)
        assert message.id(domain) != message.id(DOMAIN)


def test_a_signature_of_one_type_is_worth_nothing_for_another() -> None:
    prevote = sign(Prevote(1, 2, 3, Digest(bytes(32))), KEY, DOMAIN)
    precommit = Signed(Precommit(1, 2, Digest(bytes(32)), Digest(bytes(32))), prevote.signature)
    assert precommit.signer(DOMAIN) != KEY.address


def test_somebody_elses_signature_is_refused() -> None:
    with pytest.raises(SignerMismatch, match="another key"):
        sign(BID, OTHER, DOMAIN).signer(DOMAIN)


def test_a_vote_names_nobody_so_its_signer_is_whoever_signed() -> None:
    assert sign(Prevote(1, 0, 0, Digest(bytes(32))), OTHER, DOMAIN).signer(DOMAIN) == OTHER.address


def test_a_message_expires_at_its_time_not_after() -> None:
    check_expiry("Bid", 1_000, 999)
    with pytest.raises(MessageExpired) as caught:
        check_expiry("Bid", 1_000, 1_000)
    assert caught.value.expires_ms == 1_000
    assert isinstance(caught.value, GossipError)


def test_frames_are_told_apart_by_their_tag() -> None:
    assert decode_link_frame(encode(StatusFrame(4, 2))) == StatusFrame(4, 2)
    assert decode_sync_ask(encode(SyncRequest(1, MAX_SYNC_BATCHES))) == SyncRequest(1, MAX_SYNC_BATCHES)
    assert decode_sync_ask(encode(BookRequest())) == BookRequest()
    record = sign(NodeRecord(KEY.address, "peer", ("full",), ("/ip4/127.0.0.1/tcp/1",), 1, 2), KEY, DOMAIN)
    assert decode_book_item(encode(RecordItem(record))) == RecordItem(record)
    assert decode_session_frame(encode(TokenFrame("é", (1, 2), 2))) == TokenFrame("é", (1, 2), 2)
    refused = Refused(sign(Refusal(Digest(bytes(32)), "busy", "later", 1, KEY.address), KEY, DOMAIN))
    assert decode_router_answer(encode(refused)) == refused
    with pytest.raises(MalformedMessage):
        decode_link_frame(encode(SyncRequest(1, 1)))
    with pytest.raises(MalformedMessage):
        decode_sync_ask(encode(SyncRequest(1, MAX_SYNC_BATCHES + 1)))


def test_a_receipt_needs_both_signatures() -> None:
    bid = sign(Bid(OTHER.address, Digest(b"m" * 32), Unit.TEXT_TOKEN, 5, 1, 100, 1, 10**13), OTHER, DOMAIN)
    ticket = Ticket(Digest(bytes(32)), KEY.address, bid, 10, 10, 1, 10**13, KEY.address)
    receipt = Receipt(Digest(bytes(32)), 7, 3, Digest(bytes(32)), "stop")
    by_user, by_provider = KEY.sign(receipt, DOMAIN), OTHER.sign(receipt, DOMAIN)
    Cosigned(receipt, by_user, by_provider).check(ticket, DOMAIN)
    for signatures in ((by_provider, by_provider), (by_user, by_user), (Signature(bytes(65)), by_provider)):
        with pytest.raises(SignerMismatch):
            Cosigned(receipt, *signatures).check(ticket, DOMAIN)
