"""The llama.cpp engine (INFERENCE: xllamacpp in a child): HTTP over a private Unix socket, one connection a request.

T of an answer are the ids whose text came out: an end-of-answer token, or tokens held back for a stop string that then
matched, have no text and are not counted. Control tokens in a message's text are refused
(:class:`~inference.errors.PromptRefused`), not stripped: an answer to a silently altered prompt is a wrong answer.
"""

import importlib.metadata
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from contracts.typed_data import Digest
from inference.audit import TokenScore
from inference.engine import ChatMessage, EngineHealth, Feature, Generation, Piece, Prompt, with_system
from inference.errors import EngineCrashed, EngineError, EngineUnavailable, PromptRefused, PromptTooLong
from inference.llamacpp.answer import Answer
from inference.llamacpp.process import EngineOptions, Worker, open_worker
from inference.llamacpp.scoring import Scores
from inference.model_files import HashCache, ModelIdentity, identify
from inference.progress import Report, silent
from inference.tool_tags import TaggedCalls, takes_tools
from inference.tools import ToolUse
from inference.worker_process import Supervision, keep_running

FAMILY = "llama.cpp"
"""The engine family in a model's manifest."""

_CALL_SECONDS = 30.0
_TOKEN_SECONDS = 300.0
"""The longest wait for one token, a long prompt included."""
_PROMPTS_KEPT = 16
# the socket is a local file, so this context is never used; httpx would load every root certificate for its own
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def engine_build() -> str:
    """The installed build: it decides the bits of every answer, so it is part of a model's identity."""
    return importlib.metadata.version("xllamacpp")


def default_threads() -> int:
    """All cores but one: with none to spare, one competing process costs most of the throughput."""
    return max(1, (os.cpu_count() or 1) - 1)


class LlamaCppEngine:
    """An :class:`~inference.engine.Engine` over a supervised worker. Made by :func:`open_llamacpp`."""

    def __init__(self, options: EngineOptions, identity: ModelIdentity, name: str) -> None:
        self.options = options
        self.identity = identity
        """The file as it was hashed before it was loaded."""
        self._model_id = identity.manifest.model_id()
        self._name = name
        self.supervision: Supervision[Worker] = Supervision(name, lambda: open_worker(self.options))
        self._busy = 0
        self._prompts: dict[Prompt, list[int]] = {}
        self._takes_tools: bool | None = None
        """None until the loaded model's template has been looked at."""

    @property
    def model_id(self) -> Digest:
        """SHA-256 of the manifest of file, engine family and build."""
        return self._model_id

    @property
    def name(self) -> str:
        """The model's name for people."""
        return self._name

    @property
    def family(self) -> str:
        """Engine family and build."""
        return f"{FAMILY}/xllamacpp-{engine_build()}"

    @property
    def restarts(self) -> int:
        """How often the worker has been started again."""
        return self.supervision.restarts

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self.supervision.worker
        return None if worker is None else worker.pid

    async def health(self) -> EngineHealth:
        """Slots and how many are in use. Raises :class:`EngineUnavailable` while there is no worker."""
        await self._call("GET", "/health")
        return EngineHealth(self.options.slots, self._busy, self.options.context)

    async def busy_slots(self) -> int:
        """Slots that the worker itself is computing in; may lag a cancellation by one step of a prompt."""
        return sum(bool(slot["is_processing"]) for slot in await self._call("GET", "/slots"))

    async def features(self) -> frozenset[Feature]:
        """Logarithms, going on with another's answer, and tools where its template takes and marks them."""
        if self._takes_tools is None:
            self._takes_tools = takes_tools(await self._call("GET", "/props"))
        always: frozenset[Feature] = frozenset(("logprobs", "continue"))
        return always | {"tools"} if self._takes_tools else always

    async def count_prompt(self, messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
        """T of the conversation after the chat template. Raises :class:`PromptRefused`, :class:`EngineUnavailable`."""
        return len(await self._prompt_ids(Prompt(messages, tools)))

    async def count_text(self, text: str) -> int:
        """T of plain text by the model's own tokenizer."""
        return len(await self._tokenize(text, special=False))

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """Stream an answer; leaving closes the connection, which frees the slot.

        Raises :class:`PromptTooLong` where no T is left for an answer; the answer is cut to what the context holds.
        """
        prompt = await self._prompt_ids(request.prompt)
        if request.prefix:
            prompt = prompt + await self._tokenize(request.prefix, special=False)
        room = self.options.context - len(prompt)
        if room < 1:
            raise PromptTooLong(len(prompt), self.options.context - 1)
        self._busy += 1
        try:
            async with self._client(_TOKEN_SECONDS) as client:
                response = await self._open_answer(client, _request_body(prompt, request, room))
                answer = Answer(response, self._tokenize, request.logprobs)
                try:
                    yield answer if request.tools is None else TaggedCalls(answer)
                finally:
                    await answer.aclose()
        finally:
            self._busy -= 1

    @asynccontextmanager
    async def score(
        self, messages: tuple[ChatMessage, ...], token_ids: tuple[int, ...], tools: ToolUse | None = None
    ) -> AsyncIterator[AsyncIterator[TokenScore]]:
        """A second opinion on an answer, one T after the other."""
        prompt = await self._prompt_ids(Prompt(messages, tools))
        if len(prompt) + len(token_ids) > self.options.context:
            raise PromptTooLong(len(prompt) + len(token_ids), self.options.context)
        drawn = (await self._tokenize("a"))[-1:]
        if not drawn:
            raise EngineError(f"the vocabulary of {self._name} has no letter")
        self._busy += 1
        try:
            yield Scores(prompt, token_ids, drawn[0], self._call)
        finally:
            self._busy -= 1

    async def _open_answer(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        try:
            response = await client.send(client.build_request("POST", "/completion", json=body), stream=True)
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise EngineError(_refusal(response))
        except httpx.ConnectError as error:
            raise EngineUnavailable(f"the engine of {self._name} does not answer: {error!r}") from error
        except httpx.HTTPError as error:
            raise EngineCrashed(f"the engine's worker ended before an answer: {error!r}") from error
        return response

    async def _prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as token ids, kept for the few latest: a session counts a prompt before it is generated from."""
        if (kept := self._prompts.get(prompt)) is not None:
            return kept
        await self._refuse_control_tokens(prompt.texts())
        asked: dict[str, Any] = {"messages": msgspec.to_builtins(with_system(prompt.messages))}
        if prompt.tools is not None:
            asked["tools"] = [tool.to_openai() for tool in prompt.tools.tools]
            asked["parallel_tool_calls"] = prompt.tools.parallel
        answer = await self._call("POST", "/apply-template", asked)
        ids = await self._tokenize(answer["prompt"], special=True)
        while len(self._prompts) >= _PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[prompt] = ids
        return ids

    async def _refuse_control_tokens(self, texts: tuple[str, ...]) -> None:
        """Text that tokenises otherwise when control tokens are looked for has some."""
        joined = "\n".join(texts)
        if await self._tokenize(joined, special=False) == await self._tokenize(joined, special=True, start=False):
            return
        for index, text in enumerate(texts):
            if await self._tokenize(text, special=False) != await self._tokenize(text, special=True, start=False):
                raise PromptRefused(index)
        raise PromptRefused(0)

    async def _tokenize(self, text: str, *, special: bool = False, start: bool | None = None) -> list[int]:
        """Ids of ``text``; ``special`` parses control tokens, ``start`` (as special) adds a start token."""
        body = {"content": text, "parse_special": special, "add_special": special if start is None else start}
        ids: list[int] = (await self._call("POST", "/tokenize", body))["tokens"]
        return ids

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            async with self._client(_CALL_SECONDS) as client:
                response = await client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"the engine of {self._name} does not answer: {error!r}") from error
        if response.status_code != httpx.codes.OK:
            raise EngineError(_refusal(response))
        return response.json()

    def _client(self, read_seconds: float) -> httpx.AsyncClient:
        worker = self.supervision.require()
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=_NO_TLS, uds=worker.socket),
            base_url="http://engine",
            headers={"authorization": f"Bearer {worker.api_key}", "connection": "close"},
            timeout=httpx.Timeout(5.0, read=read_seconds),
            trust_env=False,
        )


def _request_body(prompt: list[int], request: Generation, room: int) -> dict[str, Any]:
    """A completion request from a whitelist, with neutral defaults: temperature and top_p alone decide."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "prompt": prompt,
        "n_predict": max(1, min(request.max_tokens, room)),
        "temperature": max(0.0, sampling.temperature),
        "top_p": sampling.top_p,
        "top_k": 0 if sampling.temperature > 0 else 1,
        "min_p": 0.0,
        "seed": -1 if sampling.seed is None else sampling.seed,
        "stop": list(sampling.stop),
        "stream": True,
        "return_tokens": True,
        # the server looks for a closed connection when it has something to say: let that be after every batch
        "return_progress": True,
    }
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)  # with 0 the server names none at all
    return body


def _refusal(response: httpx.Response) -> str:
    return f"the engine refused a request with status {response.status_code}: {response.text[:300]}"


@asynccontextmanager
async def open_llamacpp(
    model_path: Path,
    *,
    slots: int,
    context: int,
    threads: int,
    log_path: Path,
    name: str | None = None,
    hash_cache: HashCache | None = None,
    report: Report = silent,
) -> AsyncIterator[LlamaCppEngine]:
    """Load a GGUF in a worker process and keep it running; leaving stops it.

    ``context`` is T for each slot, ``name`` defaults to the file's stem. Raises :class:`ModelError` where the file
    cannot be read and :class:`EngineUnavailable` where it cannot be loaded. An error of the body passes unchanged.
    """
    identity = await identify(model_path, FAMILY, engine_build(), hash_cache, report)
    options = EngineOptions(model_path, slots, context, threads, log_path)
    engine = LlamaCppEngine(options, identity, name or model_path.stem)
    async with keep_running(engine.supervision):
        identity.check()  # what was loaded is what was hashed
        yield engine
