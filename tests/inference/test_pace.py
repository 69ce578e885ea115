"""Frames of several T: when they begin, how many there are, and what they must not change."""

import pytest
import trio
import trio.testing

from gossip.messages import encode, sign
from gossip.messages.session import Query, SessionOpen, TokenFrame, decode_session_frame
from inference.engine import ChatMessage
from inference.session.client import open_session
from inference.session.pace import FRAMES_PER_S, LONGEST_GAP_S, SLACK_S, AnswerPace, FramePace, compute_gap_s
from inference.session.query import QueryBody, encode_body
from inference.synthetic import SyntheticEngine
from tests.inference.market import BODY, PROVIDER, SESSION, TERMS, ProviderSide, make_bid, make_ticket, ticking
from tests.inference.memory_stream import MemoryStream

INTERVAL_S = 0.02


class Noting:
    """A user's stream that notes when each frame of T came, and how many T it held."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream
        self.remote_peer = stream.remote_peer
        self.send, self.end, self.fail, self.aclose = stream.send, stream.end, stream.fail, stream.aclose
        self.frames: list[tuple[float, int]] = []

    async def receive(self, *, limit: int, timeout: float) -> bytes | None:
        data = await self._stream.receive(limit=limit, timeout=timeout)
        if data is not None and isinstance(frame := decode_session_frame(data), TokenFrame):
            self.frames.append((trio.current_time(), len(frame.token_ids)))
        return data


def paced_side(frames_per_s: float, answers: int) -> ProviderSide:
    engine = SyntheticEngine(answer_tokens=200, interval_s=INTERVAL_S, slots=answers)
    return ProviderSide(engine, pace=FramePace(frames_per_s))


async def hear_all(side: ProviderSide, answers: int, body: QueryBody = BODY) -> list[Noting]:
    """So many answers at once; each must come in full."""
    heard: list[Noting] = []

    async def hear(number: int) -> None:
        async with trio.open_nursery() as nursery:
            bid = sign(make_bid(side.engine, slots=answers), PROVIDER, TERMS.domain)
            ticket = make_ticket(side.engine, bid=bid, slot=number, token_max=200)
            stream = Noting(side.connect(nursery))
            async with open_session(stream, ticket, body, SESSION, TERMS, ticking()) as session:
                pieces = [piece async for piece in session.pieces()]
            assert session.outcome.tokens == 200
            assert session.outcome.receipt in side.receipts
            assert "".join(piece.text for piece in pieces) == "".join(f"t{i} " for i in range(200))
            if body.logprobs is not None:
                named = [bytes(detail.data).decode() for piece in pieces for detail in piece.details]
                assert named == [f"t{i} " for i in range(200)]
            heard.append(stream)

    async with trio.open_nursery() as nursery:
        for number in range(answers):
            nursery.start_soon(hear, number)
    return heard


def test_nothing_waits_at_sixty_four_answers_of_fifty_t() -> None:
    assert all(compute_gap_s(answers) < INTERVAL_S for answers in range(1, 65))
    assert all(answers / compute_gap_s(answers) <= FRAMES_PER_S + 1e-6 for answers in range(1, 20_000, 7))
    gaps = [compute_gap_s(answers) for answers in range(1, 5_000)]
    assert gaps == sorted(gaps)
    assert compute_gap_s(700) == LONGEST_GAP_S


def test_an_answer_may_be_a_little_early_but_not_on_the_whole() -> None:
    pace = FramePace(10)
    answer = AnswerPace(pace)
    assert answer.due < 0
    now = 100.0
    for _ in range(50):
        now = max(now, answer.due)
        answer.sent(now)
    assert now == pytest.approx(100 + 49 * pace.gap_s - SLACK_S)
    answer.end()
    answer.end()
    assert (pace.answers, pace.gap_s) == (0, 0)


async def test_alone_every_t_goes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    (heard,) = await hear_all(paced_side(FRAMES_PER_S, 1), 1)
    assert [tokens for _, tokens in heard.frames] == [1] * 200


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_many_share_frames_and_nothing_else_changes(
    autojump_clock: trio.testing.MockClock, logprobs: int | None
) -> None:
    answers, frames_per_s = 10, 50.0
    body = QueryBody((ChatMessage("user", "hello"),), logprobs=logprobs)
    started = trio.current_time()
    side = paced_side(frames_per_s, answers)
    heard = await hear_all(side, answers, body)
    took = trio.current_time() - started
    for one in heard:
        first_at, first_tokens = one.frames[0]
        assert (first_at < started + 0.1, first_tokens) == (True, 1)
    sent = sum(len(one.frames) for one in heard)
    assert sent < frames_per_s * took + answers * 3
    assert max(tokens for one in heard for _, tokens in one.frames) <= TERMS.params.voucher_window
    assert side.pace.answers == 0


class Hesitating(SyntheticEngine):
    """Thinks about its second and third T, and says the rest at once: frames of two don't divide the window."""

    async def pause(self, index: int) -> None:
        if index in {1, 2}:
            await trio.sleep(1)


async def test_who_vouches_for_nothing_gets_a_window_in_frames_that_say_their_own_t(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also where the engine is far ahead: no frame waits for more room than there is, and no text for its T."""
    side = ProviderSide(Hesitating(answer_tokens=200))
    ticket, window = make_ticket(side.engine, token_max=200), TERMS.params.voucher_window
    frames: list[TokenFrame] = []
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        query = sign(Query(ticket.id(TERMS.domain), SESSION.address, encode_body(BODY)), SESSION, TERMS.domain)
        await stream.send(encode(SessionOpen(ticket, query)))
        while sum(len(frame.token_ids) for frame in frames) < window:
            frame = decode_session_frame(await stream.receive(limit=1 << 16, timeout=5) or b"")
            assert isinstance(frame, TokenFrame)
            frames.append(frame)
        await stream.aclose()
    assert frames[-1].tokens == window
    assert all(len(frame.text.split()) == len(frame.token_ids) for frame in frames)


async def test_a_user_that_leaves_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    side = paced_side(1, 2)  # a frame every second and more
    assert isinstance(side.engine, SyntheticEngine)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        async with open_session(stream, make_ticket(side.engine), BODY, SESSION, TERMS, ticking()) as session:
            await anext(session.pieces())
            await trio.sleep(0.1)
            left = trio.current_time()
    assert trio.current_time() - left < 0.2
    assert (side.engine.running, side.pace.answers) == (0, 0)
