"""The user's half against providers that lie."""

from collections.abc import Callable

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from contracts.signing import Key
from contracts.typed_data import Digest, Signature
from gossip.messages import encode, sign
from gossip.messages.session import (
    Receipt,
    ReceiptFrame,
    SessionEnd,
    TokenFrame,
    Voucher,
    VoucherFrame,
    decode_session_frame,
)
from inference.engine import ChatMessage
from inference.errors import SessionError
from inference.metering import Transcript
from inference.session.client import SessionOutcome, open_session
from inference.session.query import QueryBody, compute_prompt_bound, decode_body, encode_body
from inference.synthetic import SyntheticEngine
from tests.inference.market import BODY, PROVIDER, SESSION, TERMS, make_ticket, talk, ticking
from tests.inference.memory_stream import listen, stream_pair

TICKET = make_ticket(SyntheticEngine(), token_max=16)


def make_receipt(ids: tuple[int, ...] = (1, 2)) -> Receipt:
    transcript = Transcript(encode_body(BODY))
    transcript.add(ids)
    return Receipt(TICKET.id(TERMS.domain), len(ids), 9, transcript.digest(), "stop")


def end(receipt: Receipt, key: Key = PROVIDER) -> bytes:
    return encode(SessionEnd(receipt, key.sign(receipt, TERMS.domain)))


GOOD = encode(TokenFrame("a b", (1, 2), 2))


async def converse(*frames: bytes) -> tuple[SessionOutcome, str | None, list[bytes | str]]:
    """What the user makes of a provider that says ``frames``: outcome, error code, and what the provider heard."""
    user, provider = stream_pair()
    for frame in frames:
        await provider.send(frame)
    await provider.end()
    outcome, code = await talk(user, TICKET)
    return outcome, code, await listen(provider)


async def test_true_frames_are_countersigned() -> None:
    outcome, code, heard = await converse(GOOD, end(make_receipt()))
    assert code is None
    assert (outcome.tokens, outcome.text, outcome.finish) == (2, "a b", "stop")
    voucher, receipt = (decode_session_frame(data) for data in heard[1:] if isinstance(data, bytes))
    assert isinstance(voucher, VoucherFrame)
    assert voucher.voucher.payload.tokens == 2
    assert isinstance(receipt, ReceiptFrame)
    receipt.receipt.check(TICKET.payload, TERMS.domain)


@pytest.mark.parametrize(
    "lie",
    [
        TokenFrame("a", (1, 2), 3),  # claims more than its ids
        TokenFrame("a", (1, 2), 1),  # claims less
        TokenFrame("", (), 0),  # nothing
        TokenFrame("", tuple(range(12)), 12),  # T without text
        TokenFrame("x" * 20, tuple(range(17)), 17),  # more than TokenMax
        TokenFrame("a", (-1,), 1),  # no token ids
        TokenFrame("a", (2**32,), 1),
        TokenFrame("x" * 20_000, (1,), 1),  # a flood
    ],
    ids=str,
)
async def test_lying_token_frames_end_the_session(lie: TokenFrame) -> None:
    outcome, code, heard = await converse(encode(lie))
    assert code == outcome.interrupted == "protocol_error"
    assert (outcome.tokens, outcome.voucher) == (0, None)
    assert heard[-1] == "protocol_error"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: msgspec.structs.replace(r, tokens=3),
        lambda r: msgspec.structs.replace(r, ticket_id=Digest(bytes(32))),
        lambda r: msgspec.structs.replace(r, transcript=Digest(bytes(32))),
        lambda r: msgspec.structs.replace(r, prompt_tokens=129),
        lambda r: msgspec.structs.replace(r, finish="bored"),
    ],
)
async def test_lying_receipts_are_not_signed(change: Callable[[Receipt], Receipt]) -> None:
    outcome, code, heard = await converse(GOOD, end(change(make_receipt())))
    assert code == "protocol_error"
    assert outcome.receipt is None
    assert outcome.tokens == 2
    assert outcome.voucher is not None
    assert outcome.voucher.payload.tokens == 2
    assert heard[-1] == "protocol_error"


async def test_receipt_signed_by_another_key_is_not_signed() -> None:
    outcome, code, _ = await converse(GOOD, end(make_receipt(), Key.generate()))
    assert (code, outcome.receipt) == ("protocol_error", None)
    receipt = make_receipt()
    outcome, code, _ = await converse(GOOD, encode(SessionEnd(receipt, Signature(bytes(65)))))
    assert (code, outcome.receipt) == ("protocol_error", None)


async def test_end_without_a_receipt_is_an_interruption() -> None:
    outcome, code, _ = await converse(GOOD)
    assert code == outcome.interrupted == "provider_vanished"
    assert outcome.voucher is not None
    assert outcome.voucher.payload.tokens == 2


async def test_users_own_frames_are_not_the_providers_to_send() -> None:
    voucher = sign(Voucher(TICKET.id(TERMS.domain), SESSION.address, 1), SESSION, TERMS.domain)
    _, code, _ = await converse(encode(VoucherFrame(voucher)))
    assert code == "protocol_error"


@given(data=st.binary(max_size=200))
async def test_random_bytes_are_a_protocol_error(data: bytes) -> None:
    outcome, code, _ = await converse(GOOD, data)
    assert code == "protocol_error"
    assert outcome.tokens == 2


async def test_provider_that_is_gone_before_the_query() -> None:
    user, provider = stream_pair()
    provider.vanish()
    with pytest.raises(SessionError, match="provider_vanished"):
        async with open_session(user, TICKET, BODY, SESSION, TERMS, ticking()):
            pass


async def test_silent_provider_costs_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    user, _provider = stream_pair()
    outcome, code = await talk(user, TICKET)
    assert (code, outcome.tokens) == ("provider_vanished", 0)


bodies = st.builds(
    QueryBody,
    messages=st.lists(
        st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=40)),
        min_size=1,
        max_size=4,
    ).map(tuple),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.none() | st.integers(0, 2**32 - 2),
    stop=st.lists(st.text(min_size=1, max_size=8), max_size=4).map(tuple),
    max_tokens=st.none() | st.integers(1, 10_000),
)


@given(body=bodies, token_max=st.integers(1, 4_096))
def test_a_body_survives_its_encoding_and_is_capped(body: QueryBody, token_max: int) -> None:
    assert decode_body(encode_body(body), compute_prompt_bound(body.messages)) == body
    assert 1 <= body.generation(token_max).max_tokens <= token_max


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_body_or_a_session_error(data: bytes) -> None:
    code = "a body"
    try:
        decode_body(data, 10)
    except SessionError as error:
        code = error.code
    assert code in ("a body", "bad_query", "prompt_over_limit")
