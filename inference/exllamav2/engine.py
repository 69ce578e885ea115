"""The ExLlamaV2 engine (the mission's GPU engine): all sessions are one batch in one worker process.

T of an answer are the ids whose text came out, as everywhere (:mod:`inference.exllamav2.counting`). A worker that dies,
hangs or breaks ends its sessions with :class:`~inference.errors.EngineCrashed` and is started again.
"""

import importlib.metadata
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import structlog
import trio

from contracts.typed_data import Digest
from inference.engine import ChatMessage, EngineHealth, Feature, Generation, Piece, Prompt, join_pieces
from inference.errors import (
    EngineCrashed,
    EngineError,
    ModelUnusable,
    PackageMissing,
    PromptRefused,
    PromptTooLong,
    RequestRefused,
)
from inference.exllamav2.folder import check_folder, read_template
from inference.exllamav2.link import WORKER, Answered, Exl2Options, Link, open_link, raise_for
from inference.exllamav2.protocol import (
    STOP_CHARS_MAX,
    STOPS_MAX,
    AskLoad,
    CacheMode,
    Counted,
    CountText,
    Load,
    PromptRead,
    ReadPrompt,
    Refused,
    Said,
    Start,
    WorkerConfig,
    round_to_pages,
)
from inference.model_files import HashCache, ModelIdentity, identify
from inference.progress import Report, silent
from inference.tool_tags import TaggedCalls, marks_calls
from inference.tools import ToolUse
from inference.worker_process import Supervision, keep_running

FAMILY = "exllamav2"
"""The engine family in a model's manifest."""

JOINED_T = 32
"""T of a piece at most, where several wait: a busy provider reads what has come since the last frame."""

_PROMPTS_KEPT = 16
_PROGRESS_STEPS = 10
_log = structlog.get_logger(__name__)


def engine_build() -> str:
    """The installed build, part of a model's identity. Raises :class:`PackageMissing`. Nothing is imported."""
    try:
        return importlib.metadata.version(FAMILY)
    except importlib.metadata.PackageNotFoundError as error:
        raise PackageMissing(
            f"the Python package '{FAMILY}' is not installed; type: pip install 'yellowstone-router[exl2]'"
        ) from error


class Exl2Engine:
    """An :class:`~inference.engine.Engine` over a supervised worker. Made by :func:`open_exllamav2`."""

    def __init__(self, options: Exl2Options, identity: ModelIdentity, name: str, build: str) -> None:
        self.options = options
        self.identity = identity
        """The folder as it was hashed before it was loaded."""
        self._model_id = identity.manifest.model_id()
        self._name = name
        self._build = build
        self.supervision: Supervision[Link] = Supervision(name, lambda: open_link(options, self._on_loading))
        self._busy = 0
        self._shown = -1
        self._prompts: dict[Prompt, tuple[int, ...]] = {}
        self._has_tools: bool | None = None
        """None until the model's template has been looked at."""

    @property
    def model_id(self) -> Digest:
        """SHA-256 of the manifest of the folder's files, engine family and build."""
        return self._model_id

    @property
    def name(self) -> str:
        """The model's name for people."""
        return self._name

    @property
    def family(self) -> str:
        """Engine family and build."""
        return f"{FAMILY}/{self._build}"

    @property
    def restarts(self) -> int:
        """How often the worker has been started again."""
        return self.supervision.restarts

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self.supervision.worker
        return None if worker is None else worker.pid

    @property
    def notes(self) -> str:
        """What the worker said of itself: versions, paged or not, tokens/s of its self-test."""
        return self.supervision.require().ready.notes

    async def health(self) -> EngineHealth:
        """Slots (one where attention is not paged) and how many are in use. Raises :class:`EngineUnavailable`."""
        slots = self.supervision.require().ready.slots
        return EngineHealth(slots, self._busy, self.options.worker.context)

    async def features(self) -> frozenset[Feature]:
        """Tools, where the model's chat template takes them and shows how calls are marked."""
        if self._has_tools is None:
            template = await trio.to_thread.run_sync(read_template, Path(self.options.worker.folder))
            self._has_tools = marks_calls(template)
        return frozenset(("tools",) if self._has_tools else ())

    async def load(self) -> Load:
        """What the generator itself says it is at; lags a cancellation by a step. Raises :class:`EngineUnavailable`."""
        link = self.supervision.require()
        answer = await link.call(AskLoad(link.new_id()))
        return answer if isinstance(answer, Load) else _misunderstood(answer)

    async def count_prompt(self, messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
        """T of the conversation after the model's chat template.

        Raises :class:`PromptRefused`, :class:`RequestRefused` in the template's words, :class:`EngineUnavailable`.
        """
        return len(await self._prompt_ids(Prompt(messages, tools)))

    async def count_text(self, text: str) -> int:
        """T of plain text by the model's own tokenizer."""
        link = self.supervision.require()
        answer = await link.call(CountText(link.new_id(), text))
        raise_for(answer, link)
        return answer.tokens if isinstance(answer, Counted) else _misunderstood(answer)

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """Stream an answer; leaving early cancels it, which frees its pages after the step under way.

        Raises :class:`PromptTooLong` where no T is left for an answer, which is cut to what the context holds, and
        :class:`RequestRefused` for sampling that the engine does not take.
        """
        _check_sampling(request)
        prompt = await self._prompt_ids(request.prompt)
        context = self.options.worker.context
        room = context - len(prompt)
        if room < 1:
            raise PromptTooLong(len(prompt), context - 1)
        link = self.supervision.require()
        start = _start(link.new_id(), prompt, request, room)
        self._busy += 1
        try:
            # one event a T at most, a last one without T, and the failure that may follow
            with link.receive(start.id, start.max_tokens + 2) as events:
                await link.send(start)
                answer = Answer(events, link)
                try:
                    yield answer if request.tools is None else TaggedCalls(answer)
                finally:
                    if not answer.done:
                        await link.cancel(start.id)
        finally:
            self._busy -= 1

    async def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt as token ids, kept for the few latest: a session counts a prompt before it is generated from."""
        if (kept := self._prompts.get(prompt)) is not None:
            return kept
        link = self.supervision.require()
        answer = await link.call(ReadPrompt(link.new_id(), prompt.messages, prompt.tools))
        raise_for(answer, link)
        if isinstance(answer, Refused):
            raise RequestRefused("messages", answer.reason) if answer.index is None else PromptRefused(answer.index)
        if not isinstance(answer, PromptRead):
            _misunderstood(answer)
        while len(self._prompts) >= _PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[prompt] = answer.ids
        return answer.ids

    def _on_loading(self, done: int, total: int) -> None:
        """Tell the operator every tenth of the way."""
        step = done * _PROGRESS_STEPS // max(1, total)
        if step != self._shown:
            self._shown = step
            _log.info("loading model", model=self._name, modules=f"{done}/{total}")


class Answer:
    """An iterator of pieces, not a generator: it may be left at any point."""

    def __init__(self, events: trio.MemoryReceiveChannel[Answered], link: Link) -> None:
        self._events = events
        self._link = link
        self._held: Answered | None = None
        """An event that came together with those before it and has not been looked at."""
        self.done = False
        self.cached_tokens = 0
        """T of the prompt that were in the cache already; known at the end."""

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> Piece:
        if self.done:
            raise StopAsyncIteration
        event, self._held = self._held, None
        if event is None:
            try:
                event = await self._events.receive()
            except trio.EndOfChannel:
                self.done = True
                raise EngineCrashed(f"the engine's worker ended during an answer: {self._link.end}") from None
        piece = self._read(event)
        while (
            piece.finish is None and len(piece.token_ids) < JOINED_T and (following := self._next_nowait()) is not None
        ):
            piece = join_pieces(piece, self._read(following))
        return piece

    def _next_nowait(self) -> Said | None:
        """The next event, where it is there and says something; another kind is left for later."""
        try:
            event = self._events.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return None
        if isinstance(event, Said):
            return event
        self._held = event
        return None

    def _read(self, event: Answered) -> Piece:
        if not isinstance(event, Said):
            self.done = True
            raise_for(event, self._link)
            _misunderstood(event)
        self.done = event.finish is not None
        self.cached_tokens = event.cached
        return Piece(event.text, event.token_ids, event.finish)


def _start(request_id: int, prompt: tuple[int, ...], request: Generation, room: int) -> Start:
    sampling = request.sampling
    return Start(
        id=request_id,
        prompt=prompt,
        max_tokens=max(1, min(request.max_tokens, room)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=sampling.stop,
    )


def _check_sampling(request: Generation) -> None:
    sampling = request.sampling
    if len(sampling.stop) > STOPS_MAX:
        raise RequestRefused("stop", f"{len(sampling.stop)} strings, at most {STOPS_MAX} are taken")
    for stop in sampling.stop:
        if not 1 <= len(stop) <= STOP_CHARS_MAX:
            raise RequestRefused("stop", f"a string of {len(stop)} characters; 1 to {STOP_CHARS_MAX} are taken")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise RequestRefused("temperature", f"{sampling.temperature} is not 0 or more")
    if not 0 < sampling.top_p <= 1:
        raise RequestRefused("top_p", f"{sampling.top_p} is not above 0 and at most 1")


def _misunderstood(answer: Answered) -> NoReturn:
    raise EngineError(f"the engine's worker answered with {type(answer).__name__}")


@asynccontextmanager
async def open_exllamav2(
    folder: Path,
    *,
    slots: int,
    context: int,
    log_path: Path,
    name: str | None = None,
    cache_tokens: int = 0,
    cache_mode: CacheMode = "fp16",
    chunk: int = 512,
    gpu_split: tuple[float, ...] = (),
    hash_cache: HashCache | None = None,
    report: Report = silent,
    module: str = WORKER,
    hang_seconds: float = 60.0,
) -> AsyncIterator[Exl2Engine]:
    """Load an EXL2 or GPTQ folder in a worker process and keep it running; leaving stops it.

    ``context`` is T of prompt and answer together; ``cache_tokens`` T are shared by all sessions, 0 for a whole context
    for each of ``slots``. Raises :class:`ModelUnusable` for a folder that cannot be served,
    :class:`~inference.errors.EngineNotStarted` for a machine that cannot run the engine, and
    :class:`~inference.errors.EngineUnavailable` where loading failed otherwise. An error of the body passes unchanged.
    """
    build = engine_build()
    found = await trio.to_thread.run_sync(check_folder, folder)
    if context > found.context:
        raise ModelUnusable(folder, f"was made for {found.context} T, not for a context of {context}: lower it")
    cache = round_to_pages(cache_tokens or slots * round_to_pages(context))
    if cache < round_to_pages(context):
        raise ModelUnusable(folder, f"a cache of {cache} T holds no context of {context} T: raise exl2.cache_tokens")
    identity = await identify(folder, FAMILY, build, hash_cache, report)
    worker = WorkerConfig(
        folder=str(folder.resolve()),
        slots=slots,
        context=context,
        cache_tokens=cache,
        cache_mode=cache_mode,
        chunk=round_to_pages(chunk),
        gpu_split=gpu_split,
    )
    options = Exl2Options(worker, log_path, hang_seconds=hang_seconds, module=module)
    engine = Exl2Engine(options, identity, name or folder.name, build)
    _log.info("loading model", model=engine.name, folder=str(folder), kind=found.quantisation, bytes=found.weight_bytes)
    async with keep_running(engine.supervision):
        identity.check()  # what was loaded is what was hashed
        _log.info("model loaded", model=engine.name, notes=engine.notes)
        yield engine
