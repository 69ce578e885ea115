"""A server that speaks as vLLM, TabbyAPI or llama-server does, on a real port, and misbehaves on demand."""

import json
import re
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from inference.upstream.dialects import Kind
from inference.upstream.engine import UpstreamOptions
from node.api.serve import serve

KEY = "sk-upstream-secret"
MODEL = "big-model"
EOS = 2


def tokenize(text: str, *, special: bool = False) -> list[int]:
    """A word and the space before it are a token; control tokens are one where they are looked for."""
    pattern = r"<\|\w+\|>|\s?[^\s<]+|\s|<" if special else r"\s?[^\s<]+|\s|<"
    return [zlib.crc32(part.encode()) & 0xFFFF for part in re.findall(pattern, text)]


def pieces_of(text: str) -> list[str]:
    return re.findall(r"\s?[^\s<]+|\s|<", text)


@dataclass
class Upstream:
    """How the server is to behave, and what it saw."""

    kind: Kind
    text: str = "The capital of France is Paris, as everyone who has been there will tell you."
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: Callable[[], AsyncIterator[bytes]] | None = None
    """What is streamed instead of an answer."""
    hang_after: int | None = None
    names_ids: bool = True
    usage: int | None = None
    finish: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    running: int = 0
    idle: trio.Event = field(default_factory=trio.Event)
    content_type: str = "text/event-stream"
    props: dict[str, Any] = field(default_factory=dict)
    url: str = ""

    def options(self, **changes: Any) -> UpstreamOptions:
        fields: dict[str, Any] = {
            "url": self.url + "/v1",
            "model": MODEL,
            "kind": self.kind,
            "slots": 2,
            "context": 128,
            "api_key": KEY,
            "call_seconds": 5.0,
            "token_seconds": 5.0,
        }
        return UpstreamOptions(**(fields | changes))

    def app(self) -> Starlette:
        routes = [
            Route("/health", self._health),
            Route("/version", self._answer({"version": "0.11.0"})),
            Route("/props", self._answer({"build_info": "b7000", **self.props})),
            Route("/v1/models", self._answer({"object": "list", "data": [{"id": MODEL}]})),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/v1/token/encode", self._encode, methods=["POST"]),
            Route("/apply-template", self._template, methods=["POST"]),
            Route("/completion", self._generate, methods=["POST"]),
            Route("/v1/chat/completions", self._generate, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _health(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        return Response(status_code=200 if self.status not in (401, 503) else self.status)

    def _answer(self, value: Any) -> Callable[[Request], Any]:
        async def endpoint(_: Request) -> Response:
            return JSONResponse(value)

        return endpoint

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        if self.kind == "llama-server":
            return JSONResponse({"tokens": tokenize(body["content"], special=body["parse_special"])})
        assert body["model"] == MODEL
        if "messages" in body:
            return JSONResponse({"tokens": tokenize(_templated(body), special=True), "count": 0})
        return JSONResponse({"tokens": tokenize(body["prompt"], special=True)})

    async def _encode(self, request: Request) -> Response:
        body = await request.json()
        text = body["text"] if isinstance(body["text"], str) else _templated({"messages": body["text"]})
        ids = tokenize(text, special=body["encode_special_tokens"])
        return JSONResponse({"tokens": ids, "length": len(ids)})

    async def _template(self, request: Request) -> Response:
        return JSONResponse({"prompt": _templated(await request.json())})

    async def _generate(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            error = {"error": {"type": "Broken", "code": self.status, "message": "you asked: Tell me of France"}}
            return JSONResponse(error, self.status, self.headers)
        stream = self.raw() if self.raw is not None else self._events(body)
        if body.get("tools") and self.raw is None:
            stream = self._calling()
        return StreamingResponse(stream, media_type=self.content_type)

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            limit = body.get("max_tokens", body.get("n_predict"))
            said = pieces_of(self.text)[:limit]
            if body.get("return_progress"):
                progress = {"total": 9, "cache": 0, "processed": 4, "time_ms": 1}
                yield _data({"content": "", "tokens": [0], "tokens_predicted": 0, "prompt_progress": progress})
            cut = len(said) < len(pieces_of(self.text))
            for index, piece in enumerate(said):
                if index == self.hang_after:
                    await trio.sleep_forever()
                yield self._event(piece, index)
            for event in self._end(len(said), "length" if cut else "stop"):
                yield event
        finally:
            self.running -= 1
            self.idle.set()

    async def _calling(self) -> AsyncIterator[bytes]:
        """What vLLM's tool parser makes of a call: T that open it come without a delta."""
        ids = iter(range(100, 200))
        steps: list[tuple[dict[str, Any], int]] = [
            ({"role": "assistant", "content": ""}, 4),
            ({"tool_calls": [{"index": 0, "id": "chatcmpl-tool-7", "type": "function", "function": _NAMED}]}, 1),
            ({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}, 2),
            ({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}, 3),
        ]
        for delta, count in steps:
            choice = {"index": 0, "delta": delta, "token_ids": [next(ids) for _ in range(count)]}
            yield _data({"choices": [choice]})
        yield _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls", "token_ids": [EOS]}]})
        yield b"data: [DONE]\n\n"

    def _event(self, piece: str, index: int) -> bytes:
        if self.kind == "llama-server":
            frame = {"content": piece, "tokens": tokenize(piece), "stop": False, "tokens_predicted": index + 1}
            if self.bodies[-1].get("n_probs"):
                frame["completion_probabilities"] = [_likely(piece)]
            return _data(frame)
        choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
        if self.bodies[-1].get("logprobs"):
            choice["logprobs"] = {"content": [_likely(piece)]}
        if self.kind == "vllm" and self.names_ids:
            choice["token_ids"] = tokenize(piece)
        return _data({"object": "chat.completion.chunk", "choices": [choice], "usage": None})

    def _end(self, tokens: int, finish: str) -> list[bytes]:
        if self.kind == "llama-server":
            kind = {"length": "limit", "stop": "eos"}[finish]
            return [_data({"content": "", "tokens": [], "stop": True, "stop_type": kind, "tokens_predicted": tokens})]
        last: dict[str, Any] = {"index": 0, "delta": {"content": ""}, "finish_reason": self.finish or finish}
        if self.kind == "vllm" and self.names_ids:
            last["token_ids"] = [EOS]
        usage = {"completion_tokens": tokens if self.usage is None else self.usage, "prompt_tokens": 9}
        return [_data({"choices": [last]}), _data({"choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


_NAMED = {"name": "get_weather", "arguments": ""}


def _likely(piece: str) -> dict[str, Any]:
    other = {"token": "?", "bytes": [0xE2], "logprob": -9999.0}
    one = {"token": piece, "bytes": None, "logprob": -0.5}
    return one | {"top_logprobs": [one, other, other]}


def _templated(body: dict[str, Any]) -> str:
    tools = "".join(json.dumps(tool) for tool in body.get("tools", ()))
    turns = [f"{turn['role']} {turn['content']} {turn.get('tool_calls', '')}" for turn in body["messages"]]
    return tools + "".join(f"<|im_start|>{turn}<|im_end|>" for turn in turns)


@asynccontextmanager
async def running(upstream: Upstream) -> AsyncIterator[Upstream]:
    """The server on a port of its own."""
    async with trio.open_nursery() as nursery:
        served = await nursery.start(serve, upstream.app(), "an upstream")
        upstream.url = served.url
        yield upstream
        nursery.cancel_scope.cancel()
