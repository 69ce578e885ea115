"""What the servers that speak OpenAI's protocol do each in their own way: counting, token ids, version.

=============  ====================================  ==============================================  ==================
server         token ids of an answer                counting                                        tools
=============  ====================================  ==============================================  ==================
vLLM           ``token_ids`` (``return_token_ids``)  ``/tokenize`` with messages, or with text       its own parser's
llama-server   ``tokens`` of its ``/completion``     ``/apply-template``, ``/tokenize``              by their marks
TabbyAPI       none: the text is counted             ``/v1/token/encode`` with messages, or text     none: its prompt
                                                                                                     cannot be counted
=============  ====================================  ==============================================  ==================
"""

import re
from typing import Any, Literal, Protocol

import msgspec

from gossip.messages.session import TokenDetail, ToolDelta
from inference.engine import Feature, Finish, Generation, Prompt
from inference.errors import AnswerInvalid, EngineError
from inference.likely import Position, to_detail
from inference.tool_tags import takes_tools
from inference.tools import TOOLS_MAX

Kind = Literal["vllm", "llama-server", "tabbyapi"]

_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|<\uff5c[^\uff5c<>]{1,64}\uff5c>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
)
"""How control tokens are written, for a tokenizer that can't be told to leave them alone."""


class Call(Protocol):
    """One small JSON request to the upstream. Raises :class:`EngineError` and its kinds."""

    async def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The decoded answer."""


class Event(msgspec.Struct, frozen=True):
    """One step of an answer: ``ids`` is None where the server names none, ``total`` its running or final count of T."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: Finish | None = None
    total: int | None = None
    failed: str | None = None
    """An error that the server told within its stream."""
    details: tuple[TokenDetail, ...] = ()
    calls: tuple[ToolDelta, ...] = ()


class Dialect(Protocol):
    """How to speak to one kind of server."""

    family: str
    marks_calls: bool
    """Whether tool calls are in the text, between marks."""

    async def version(self, call: Call) -> str:
        """The server's build, part of the engine family."""

    async def features(self, call: Call) -> frozenset[Feature]:
        """What its model can do beyond text."""

    async def count_prompt(self, call: Call, model: str, prompt: Prompt) -> list[int]:
        """Ids of the conversation after the chat template."""

    async def tokenize(self, call: Call, model: str, text: str) -> list[int]:
        """Ids of plain text."""

    async def has_control_tokens(self, call: Call, model: str, text: str) -> bool:
        """Whether ``text`` would be read as more than text."""

    def request(self, model: str, generation: Generation, prompt: list[int], room: int) -> tuple[str, dict[str, Any]]:
        """Path and body of a streamed answer of at most ``room`` T, from a whitelist, with neutral defaults."""

    def read(self, data: bytes) -> Event:
        """One event. Raises :class:`AnswerInvalid`."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Position] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Frame(msgspec.Struct):
    content: str | None = None
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    prompt_progress: msgspec.Raw = msgspec.Raw()
    """There while the prompt is read; such an event names a token that is none."""
    completion_probabilities: list[Position] = []
    error: msgspec.Raw = msgspec.Raw()


class _Count(msgspec.Struct):
    tokens: list[int]


_CHUNK = msgspec.json.Decoder(_Chunk)
_FRAME = msgspec.json.Decoder(_Frame)
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "eos": "stop", "tool_calls": "tool_calls"}
_ARGUMENT_CHARS = 4_096
"""Arguments that one delta holds: on the wire a character has four bytes at most."""
_NULL = (b"", b"null")


def read_chunk(data: bytes) -> Event:
    """An OpenAI chat completion chunk. Raises :class:`AnswerInvalid`."""
    try:
        chunk = _CHUNK.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise AnswerInvalid(f"the upstream sent an event of {len(data)} bytes that is no completion chunk") from error
    if bytes(chunk.error) not in _NULL:
        return Event(failed=error_words(bytes(chunk.error)))
    if chunk.choices is None:
        raise AnswerInvalid("the upstream sent an event without choices")
    total = None if chunk.usage is None else chunk.usage.completion_tokens
    if not chunk.choices:
        return Event(total=total)
    choice = chunk.choices[0]
    finish: Finish | None = None
    if choice.finish_reason is not None:
        finish = _FINISHES.get(choice.finish_reason)
        if finish is None:
            return Event(failed=f"it finished with {choice.finish_reason[:32]!r}")
    ids = None if choice.token_ids is None else tuple(choice.token_ids)
    positions = (choice.logprobs.content if choice.logprobs is not None else None) or ()
    details = tuple(to_detail(position) for position in positions)
    return Event(choice.delta.content or "", ids, finish, total, None, details, _calls(choice.delta.tool_calls or []))


def _calls(deltas: list[_CallDelta]) -> tuple[ToolDelta, ...]:
    """Parts of calls as they travel on. Raises :class:`AnswerInvalid` for what is none."""
    calls: list[ToolDelta] = []
    for delta in deltas:
        name, left = delta.function.name or "", delta.function.arguments or ""
        if not 0 <= delta.index < TOOLS_MAX or len(name) > 64:
            raise AnswerInvalid(f"the upstream sent a tool call with number {delta.index} and a name of {len(name)}")
        if name:
            calls.append(ToolDelta(delta.index, (delta.id or f"call_{delta.index}")[:128], name))
        while left:
            calls.append(ToolDelta(delta.index, arguments=left[:_ARGUMENT_CHARS]))
            left = left[_ARGUMENT_CHARS:]
    return tuple(calls)


def error_words(data: bytes) -> str:
    """The type and code of an error object, never its message, which may quote the prompt."""
    try:
        error = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError):
        return "no reason"
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    words = [str(error[key])[:64] for key in ("type", "code") if error.get(key)] if isinstance(error, dict) else []
    return " ".join(words) or "no reason"


def _counted(answer: Any) -> list[int]:
    try:
        return msgspec.convert(answer, _Count).tokens
    except msgspec.ValidationError as error:
        raise EngineError("the upstream's tokenizer answered with no list of token ids") from error


def _chat_body(model: str, generation: Generation, room: int) -> dict[str, Any]:
    sampling = generation.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": msgspec.to_builtins(generation.messages),
        **_tool_fields(generation.prompt),
        "max_tokens": max(1, min(generation.max_tokens, room)),
        "temperature": max(0.0, sampling.temperature),
        "top_p": sampling.top_p,
        "top_k": 0 if sampling.temperature > 0 else 1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if generation.tools is not None:
        body["tool_choice"] = generation.tools.openai_choice()
        body["parallel_tool_calls"] = generation.tools.parallel
    if generation.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = generation.logprobs
    return body


def _tool_fields(prompt: Prompt) -> dict[str, Any]:
    """What a prompt with tools has beside its messages."""
    return {} if prompt.tools is None else {"tools": [tool.to_openai() for tool in prompt.tools.tools]}


class Vllm:
    """vLLM's server."""

    family = "vllm"
    marks_calls = False

    async def version(self, call: Call) -> str:
        """``/version``."""
        answer = await call("GET", "/version")
        return str(answer.get("version", "unknown"))[:64] if isinstance(answer, dict) else "unknown"

    async def features(self, call: Call) -> frozenset[Feature]:  # noqa: ARG002  # the Dialect's
        """All; a server that was started without a tool parser refuses tools itself."""
        return frozenset(("tools", "tool_choice", "logprobs"))

    async def count_prompt(self, call: Call, model: str, prompt: Prompt) -> list[int]:
        """By the server's own template."""
        turns = msgspec.to_builtins(prompt.messages)
        return _counted(await call("POST", "/tokenize", {"model": model, "messages": turns, **_tool_fields(prompt)}))

    async def tokenize(self, call: Call, model: str, text: str) -> list[int]:
        """Text alone."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return _counted(await call("POST", "/tokenize", body))

    async def has_control_tokens(self, call: Call, model: str, text: str) -> bool:  # noqa: ARG002  # the Dialect's
        """By their looks: this server always parses them."""
        return _CONTROL.search(text) is not None

    def request(self, model: str, generation: Generation, prompt: list[int], room: int) -> tuple[str, dict[str, Any]]:  # noqa: ARG002  # the server counts again
        """Chat completions with token ids."""
        return "/v1/chat/completions", {**_chat_body(model, generation, room), "return_token_ids": True}

    def read(self, data: bytes) -> Event:
        """As OpenAI, with ``token_ids``."""
        return read_chunk(data)


class TabbyApi:
    """TabbyAPI, which serves ExLlamaV2 and V3."""

    family = "tabbyapi"
    marks_calls = False

    async def version(self, call: Call) -> str:  # noqa: ARG002  # the Dialect's
        """It tells none."""
        return "unknown"

    async def features(self, call: Call) -> frozenset[Feature]:  # noqa: ARG002  # the Dialect's
        """No tools: its tokenizer's endpoint takes none, so that a prompt with some cannot be counted."""
        return frozenset(("logprobs",))

    async def count_prompt(self, call: Call, model: str, prompt: Prompt) -> list[int]:  # noqa: ARG002  # one model is loaded
        """By the server's own template."""
        body = {"text": msgspec.to_builtins(prompt.messages), "add_bos_token": True, "encode_special_tokens": True}
        return _counted(await call("POST", "/v1/token/encode", body))

    async def tokenize(self, call: Call, model: str, text: str) -> list[int]:  # noqa: ARG002  # one model is loaded
        """Text alone."""
        return await self._encode(call, text, special=False)

    async def has_control_tokens(self, call: Call, model: str, text: str) -> bool:  # noqa: ARG002  # one model is loaded
        """Text that tokenises otherwise when control tokens are looked for has some."""
        return await self._encode(call, text, special=True) != await self._encode(call, text, special=False)

    def request(self, model: str, generation: Generation, prompt: list[int], room: int) -> tuple[str, dict[str, Any]]:  # noqa: ARG002  # the server counts again
        """Chat completions; a temperature of 0 is greedy there."""
        return "/v1/chat/completions", _chat_body(model, generation, room)

    def read(self, data: bytes) -> Event:
        """As OpenAI."""
        return read_chunk(data)

    async def _encode(self, call: Call, text: str, *, special: bool) -> list[int]:
        body = {"text": text, "add_bos_token": False, "encode_special_tokens": special}
        return _counted(await call("POST", "/v1/token/encode", body))


class LlamaServer:
    """llama.cpp's own server, asked through its native endpoint, which takes and gives token ids."""

    family = "llama-server"
    marks_calls = True

    async def version(self, call: Call) -> str:
        """``/props``."""
        answer = await call("GET", "/props")
        return str(answer.get("build_info", "unknown"))[:64] if isinstance(answer, dict) else "unknown"

    async def features(self, call: Call) -> frozenset[Feature]:
        """As its template says."""
        has_tools = takes_tools(await call("GET", "/props"))
        return frozenset(("logprobs", "tools") if has_tools else ("logprobs",))

    async def count_prompt(self, call: Call, model: str, prompt: Prompt) -> list[int]:  # noqa: ARG002  # one model is loaded
        """Template, then tokenizer."""
        asked = {"messages": msgspec.to_builtins(prompt.messages), **_tool_fields(prompt)}
        answer = await call("POST", "/apply-template", asked)
        text = answer.get("prompt") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise EngineError("the upstream's template answered with no prompt")
        body = {"content": text, "parse_special": True, "add_special": True}
        return _counted(await call("POST", "/tokenize", body))

    async def tokenize(self, call: Call, model: str, text: str) -> list[int]:  # noqa: ARG002  # one model is loaded
        """Text alone."""
        return await self._encode(call, text, special=False)

    async def has_control_tokens(self, call: Call, model: str, text: str) -> bool:  # noqa: ARG002  # one model is loaded
        """Text that tokenises otherwise when control tokens are looked for has some."""
        return await self._encode(call, text, special=True) != await self._encode(call, text, special=False)

    def request(self, model: str, generation: Generation, prompt: list[int], room: int) -> tuple[str, dict[str, Any]]:  # noqa: ARG002  # one model is loaded
        """``/completion`` with the prompt's ids."""
        sampling = generation.sampling
        likely = {} if generation.logprobs is None else {"n_probs": max(1, generation.logprobs)}
        return "/completion", {
            **likely,
            "prompt": prompt,
            "n_predict": max(1, min(generation.max_tokens, room)),
            "temperature": max(0.0, sampling.temperature),
            "top_p": sampling.top_p,
            "top_k": 0 if sampling.temperature > 0 else 1,
            "min_p": 0.0,
            "seed": -1 if sampling.seed is None else sampling.seed,
            "stop": list(sampling.stop),
            "stream": True,
            "return_tokens": True,
            "return_progress": True,  # a server that says something after every batch notices who has hung up
        }

    def read(self, data: bytes) -> Event:
        """A native frame."""
        try:
            frame = _FRAME.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise AnswerInvalid(f"the upstream sent an event of {len(data)} bytes that is no frame") from error
        if bytes(frame.error) not in _NULL:
            return Event(failed=error_words(bytes(frame.error)))
        if bytes(frame.prompt_progress) not in _NULL:
            return Event(ids=())
        if frame.content is None:
            raise AnswerInvalid("the upstream sent a frame without content")
        if frame.stop:
            return Event(frame.content, tuple(frame.tokens), "length" if frame.stop_type == "limit" else "stop")
        details = tuple(to_detail(position) for position in frame.completion_probabilities)
        return Event(frame.content, tuple(frame.tokens), None, frame.tokens_predicted, details=details)

    async def _encode(self, call: Call, text: str, *, special: bool) -> list[int]:
        body = {"content": text, "parse_special": special, "add_special": False}
        return _counted(await call("POST", "/tokenize", body))


DIALECTS: dict[Kind, Dialect] = {"vllm": Vllm(), "tabbyapi": TabbyApi(), "llama-server": LlamaServer()}
