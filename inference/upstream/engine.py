"""The upstream engine: a server elsewhere behind the engine protocol, one HTTP connection a request.

Leaving an answer closes its connection, which is how these servers are told to stop. The API key goes into one header
and nowhere else; what an upstream says is never quoted.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import trio

from contracts.typed_data import Digest
from inference.engine import ChatMessage, EngineHealth, Feature, Generation, Piece, Prompt
from inference.errors import (
    AnswerInvalid,
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineMisconfigured,
    EngineUnavailable,
    PromptRefused,
    PromptTooLong,
)
from inference.model_files import ModelIdentity
from inference.tool_tags import TaggedCalls
from inference.tools import ToolUse
from inference.upstream.answer import UpstreamAnswer
from inference.upstream.dialects import DIALECTS, Kind, error_words
from inference.upstream.events import EventReader

ANSWER_BYTES = 4 << 20
"""The largest answer to a small request that is read."""

_PROMPTS_KEPT = 64


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Where the server is and what it may be asked for."""

    url: str
    """``http://host:port``, with or without ``/v1``."""
    model: str
    """What the server calls the model."""
    kind: Kind
    slots: int
    """Requests at once."""
    context: int
    """T of prompt and answer together."""
    api_key: str | None = field(default=None, repr=False)
    call_seconds: float = 10.0
    """How long a small request may take."""
    token_seconds: float = 120.0
    """The longest wait for one token, a long prompt included."""

    @property
    def base(self) -> str:
        """The address without ``/v1``."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")


class UpstreamEngine:
    """An :class:`~inference.engine.Engine` that somebody else's process runs. Made by :func:`open_upstream`."""

    def __init__(self, options: UpstreamOptions, name: str, identity: ModelIdentity) -> None:
        self.options = options
        self._name = name
        self._dialect = DIALECTS[options.kind]
        self.identity = identity
        """What the server is said to run: it can't be seen from here."""
        self._model_id = identity.manifest.model_id()
        self._version = "unknown"
        self._busy = 0
        self._prompts: dict[Prompt, list[int]] = {}
        self._features: frozenset[Feature] | None = None
        """What the server said when it was asked first."""
        self._tls = ssl.create_default_context() if options.base.startswith("https:") else _NO_TLS

    @property
    def model_id(self) -> Digest:
        """The id of :attr:`identity`."""
        return self._model_id

    @property
    def name(self) -> str:
        """The model's name for people."""
        return self._name

    @property
    def family(self) -> str:
        """Kind and version of the server."""
        return f"{self._dialect.family}/{self._version}"

    async def open(self) -> None:
        """Look at the server once: that it lives, takes our key and has the model. Raises :class:`EngineError`."""
        await self.health()
        self._version = await self._dialect.version(self._call)
        answer = await self._call("GET", "/v1/models")
        try:
            served = [item["id"] for item in answer["data"]]
        except (TypeError, KeyError) as error:
            raise EngineError("the upstream's list of models is none") from error
        if self.options.model not in served and self.options.kind == "vllm":  # the others answer to any name
            raise EngineMisconfigured(404, f"the upstream serves no model {self.options.model!r}")
        await self._dialect.tokenize(self._call, self.options.model, "ready")

    async def health(self) -> EngineHealth:
        """Slots and how many this node uses. Raises :class:`EngineError` where the server does not answer well."""
        await self._request("GET", "/health", None)
        return EngineHealth(self.options.slots, self._busy, self.options.context)

    async def features(self) -> frozenset[Feature]:
        """What this kind of server, and its model's template, can do."""
        if self._features is None:
            self._features = await self._dialect.features(self._call)
        return self._features

    async def count_prompt(self, messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
        """T of the conversation by the server's template. Raises :class:`PromptRefused`, :class:`EngineUnavailable`."""
        return len(await self._prompt_ids(Prompt(messages, tools)))

    async def count_text(self, text: str) -> int:
        """T of plain text by the server's tokenizer."""
        return len(await self._tokenize(text)) if text else 0

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """Stream an answer; leaving hangs up. Raises :class:`PromptTooLong`, :class:`EngineBusy` and their like."""
        if self._busy >= self.options.slots:
            raise EngineBusy(f"all {self.options.slots} slots are taken", 1)
        self._busy += 1
        try:
            prompt = await self._prompt_ids(request.prompt)
            room = self.options.context - len(prompt)
            if room < 1:
                raise PromptTooLong(len(prompt), self.options.context - 1)
            request = msgspec.structs.replace(request, max_tokens=max(1, min(request.max_tokens, room)))
            async with self._client(self.options.token_seconds) as client:
                response = await self._open_answer(
                    client, *self._dialect.request(self.options.model, request, prompt, room)
                )
                answer = UpstreamAnswer(
                    EventReader(response),
                    self._dialect,
                    self._tokenize,
                    request.max_tokens,
                    self.options.token_seconds,
                    top=request.logprobs,
                )
                try:
                    yield TaggedCalls(answer) if self._dialect.marks_calls and request.tools is not None else answer
                finally:
                    await answer.aclose()
        finally:
            self._busy -= 1

    async def _open_answer(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            response = await client.send(client.build_request("POST", path, json=body), stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise EngineCrashed(f"the upstream hung up on a prompt: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        try:
            if response.status_code != httpx.codes.OK:
                raise _refused(response.status_code, response.headers, await _read(response))
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise AnswerInvalid(f"the upstream answered a stream with content of type {kind[:64]!r}")
        except BaseException:
            with trio.CancelScope(shield=True):
                await response.aclose()
            raise
        return response

    async def _prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as token ids, kept for the few latest: a session counts a prompt before it is generated from."""
        if (kept := self._prompts.get(prompt)) is not None:
            return kept
        for index, text in enumerate(prompt.texts()):
            if text and await self._has_control_tokens(text):
                raise PromptRefused(index)
        ids = await self._dialect.count_prompt(self._call, self.options.model, prompt)
        while len(self._prompts) >= _PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[prompt] = ids
        return ids

    async def _has_control_tokens(self, text: str) -> bool:
        return await self._dialect.has_control_tokens(self._call, self.options.model, text)

    async def _tokenize(self, text: str) -> list[int]:
        return await self._dialect.tokenize(self._call, self.options.model, text)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = await self._request(method, path, body)
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise EngineError(f"the upstream answered {path} with {len(data)} bytes that are no JSON") from error

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        with trio.move_on_after(self.options.call_seconds):
            try:
                async with (
                    self._client(self.options.call_seconds) as client,
                    client.stream(method, path, json=body) as response,
                ):
                    data = await _read(response)
            except httpx.HTTPError as error:
                raise _unreachable(error) from error
            if response.status_code != httpx.codes.OK:
                raise _refused(response.status_code, response.headers, data)
            return data
        raise EngineUnavailable(f"the upstream did not answer {path} within {self.options.call_seconds:g} s")

    def _client(self, read_seconds: float) -> httpx.AsyncClient:
        headers = {"connection": "close"}
        if self.options.api_key is not None:
            headers["authorization"] = f"Bearer {self.options.api_key}"
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=self._tls),
            base_url=self.options.base,
            headers=headers,
            timeout=httpx.Timeout(self.options.call_seconds, read=read_seconds),
            trust_env=False,
        )


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _read(response: httpx.Response) -> bytes:
    """A small answer, read to its end whatever it is: httpx cleans up only then."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk[: max(0, ANSWER_BYTES + 1 - len(data))]
    if len(data) > ANSWER_BYTES:
        raise AnswerInvalid(f"the upstream answered with more than {ANSWER_BYTES} bytes")
    return bytes(data)


def _unreachable(error: httpx.HTTPError) -> EngineUnavailable:
    return EngineUnavailable(f"the upstream cannot be reached: {type(error).__name__}")


def _refused(status: int, headers: httpx.Headers, data: bytes) -> EngineError:
    """What an HTTP status means to a provider."""
    reason = error_words(data)
    match status:
        case 401 | 403:
            return EngineMisconfigured(status, f"the upstream refuses the API key (status {status})")
        case 404:
            return EngineMisconfigured(status, f"the upstream knows no such model or address (status 404, {reason})")
        case 429:
            after = headers.get("retry-after", "")
            return EngineBusy("the upstream is busy (status 429)", int(after) if after.isdecimal() else None)
        case _ if status >= 500:
            return EngineUnavailable(f"the upstream failed with status {status} ({reason})")
        case _:
            return EngineError(f"the upstream refused a request with status {status} ({reason})")


@asynccontextmanager
async def open_upstream(
    options: UpstreamOptions, *, identity: ModelIdentity, name: str
) -> AsyncIterator[UpstreamEngine]:
    """The engine, once its server has shown that it can serve. Raises :class:`EngineError`."""
    engine = UpstreamEngine(options, name, identity)
    await engine.open()
    yield engine
