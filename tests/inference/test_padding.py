"""Padded sessions: every frame of one size, one a tick whatever the engine does, and nothing else is taken."""

import itertools

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gossip.messages.base import encode
from gossip.messages.session import PaddedFrame, TokenFrame, decode_session_frame
from inference.errors import SessionError
from inference.session.client import open_session
from inference.session.padding import FRAME_BYTES, TICK_S, pad, unpad
from inference.session.query import PAD_BYTES, QueryBody, decode_body, encode_body
from inference.synthetic import SyntheticEngine
from tests.inference.market import BODY, SESSION, TERMS, ProviderSide, make_ticket, talk, ticking
from tests.inference.memory_stream import Frame, MemoryStream, stream_pair

PADDED = QueryBody(BODY.messages, padded=True)


@given(st.binary(max_size=3 * FRAME_BYTES))
def test_what_is_padded_comes_out_again(frame: bytes) -> None:
    sent = decode_session_frame(pad(frame))
    assert isinstance(sent, PaddedFrame)
    assert unpad(sent) == frame
    assert len(pad(frame)) == len(pad(b"x" * len(frame)))
    if len(frame) <= FRAME_BYTES - 4:
        assert len(pad(frame)) == len(pad())


@pytest.mark.parametrize("data", [b"", b"\0\0\0", bytes(FRAME_BYTES - 1), b"\xff" * FRAME_BYTES])
def test_frames_of_another_make_are_refused(data: bytes) -> None:
    with pytest.raises(SessionError, match="padded frame"):
        unpad(PaddedFrame(data))


@given(st.text(max_size=3_000))
def test_a_padded_query_tells_its_size_to_the_kib(text: str) -> None:
    body = QueryBody((*BODY.messages, BODY.messages[0].__class__("user", text)), padded=True)
    assert len(encode_body(body)) % PAD_BYTES == 0
    assert decode_body(encode_body(body), 4_096) == body


class _Watched(MemoryStream):
    """Notes when each frame was sent, and how long it was."""

    def watch(self) -> list[tuple[float, int]]:
        self.seen: list[tuple[float, int]] = []
        return self.seen

    async def _put(self, frame: Frame, timeout: float) -> None:
        if isinstance(frame, bytes):
            self.seen.append((trio.current_time(), len(frame)))
        await super()._put(frame, timeout)


@pytest.mark.parametrize(("tokens", "interval_s"), [(9, 0.35), (9, 0.01), (60, 0.0)])
async def test_one_frame_of_one_size_a_tick(
    tokens: int, interval_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    side = ProviderSide(SyntheticEngine(answer_tokens=tokens, interval_s=interval_s))
    user, provider = stream_pair()
    provider.__class__ = _Watched
    assert isinstance(provider, _Watched)
    seen = provider.watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.server.serve, provider)
        outcome, code = await talk(user, make_ticket(side.engine), PADDED)
    assert (code, outcome.tokens, outcome.finish) == (None, tokens, "stop")
    assert side.receipts[0].receipt.tokens == tokens
    assert {size for _, size in seen} == {len(pad())}
    last = seen.pop()  # the receipt follows the last of the answer
    assert last[0] >= seen[-1][0]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(seen)]
    assert gaps == pytest.approx([TICK_S] * len(gaps)), "also where there was nothing to say"
    assert len(seen) >= tokens * interval_s / TICK_S - 1


@pytest.mark.parametrize(
    ("body", "frame"), [(BODY, pad(encode(TokenFrame("a", (1,), 1)))), (PADDED, encode(TokenFrame("a", (1,), 1)))]
)
async def test_a_provider_pads_where_it_is_to_and_nowhere_else(body: QueryBody, frame: bytes) -> None:
    assert await _ended_with(body, frame) == "protocol_error"


async def test_padding_alone_is_silence(autojump_clock: trio.testing.MockClock) -> None:
    user, provider = stream_pair()
    async with trio.open_nursery() as nursery:

        async def say_nothing() -> None:
            while True:
                await provider.send(pad(), timeout=100)
                await trio.sleep(TICK_S)

        nursery.start_soon(say_nothing)
        started = trio.current_time()
        ticket = make_ticket(SyntheticEngine())
        with pytest.raises(SessionError) as ended:
            async with open_session(user, ticket, PADDED, SESSION, TERMS, ticking()) as session:
                await anext(session.pieces())
        nursery.cancel_scope.cancel()
    assert ended.value.code == "provider_vanished"
    assert trio.current_time() - started < 100


async def _ended_with(body: QueryBody, frame: bytes) -> str:
    user, provider = stream_pair()
    await provider.send(frame)
    async with open_session(user, make_ticket(SyntheticEngine()), body, SESSION, TERMS, ticking()) as session:
        with pytest.raises(SessionError) as ended:
            await anext(session.pieces())
    return str(ended.value.code)
