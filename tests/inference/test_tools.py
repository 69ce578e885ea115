"""Tools and logarithms: calls out of an answer's text, what a user believes of them, and engines without them."""

import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import MalformedMessage
from gossip.messages.base import encode, sign
from gossip.messages.session import (
    DetailFrame,
    LikelyToken,
    Query,
    SessionOpen,
    TokenDetail,
    TokenFrame,
    ToolDelta,
    decode_session_frame,
)
from inference.engine import ChatMessage, Generation, Piece, Prompt
from inference.errors import SessionError
from inference.session.client import open_session
from inference.session.delivery import Delivery
from inference.session.query import QueryBody, compute_prompt_bound, decode_body, encode_body
from inference.synthetic import SyntheticEngine
from inference.tool_tags import TaggedCalls, takes_tools
from inference.tools import FunctionCall, Tool, ToolCall, ToolUse
from tests.inference.market import BODY, SESSION, TERMS, ProviderSide, make_ticket, talk, ticking

WEATHER = Tool("get_weather", "Weather of a city.", '{"type":"object","properties":{"city":{"type":"string"}}}')
USE = ToolUse((WEATHER,))
MUST = ToolUse((WEATHER,), "required")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLED = ToolDelta(0, "call_0", "get_weather", '{"city": "Paris"}')


async def _said(parts: list[str], finish: str = "stop") -> list[Piece]:
    """What becomes of an answer that comes in ``parts``, one T each."""

    async def pieces() -> AsyncIterator[Piece]:
        for index, part in enumerate(parts):
            yield Piece(part, (index,))
        yield Piece("", (), "length" if finish == "length" else "stop")

    return [piece async for piece in TaggedCalls(pieces())]


def _whole(pieces: list[Piece]) -> tuple[str, tuple[ToolDelta, ...], int]:
    calls = tuple(call for piece in pieces for call in piece.calls)
    return "".join(piece.text for piece in pieces), calls, sum(len(piece.token_ids) for piece in pieces)


@given(st.lists(st.integers(1, len(CALL)), max_size=12), st.sampled_from(["", "I will look. ", "a < b, <tool_"]))
def test_a_call_is_found_however_its_text_is_cut(cuts: list[int], before: str) -> None:
    text = before + CALL
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[start:end] for start, end in itertools.pairwise(edges)]
    pieces = trio.run(_said, parts)
    assert _whole(pieces) == (before, (CALLED,), len(parts))
    assert pieces[-1].finish == "tool_calls"


async def test_several_calls_and_what_only_looks_like_one() -> None:
    pieces = await _said([CALL, "\n", CALL])
    assert _whole(pieces) == ("", (CALLED, ToolDelta(1, "call_1", "get_weather", '{"city": "Paris"}')), 3)
    for text in ("<tool_call>{broken</tool_call> and on", "a <tool_call> that never ends", "x </tool_call>", "1 < 2"):
        assert _whole(await _said(list(text))) == (text, (), len(text))
    cut = await _said([CALL[:40]], "length")
    assert (_whole(cut), cut[-1].finish) == ((CALL[:40], (), 1), "length")


async def test_t_of_a_call_wait_until_it_is_told() -> None:
    pieces = await _said(["Well. ", *CALL])
    assert [(piece.text, len(piece.token_ids)) for piece in pieces] == [("Well. ", 1), ("", len(CALL)), ("", 0)]


def test_only_templates_that_show_the_marks_take_tools() -> None:
    caps = {"supports_tools": True}
    assert takes_tools({"chat_template_caps": caps, "chat_template": "{{ tools }} <tool_call>"})
    assert not takes_tools({"chat_template_caps": {}, "chat_template": "{{ tools }} <tool_call>"})
    assert not takes_tools({"chat_template_caps": caps, "chat_template": "{{ tools }} [TOOL_CALLS]"})
    assert not takes_tools(["nothing"])


def test_a_query_without_tools_is_what_older_nodes_read() -> None:
    assert encode_body(BODY) == b'{"messages":[{"role":"user","content":"What is the capital of France?"}]}'
    old = b'{"messages":[{"role":"user","content":"x"}],"temperature":0.0,"top_p":1.0,"seed":null,"stop":[],'
    assert decode_body(old + b'"max_tokens":null,"score":null}', 100) == QueryBody((ChatMessage("user", "x"),))


def test_tools_count_in_the_prompts_bound() -> None:
    turn = (ChatMessage("assistant", "", (ToolCall("c", FunctionCall("get_weather", "{}" * 50)),)),)
    bare = compute_prompt_bound((ChatMessage("assistant", ""),))
    assert compute_prompt_bound(turn) > bare + 100
    assert compute_prompt_bound((ChatMessage("assistant", ""),), USE) > bare + len(WEATHER.parameters)
    body = QueryBody((*BODY.messages, *turn), tools=USE, logprobs=3)
    assert decode_body(encode_body(body), compute_prompt_bound(body.messages, USE)) == body


def test_every_text_of_a_prompt_is_looked_at() -> None:
    turn = ChatMessage("assistant", "said", (ToolCall("id7", FunctionCall("f", '{"a":"<|im_end|>"}')),))
    texts = Prompt((turn, ChatMessage("tool", "result", tool_call_id="id7")), USE).texts()
    assert all(part in texts[0] for part in ("said", "id7", "<|im_end|>"))
    assert "result" in texts[1]
    assert all(part in texts[2] for part in (WEATHER.name, WEATHER.description, WEATHER.parameters))


async def _ask(side: ProviderSide, body: QueryBody) -> tuple[list[Piece], str | None]:
    async with trio.open_nursery() as nursery:
        stream, pieces = side.connect(nursery), []
        ticket = make_ticket(side.engine, prompt_bound=400)
        async with open_session(stream, ticket, body, SESSION, TERMS, ticking()) as session:
            async for piece in session.pieces():
                pieces.append(piece)
        return pieces, session.outcome.finish


async def test_a_call_reaches_the_user_and_both_sign_for_it(side: ProviderSide) -> None:
    pieces, finish = await _ask(side, QueryBody(BODY.messages, tools=MUST))
    assert [call for piece in pieces for call in piece.calls] == [
        ToolDelta(0, "call_0", "get_weather"),
        ToolDelta(0, arguments="{}"),
    ]
    assert finish == "tool_calls"
    assert side.receipts[0].receipt.finish == "tool_calls"
    pieces, finish = await _ask(
        ProviderSide(SyntheticEngine(answer_tokens=3)),
        QueryBody((*BODY.messages, ChatMessage("tool", "sunny", tool_call_id="call_0"))),
    )
    assert ("".join(piece.text for piece in pieces), finish) == ("t0 t1 t2 ", "stop")


async def test_logarithms_reach_the_user_with_their_text(side: ProviderSide) -> None:
    pieces, _ = await _ask(side, QueryBody(BODY.messages, max_tokens=40, logprobs=1))
    details = [detail for piece in pieces for detail in piece.details]
    assert details == [TokenDetail(f"t{i} ".encode(), 0, (LikelyToken(f"t{i} ".encode(), 0),)) for i in range(40)]
    assert all(b"".join(one.data for one in piece.details) == piece.text.encode() for piece in pieces)
    pieces, _ = await _ask(ProviderSide(SyntheticEngine(answer_tokens=2)), QueryBody(BODY.messages, logprobs=0))
    assert [detail.top for piece in pieces for detail in piece.details] == [(), ()]


class _Plain:
    """An engine without any feature."""

    def __init__(self, engine: SyntheticEngine) -> None:
        for name in ("health", "count_prompt", "count_text", "generate"):
            setattr(self, name, getattr(engine, name))
        self.model_id, self.name, self.family = engine.model_id, engine.name, "plain/1"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (QueryBody(BODY.messages, tools=USE), "tools"),
        (QueryBody(BODY.messages, tools=MUST), "tools"),
        (QueryBody((*BODY.messages, ChatMessage("tool", "x", tool_call_id="1"))), "tools"),
        (QueryBody(BODY.messages, logprobs=0), "logprobs"),
    ],
)
async def test_an_engine_without_it_refuses_by_name(body: QueryBody, what: str) -> None:
    side = ProviderSide(_Plain(SyntheticEngine()))  # type: ignore[arg-type]  # its methods are set at run time
    async with trio.open_nursery() as nursery:
        outcome, code = await talk(side.connect(nursery), make_ticket(side.engine, prompt_bound=400), body)
    assert code == "unsupported"
    assert outcome.tokens == 0
    assert side.used == set(), "a ticket that bought nothing is not used up"
    assert Generation(body.messages, 1, tools=body.tools, logprobs=body.logprobs).needs >= {what}


def _delivery(*, top: int | None = 2, may_call: bool = True) -> Delivery:
    ticket = make_ticket(SyntheticEngine())
    return Delivery(ticket, b"{}", 64, SESSION, TERMS.domain, top=top, may_call=may_call)


ONE = TokenDetail(b"a", 1, (LikelyToken(b"a", 1), LikelyToken(b"b", 2)))


@pytest.mark.parametrize(
    ("delivery", "frame"),
    [
        (_delivery(top=None), DetailFrame((ONE,))),
        (_delivery(top=1), DetailFrame((ONE,))),
        (_delivery(may_call=False), DetailFrame((), (CALLED,))),
        (_delivery(), DetailFrame((), tuple(ToolDelta(i, arguments="x" * 16_384) for i in range(9)))),
    ],
)
def test_details_nobody_asked_for_are_untrue(delivery: Delivery, frame: DetailFrame) -> None:
    with pytest.raises(SessionError, match="protocol_error"):
        delivery.take_details(frame)


def test_details_do_not_run_ahead_and_calls_pay_for_their_t_alone() -> None:
    delivery = _delivery()
    delivery.take_details(DetailFrame((ONE,) * 64))
    with pytest.raises(SessionError, match="details of 65 T"):
        delivery.take_details(DetailFrame((ONE,)))
    delivery.take_details(DetailFrame((), (ToolDelta(0, "c", "f", "{}"),)))
    with pytest.raises(SessionError, match="bytes of text and 67 of calls"):
        _limit(delivery).take_tokens(TokenFrame("", tuple(range(76)), 76), 5)
    delivery.take_tokens(TokenFrame("", tuple(range(20)), 20), 5)
    assert delivery.meter.tokens == 20


def _limit(delivery: Delivery) -> Delivery:
    delivery._token_limit = 1_000
    return delivery


def test_frames_of_other_shapes_are_malformed() -> None:
    frame = DetailFrame((ONE,), (CALLED,))
    assert decode_session_frame(encode(frame)) == frame
    for wrong in (
        DetailFrame((ONE,) * 65),
        DetailFrame((), (ToolDelta(128),)),
        DetailFrame((msgspec.structs.replace(ONE, data=b"x" * 1_025),)),
    ):
        with pytest.raises(MalformedMessage):
            decode_session_frame(encode(wrong))


async def test_a_tool_schema_is_bounded_where_the_query_is_read(side: ProviderSide) -> None:
    deep = '{"a":' * 3_000 + "1" + "}" * 3_000
    body = encode_body(QueryBody(BODY.messages, tools=ToolUse((Tool("f", "", deep),))))
    ticket = make_ticket(side.engine, prompt_bound=400)
    query = sign(Query(ticket.id(TERMS.domain), SESSION.address, body), SESSION, TERMS.domain)
    with pytest.raises(SessionError, match="bad_query"):
        decode_body(query.payload.body, 400)
    assert isinstance(decode_session_frame(encode(SessionOpen(ticket, query))), SessionOpen)
