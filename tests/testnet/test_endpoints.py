"""What the launcher reads over HTTP: streamed answers and control endpoints, also when they are broken."""

import json
from collections.abc import Callable

import httpx
import pytest

from testnet.ask import ask, gateway_base, list_models
from testnet.control import BatchView, ControlClient, TicketView, poll
from testnet.errors import AnswerRefused, NodeUnreadable, StepOverdue

Responder = Callable[[httpx.Request], httpx.Response]


def event(text: str | None = None, finish: str | None = None) -> str:
    delta = {} if text is None else {"content": text}
    return "data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}) + "\n\n"


def streaming(*events: str, status: int = 200) -> Responder:
    headers = {"x-yellowstone-rfc": "0x12", "x-other": "1"}
    return lambda _: httpx.Response(status, headers=headers, content="".join(events).encode())


async def ask_of(responder: Responder, heard: list[str]) -> tuple[str, str, str | None]:
    answer = await ask(
        "http://user/v1", "m", "why?", max_tokens=9, on_text=heard.append, transport=httpx.MockTransport(responder)
    )
    return answer.text, answer.rfc_id, answer.finish


async def test_an_answer_is_handed_on_as_it_streams() -> None:
    heard: list[str] = []
    stream = streaming(event(""), event("It is"), event(" so."), event(finish="stop"), "data: [DONE]\n\n")
    assert await ask_of(stream, heard) == ("It is so.", "0x12", "stop")
    assert heard == ["It is", " so."]


async def test_the_request_is_an_openai_one() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return streaming("data: [DONE]\n\n")(request)

    await ask_of(respond, [])
    assert str(seen[0].url) == "http://user/v1/chat/completions"
    body = json.loads(seen[0].content)
    assert (body["stream"], body["max_tokens"], body["messages"]) == (True, 9, [{"role": "user", "content": "why?"}])


@pytest.mark.parametrize(
    ("responder", "status", "told"),
    [
        (streaming('{"error": {"message": "nobody serves it"}}', status=404), 404, "nobody serves it"),
        (streaming("<html>", status=500), 500, "<html>"),
        (streaming(event("It"), 'data: {"error": {"message": "provider left"}}\n\n'), 200, "provider left"),
        (streaming(event("It")), 200, "without"),
        (streaming("data: {nonsense\n\n"), 200, "not JSON"),
    ],
)
async def test_refusals_and_broken_streams(responder: Responder, status: int, told: str) -> None:
    with pytest.raises(AnswerRefused, match=told) as caught:
        await ask_of(responder, [])
    assert caught.value.status == status


async def test_an_endpoint_that_is_gone() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(AnswerRefused, match="ConnectError"):
        await ask_of(refuse, [])
    assert await list_models("http://user", httpx.MockTransport(refuse)) == ()
    assert await ControlClient("http://node", "t", httpx.MockTransport(refuse)).get("/book", TicketView) is None


@pytest.mark.parametrize("body", ["", "[]", '{"data": 3}', '{"data": [{}]}', "<html>"])
async def test_models_that_are_no_list(body: str) -> None:
    assert await list_models("http://user", httpx.MockTransport(lambda _: httpx.Response(200, text=body))) == ()


def test_gateway_base_has_v1_once() -> None:
    assert {gateway_base(f"http://h:1{end}") for end in ("", "/", "/v1", "/v1/")} == {"http://h:1/v1"}


async def test_control_sends_its_token_and_reads_amounts_of_any_size() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        return httpx.Response(200, text='{"height": 3, "credited_wei": "123456789012345678901234567890", "new": 1}')

    control = ControlClient("http://node/", "secret", httpx.MockTransport(respond))
    assert await control.get("/tickets/x", TicketView) == TicketView(
        height=3, credited_wei=123456789012345678901234567890
    )


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (httpx.Response(401, text="who are you"), "answered 401: who are you"),
        (httpx.Response(200, text="{}"), "missing required field"),
        (httpx.Response(200, text="<html>"), "malformed"),
    ],
)
async def test_control_answers_that_are_none(response: httpx.Response, told: str) -> None:
    control = ControlClient("http://node", "t", httpx.MockTransport(lambda _: response))
    with pytest.raises(NodeUnreadable, match=told) as caught:
        await control.get("/batches/1", BatchView)
    assert caught.value.url == "http://node/batches/1"


async def test_not_found_is_not_yet() -> None:
    control = ControlClient("http://node", "t", httpx.MockTransport(lambda _: httpx.Response(404)))
    assert await control.get("/tickets/x", TicketView) is None


async def test_poll_names_what_did_not_happen() -> None:
    calls: list[int] = []

    async def fetch() -> int | None:
        calls.append(1)
        return 7 if len(calls) == 3 else None

    assert await poll("a seven", fetch, 30) == 7

    async def never() -> int | None:
        return None

    with pytest.raises(StepOverdue, match="an eight did not happen within"):
        await poll("an eight", never, 0.01)
