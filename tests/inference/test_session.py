"""The session protocol's two halves against each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Signature
from gossip.errors import MessageError
from gossip.messages import Signed, Unit, encode, sign
from gossip.messages.market import Ticket
from gossip.messages.session import (
    Cosigned,
    Query,
    Receipt,
    ReceiptFrame,
    SessionEnd,
    SessionOpen,
    TokenFrame,
    Voucher,
    VoucherFrame,
    decode_session_frame,
)
from inference.engine import ChatMessage, Generation, Piece
from inference.errors import EngineUnavailable
from inference.metering import Transcript
from inference.session.client import SessionOutcome, open_session
from inference.session.query import QueryBody, encode_body
from inference.synthetic import SyntheticEngine
from tests.inference.market import (
    BODY,
    NOW_MS,
    PROVIDER,
    SESSION,
    TERMS,
    ProviderSide,
    make_bid,
    make_ticket,
    talk,
    ticking,
)
from tests.inference.memory_stream import MemoryStream, listen, stream_pair


async def refusal(side: ProviderSide, ticket: Signed[Ticket], body: QueryBody = BODY, key: Key = SESSION) -> str:
    """The code with which the provider refuses."""
    async with trio.open_nursery() as nursery:
        outcome, code = await talk(side.connect(nursery), ticket, body, key)
    assert outcome.tokens == 0
    assert code is not None
    return code


async def test_answers_and_both_sides_sign(side: ProviderSide) -> None:
    ticket = make_ticket(side.engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, ticket, BODY, SESSION, TERMS, ticking()) as session:
            pieces = [piece async for piece in session.pieces()]
    outcome = session.outcome
    assert "".join(piece.text for piece in pieces) == outcome.text == "".join(f"t{i} " for i in range(40))
    assert (outcome.tokens, outcome.finish, outcome.interrupted) == (40, "stop", None)
    assert outcome.prompt_tokens == await side.engine.count_prompt(BODY.messages)
    assert outcome.receipt is not None
    outcome.receipt.check(ticket.payload, TERMS.domain)
    assert side.receipts == [outcome.receipt]
    transcript = Transcript(encode_body(BODY))
    transcript.add(tuple(range(40)))
    assert outcome.receipt.receipt.transcript == transcript.digest()
    assert outcome.voucher is not None
    assert outcome.voucher.signer(TERMS.domain) == SESSION.address
    assert side.vouchers[-1] == outcome.voucher.payload.tokens == 40
    assert side.vouchers == sorted(set(side.vouchers))
    assert 0 < outcome.first_ms < outcome.last_ms
    assert side.server.running(side.engine.model_id) == 0


async def test_token_max_ends_an_answer_with_length(side: ProviderSide) -> None:
    for token_max, asked, expected in ((16, None, 16), (16, 99, 16), (64, 9, 9)):
        body = msgspec.structs.replace(BODY, max_tokens=asked)
        async with trio.open_nursery() as nursery:
            ticket = make_ticket(side.engine, token_max=token_max, slot=expected + token_max)
            stream = side.connect(nursery)
            async with open_session(stream, ticket, body, SESSION, TERMS, ticking()) as session:
                assert [piece async for piece in session.pieces()]
            side.used.clear()
        assert (session.outcome.tokens, session.outcome.finish) == (expected, "length")


async def test_empty_answer_has_a_receipt_for_nothing() -> None:
    side = ProviderSide(SyntheticEngine(answer_tokens=0))
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(side.engine), BODY, SESSION, TERMS, ticking()) as session:
            assert [piece async for piece in session.pieces()] == []
    outcome = session.outcome
    assert (outcome.tokens, outcome.first_ms, outcome.voucher, outcome.finish) == (0, 0, None, "stop")
    assert side.receipts == [outcome.receipt]


async def test_an_iteration_goes_on_where_an_earlier_one_stopped(side: ProviderSide) -> None:
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(side.engine), BODY, SESSION, TERMS, ticking()) as session:
            first = await anext(session.pieces())
            rest = [piece async for piece in session.pieces()]
    assert first.text + "".join(piece.text for piece in rest) == session.outcome.text
    assert session.outcome.finish == "stop"


async def test_users_recount_lowers_the_report_but_never_lifts_it(side: ProviderSide) -> None:
    for counted, expected in ((38, 38), (99, 40)):

        async def recount(text: str, counted: int = counted) -> int:
            return counted

        side.used.clear()
        async with trio.open_nursery() as nursery:
            stream = side.connect(nursery)
            ticket = make_ticket(side.engine)
            async with open_session(stream, ticket, BODY, SESSION, TERMS, ticking(), recount=recount) as session:
                assert [piece async for piece in session.pieces()]
        assert session.outcome.tokens == expected


async def test_a_tokenizer_that_fails_leaves_the_providers_count(side: ProviderSide) -> None:
    async def recount(text: str) -> int:
        raise EngineUnavailable("the tokenizer is gone")

    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(
            stream, make_ticket(side.engine), BODY, SESSION, TERMS, ticking(), recount=recount
        ) as session:
            assert [piece async for piece in session.pieces()]
    assert (session.outcome.tokens, session.outcome.finish) == (40, "stop")


async def test_window_stops_a_provider_without_vouchers(autojump_clock: trio.testing.MockClock) -> None:
    side = ProviderSide(SyntheticEngine(answer_tokens=40))
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        await ask(stream, make_ticket(side.engine))
        heard = await listen(stream)
    assert heard[-1] == "voucher_timeout"
    frames = [decode_session_frame(data) for data in heard if isinstance(data, bytes)]
    assert [frame.tokens for frame in frames if isinstance(frame, TokenFrame)][-1] == TERMS.params.voucher_window
    assert (side.vouchers, side.receipts) == ([], [])


@pytest.mark.parametrize("window", [1, 2, 3, 7, 32, 1_000])
async def test_any_window_lets_an_answer_through(window: int) -> None:
    terms = msgspec.structs.replace(TERMS, params=msgspec.structs.replace(TERMS.params, voucher_window=window))
    side = ProviderSide(SyntheticEngine(answer_tokens=100), terms)
    async with trio.open_nursery() as nursery:
        outcome, code = await talk(side.connect(nursery), make_ticket(side.engine, token_max=100), terms=terms)
    assert (outcome.tokens, outcome.finish, code) == (100, "stop", None)
    assert side.vouchers[-1] == 100


async def test_long_answers_stop_when_nobody_vouches_or_listens(autojump_clock: trio.testing.MockClock) -> None:
    engine = SyntheticEngine(answer_tokens=1_000)
    side = ProviderSide(engine)
    for leave in ("stay", "vanish"):
        side.used.clear()
        async with trio.open_nursery() as nursery:
            stream = side.connect(nursery)
            await ask(stream, make_ticket(engine, token_max=1_000))
            assert await stream.receive(limit=65_536, timeout=5)
            if leave == "vanish":
                stream.vanish()
            else:
                assert (await listen(stream))[-1] == "voucher_timeout"
        assert engine.running == 0


EMPTY_RECEIPT = Receipt(ZERO_DIGEST, 0, 0, ZERO_DIGEST, "stop")
NO_SIGNATURE = Signature(bytes(65))


class Scripted(SyntheticEngine):
    """Says the pieces that it is given, sensible or not."""

    pieces: tuple[Piece, ...] = ()

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        assert request.max_tokens > 0
        yield listed(list(self.pieces))


async def say(*pieces: Piece) -> tuple[SessionOutcome, str | None]:
    engine = Scripted()
    engine.pieces = pieces
    async with trio.open_nursery() as nursery:
        return await talk(ProviderSide(engine).connect(nursery), make_ticket(engine))


async def test_pieces_of_many_tokens_and_of_none_arrive_whole() -> None:
    outcome, code = await say(
        Piece("x" * 30, tuple(range(30))), Piece("free", ()), Piece("y", (7,)), Piece("", (), "length")
    )
    assert (outcome.text, outcome.tokens, code) == ("x" * 30 + "freey", 31, None)


async def test_engine_that_says_too_much_or_never_ends_is_cut_off() -> None:
    assert (await say(Piece("x" * 99, tuple(range(99)), "stop")))[1] == "engine_failed"
    assert (await say(Piece("x", (1,))))[1] == "engine_failed"


async def test_session_has_a_longest_time(autojump_clock: trio.testing.MockClock) -> None:
    terms = msgspec.structs.replace(TERMS, params=msgspec.structs.replace(TERMS.params, session_max_ms=1_000))
    engine = SyntheticEngine(answer_tokens=64, interval_s=0.1)
    side = ProviderSide(engine, terms)
    async with trio.open_nursery() as nursery:
        # the user's own limit is longer, so that the provider's is the one that is met
        outcome, code = await talk(side.connect(nursery), make_ticket(side.engine))
    assert code == "session_timeout"
    assert 0 < outcome.tokens < 64
    assert engine.running == 0


async def test_user_who_vanishes_leaves_a_voucher_and_a_free_slot(autojump_clock: trio.testing.MockClock) -> None:
    engine = SyntheticEngine(answer_tokens=64, interval_s=0.01)
    side = ProviderSide(engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(engine), BODY, SESSION, TERMS, ticking()) as session:
            async for _ in session.pieces():
                if session.outcome.tokens >= 10:
                    stream.vanish()
                    break
    assert engine.running == side.server.running(engine.model_id) == 0
    assert side.vouchers[-1] >= 10 - TERMS.params.voucher_window
    assert side.receipts == []


async def test_user_who_cancels_vouches_for_all_it_received(autojump_clock: trio.testing.MockClock) -> None:
    engine = SyntheticEngine(answer_tokens=64, interval_s=0.01)
    side = ProviderSide(engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(engine), BODY, SESSION, TERMS, ticking()) as session:
            async for _ in session.pieces():
                if session.outcome.tokens >= 11:
                    break
    outcome = session.outcome
    assert (outcome.tokens, outcome.interrupted, outcome.finish, outcome.receipt) == (11, "cancelled", None, None)
    assert side.vouchers[-1] == 11
    assert engine.running == 0


async def test_provider_that_vanishes_is_owed_what_arrived(autojump_clock: trio.testing.MockClock) -> None:
    engine = SyntheticEngine(answer_tokens=64, interval_s=0.01)
    side = ProviderSide(engine)
    user, provider = stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.server.serve, provider)
        outcome, code = await talk(
            user, make_ticket(engine), on_piece=lambda outcome: provider.vanish() if outcome.tokens >= 5 else None
        )
    assert code == "provider_vanished"
    assert outcome.voucher is not None
    assert outcome.voucher.payload.tokens == outcome.tokens >= 5


async def test_engine_that_fails_ends_the_session_with_a_code() -> None:
    side = ProviderSide(SyntheticEngine(answer_tokens=40, fail_after=5))
    async with trio.open_nursery() as nursery:
        outcome, code = await talk(side.connect(nursery), make_ticket(side.engine))
    assert code == "engine_failed"
    assert outcome.tokens <= 5


async def test_failing_store_is_the_providers_fault_and_raises() -> None:
    async def broken(ticket: Signed[Ticket], voucher: Signed[Voucher]) -> None:
        raise OSError("disk full")

    side = ProviderSide(SyntheticEngine(), on_voucher=broken)
    codes: list[str | None] = []

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            user = side.connect(nursery)
            with trio.CancelScope(shield=True):
                codes.append((await talk(user, make_ticket(side.engine)))[1])

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert caught.group_contains(OSError, match="disk full")
    assert codes == ["internal"]


async def test_refuses_a_ticket_used_twice(side: ProviderSide) -> None:
    ticket = make_ticket(side.engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, ticket, BODY, SESSION, TERMS, ticking()) as session:
            assert [piece async for piece in session.pieces()]
    assert await refusal(side, ticket) == "ticket_used"


async def test_refuses_tickets_that_are_not_good_here(side: ProviderSide) -> None:
    engine, stranger = side.engine, Key.generate()
    other_bid = sign(make_bid(engine, provider=stranger.address), stranger, TERMS.domain)
    forged_bid = sign(make_bid(engine), stranger, TERMS.domain)
    video = sign(make_bid(engine, unit=Unit.VIDEO_FRAME), PROVIDER, TERMS.domain)
    other_model = sign(make_bid(SyntheticEngine("other")), PROVIDER, TERMS.domain)
    assert await refusal(side, make_ticket(engine, expires_ms=NOW_MS)) == "ticket_expired"
    assert await refusal(side, make_ticket(engine, bid=other_bid)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, bid=forged_bid)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, bid=video)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, key=stranger)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, prompt_bound=513)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, token_max=0)) == "bad_ticket"
    assert await refusal(side, make_ticket(engine, bid=other_model)) == "engine_failed"
    assert side.used == set()


async def test_refuses_a_query_by_another_session_key(side: ProviderSide) -> None:
    assert await refusal(side, make_ticket(side.engine), key=Key.generate()) == "bad_query"


async def test_refuses_a_query_for_another_ticket(side: ProviderSide) -> None:
    ticket, other = make_ticket(side.engine), make_ticket(side.engine, slot=8)
    query = Query(other.id(TERMS.domain), SESSION.address, encode_body(BODY))
    assert await raw_refusal(side, SessionOpen(ticket, sign(query, SESSION, TERMS.domain))) == "bad_query"


async def test_refuses_a_query_that_somebody_else_signed(side: ProviderSide) -> None:
    ticket = make_ticket(side.engine)
    query = Query(ticket.id(TERMS.domain), SESSION.address, encode_body(BODY))
    assert await raw_refusal(side, SessionOpen(ticket, sign(query, Key.generate(), TERMS.domain))) == "bad_query"


async def test_refuses_receipts_that_are_not_its_own(side: ProviderSide) -> None:
    for forge in ("signature", "tokens", "early"):
        side.used.clear()
        ticket = make_ticket(side.engine, token_max=4)
        user, provider = stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_scored, side, provider)
            await ask(user, ticket)
            frame = None
            while not isinstance(frame, SessionEnd):
                frame = decode_session_frame(await user.receive(limit=65_536, timeout=5) or b"")
                if forge == "early" and isinstance(frame, TokenFrame):
                    break
            end = frame if isinstance(frame, SessionEnd) else SessionEnd(EMPTY_RECEIPT, NO_SIGNATURE)
            changed = 9 if forge == "tokens" else end.receipt.tokens
            receipt = msgspec.structs.replace(end.receipt, tokens=changed)
            signature = NO_SIGNATURE if forge == "signature" else SESSION.sign(receipt, TERMS.domain)
            await user.send(encode(ReceiptFrame(Cosigned(receipt, signature, end.provider_signature))))
            assert (await listen(user))[-1] == "protocol_error"
    assert side.receipts == []


async def test_vouchers_on_the_way_are_kept_when_the_user_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    kept: list[int] = []

    async def keep_slowly(ticket: Signed[Ticket], voucher: Signed[Voucher]) -> None:
        await trio.sleep(0.2)
        kept.append(voucher.payload.tokens)

    engine = SyntheticEngine(answer_tokens=64, interval_s=0.05)
    side = ProviderSide(engine, on_voucher=keep_slowly)
    ticket = make_ticket(engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        await ask(stream, ticket)
        for tokens in (1, 2):
            assert await stream.receive(limit=65_536, timeout=5)
            voucher = sign(voucher_for(ticket, tokens), SESSION, TERMS.domain)
            await stream.send(encode(VoucherFrame(voucher)))
        stream.vanish()
    assert kept == [1, 2]


async def test_refuses_bodies_that_are_no_query(side: ProviderSide) -> None:
    ticket = make_ticket(side.engine)
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"messages":[]}',
        b'{"messages":[{"role":"user","content":"x"}],"grammar":"root"}',
        b'{"messages":[{"role":"boss","content":"x"}]}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":{"tools":[]}}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":{"tools":[{"name":"a b"}]}}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":{"tools":[{"name":"f","parameters":"{"}]}}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":{"tools":[{"name":"f","parameters":"[]"}]}}',
        b'{"messages":[{"role":"user","content":"x"}],"logprobs":21}',
        b'{"messages":[{"role":"user","content":"x"}],"temperature":-1}',
        b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"x"}],"max_tokens":0}',
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b"[" * 3_000,
    ):
        query = Query(ticket.id(TERMS.domain), SESSION.address, body)
        assert await raw_refusal(side, SessionOpen(ticket, sign(query, SESSION, TERMS.domain))) == "bad_query"


async def test_refuses_a_prompt_over_the_bound(side: ProviderSide) -> None:
    words = QueryBody((ChatMessage("user", "word " * 200),))
    assert await refusal(side, make_ticket(side.engine), words) == "prompt_over_limit"
    # by its size alone, before anything is tokenised: these are few words
    letters = QueryBody((ChatMessage("user", "x" * 50_000),))
    assert await refusal(side, make_ticket(side.engine), letters) == "prompt_over_limit"
    assert side.used == set(), "a ticket that bought nothing is not used up"


async def test_refuses_more_sessions_than_slots(autojump_clock: trio.testing.MockClock) -> None:
    engine = SyntheticEngine(answer_tokens=8, interval_s=1, slots=1)
    side = ProviderSide(engine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(engine), BODY, SESSION, TERMS, ticking()) as session:
            await anext(session.pieces())
            assert await refusal(side, make_ticket(engine, slot=8)) == "busy"
            assert [piece async for piece in session.pieces()]
    assert session.outcome.finish == "stop"


async def test_refuses_untrue_vouchers(side: ProviderSide) -> None:
    ticket = make_ticket(side.engine)
    good = voucher_for(ticket, 1)
    for voucher in (
        sign(msgspec.structs.replace(good, tokens=9_999), SESSION, TERMS.domain),
        sign(msgspec.structs.replace(good, tokens=0), SESSION, TERMS.domain),
        sign(msgspec.structs.replace(good, ticket_id=bytes(32)), SESSION, TERMS.domain),
        sign(msgspec.structs.replace(good, transcript=bytes(32)), SESSION, TERMS.domain),
        sign(good, Key.generate(), TERMS.domain),
    ):
        side.used.clear()
        assert await raw_refusal(side, VoucherFrame(voucher), opened=ticket) == "protocol_error"
    assert side.vouchers == []


async def test_random_bytes_are_refused_and_scored(side: ProviderSide) -> None:
    for data in (b"", b"\x00", b"\xff" * 100, b"\x93\x14\x01\x02", encode(TokenFrame("x", (1,), 1))):
        assert await raw_refusal(side, data) == "protocol_error"


async def test_peer_that_opens_and_leaves_is_nobodys_fault(side: ProviderSide) -> None:
    for leave in ("end", "vanish"):
        user, provider = stream_pair()
        await user.end() if leave == "end" else user.vanish()
        await side.server.serve(provider)
    assert side.used == set()


async def listed(pieces: list[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


def voucher_for(ticket: Signed[Ticket], tokens: int) -> Voucher:
    """For the first T of :func:`ask`'s answer: the synthetic engine says 0, 1, 2 …"""
    transcript = Transcript(encode_body(BODY))
    transcript.add(tuple(range(tokens)))
    return Voucher(ticket.id(TERMS.domain), SESSION.address, tokens, transcript.digest())


async def ask(stream: MemoryStream, ticket: Signed[Ticket]) -> None:
    query = Query(ticket.id(TERMS.domain), SESSION.address, encode_body(BODY))
    await stream.send(encode(SessionOpen(ticket, sign(query, SESSION, TERMS.domain))))


async def raw_refusal(
    side: ProviderSide, frame: msgspec.Struct | bytes, *, opened: Signed[Ticket] | None = None
) -> str:
    """The code with which the provider answers ``frame``, sent first or, in a session, after the first T."""
    user, provider = stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_scored, side, provider)
            if opened is not None:
                await ask(user, opened)
                assert await user.receive(limit=65_536, timeout=5)
            await user.send(frame if isinstance(frame, bytes) else encode(frame))
            heard = await listen(user)
    assert isinstance(heard[-1], str), "the provider fails the stream"
    return heard[-1]


async def serve_scored(side: ProviderSide, stream: MemoryStream) -> None:
    """As the network serves: a peer's malformed message is the peer's fault, not the process's."""
    try:
        await side.server.serve(stream)
    except MessageError:
        return
