"""OpenAI's chat-completion requests, checked into ours. Pure; what goes back is :mod:`node.api.openai_answers`.

Fields that we don't know are ignored, as clients expect. Fields that we know but cannot serve are refused by name,
because the answer would not be what was asked for. Sampling defaults are ours (greedy, so repeatable).
"""

import re
from typing import Any, TypeVar

import msgspec

from inference.engine import TOP_LOGPROBS_MAX, ChatMessage, Sampling
from inference.tools import ToolUse
from node.api.backend import BackendError, ChatRequest
from node.api.openai_tools import CallField, ToolField, read_calls, read_tools

B = TypeVar("B")

STOPS_MAX = 4
"""Stop strings in one request."""

STOP_LENGTH_MAX = 64
"""Characters of one stop string."""

TEXT_LOGPROBS_MAX = 5
"""Alternatives of a T that a legacy completion may ask for."""

DEPTH_MAX = 64
"""How deep a request may nest; tool schemas, the deepest there is, need about ten."""

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
"""Strings, to skip what is in them, and brackets."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

_PLACE = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[CallField] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


class _Common(msgspec.Struct, kw_only=True):
    """Every field that means something to both endpoints; null is the same as absent."""

    model: str
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class _Body(_Common, kw_only=True):
    """A chat completion."""

    messages: list[_Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolField] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    response_format: _ResponseFormat | None = None
    modalities: list[str] | None = None
    audio: Any = None


class _TextBody(_Common, kw_only=True):
    """A legacy completion."""

    prompt: str | list[Any]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """A request and how its answer is wanted."""

    chat: ChatRequest
    stream: bool
    include_usage: bool


_CHAT = msgspec.json.Decoder(_Body)
_TEXT = msgspec.json.Decoder(_TextBody)


def invalid(param: str | None, message: str, code: str = "invalid_value") -> BackendError:
    """A 400 that names the parameter at fault."""
    return BackendError(400, code, message, kind="invalid_request_error", param=param)


def parse_request(raw: bytes, *, default_tokens: int, most_tokens: int) -> Asked:
    """A request body as a :class:`ChatRequest`; T default to ``default_tokens`` and end at ``most_tokens``.

    Raises :class:`BackendError` (400), naming the parameter and the offending value.
    """
    body = _decode(_CHAT, raw)
    _refuse_unsupported(body)
    if not body.messages:
        raise invalid("messages", "'messages' is empty")
    messages = tuple(_message(index, message) for index, message in enumerate(body.messages))
    return _asked(
        body,
        messages,
        _max_tokens(body, default_tokens, most_tokens),
        tools=read_tools(body.tools, body.tool_choice, parallel=body.parallel_tool_calls is not False),
        logprobs=_logprobs(body),
    )


def parse_completion(raw: bytes, *, default_tokens: int, most_tokens: int) -> Asked:
    """A legacy completion's body: its one prompt is put as a user's message. Raises as :func:`parse_request`."""
    body = _decode(_TEXT, raw)
    wants = {
        "best_of": body.best_of not in (None, 1),
        "echo": body.echo is True,
        "suffix": bool(body.suffix),
    }
    _refuse(wants | _common_wants(body))
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise invalid("prompt", "'prompt' must be one text: several, and token ids, are not supported by this network")
    if body.logprobs is not None:
        _check_range("logprobs", body.logprobs, 0, TEXT_LOGPROBS_MAX)
    messages = (ChatMessage("user", prompts[0]),)
    return _asked(body, messages, _max_tokens(body, default_tokens, most_tokens), logprobs=body.logprobs)


def _asked(
    body: _Common,
    messages: tuple[ChatMessage, ...],
    max_tokens: int,
    *,
    tools: ToolUse | None = None,
    logprobs: int | None = None,
) -> Asked:
    if not body.model:
        raise invalid("model", "'model' is empty")
    chat = ChatRequest(body.model, messages, max_tokens, _sampling(body), tools, logprobs)
    include_usage = body.stream_options is not None and body.stream_options.include_usage is True
    return Asked(chat, body.stream is True, include_usage)


def _decode(decoder: "msgspec.json.Decoder[B]", raw: bytes) -> B:
    if _nests_deeper(raw, DEPTH_MAX):
        raise invalid(None, f"the body is nested more than {DEPTH_MAX} deep", "invalid_json")
    try:
        raw.decode()
        return decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body is not UTF-8 (byte {error.start})", "invalid_json") from None
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        reason, place = (found[1], found[2]) if found else (str(error), None)
        missing = re.match(r"Object missing required field `(.*)`", reason)
        param = (f"{place}.{missing[1]}" if place else missing[1]) if missing else place
        raise invalid(param or None, f"{param or 'the body'}: {reason}", "invalid_type") from None
    except msgspec.DecodeError as error:
        raise invalid(None, f"the body is not JSON: {error}", "invalid_json") from None


def _nests_deeper(raw: bytes, limit: int) -> bool:
    """Whether ``raw`` opens more than ``limit`` brackets at once.

    Looked at before decoding, because where a library has raised Python's recursion limit a decoder would overrun the
    C stack instead of raising RecursionError.
    """
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    depth = 0
    for token in _BRACKETS.finditer(raw):
        match raw[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
            case 0x5D | 0x7D:
                depth -= 1
        if depth > limit:
            return True
    return False


def _refuse_unsupported(body: _Body) -> None:
    wants = {
        "functions": bool(body.functions),
        "response_format": body.response_format is not None and body.response_format.type != "text",
        "modalities": body.modalities not in (None, [], ["text"]),
        "audio": body.audio is not None,
    }
    _refuse(_common_wants(body) | wants)


def _common_wants(body: _Common) -> dict[str, bool]:
    return {
        "n": body.n not in (None, 1),
        "logit_bias": bool(body.logit_bias),
        "presence_penalty": body.presence_penalty not in (None, 0),
        "frequency_penalty": body.frequency_penalty not in (None, 0),
    }


def _refuse(wants: dict[str, bool]) -> None:
    """Raise for the first of ``wants`` that is wanted."""
    for name, wanted in wants.items():
        if wanted:
            raise invalid(name, f"'{name}' is not supported by this network yet", "unsupported_parameter")


def _message(index: int, message: _Message) -> ChatMessage:
    place = f"messages[{index}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise invalid(f"{place}.role", f"role {message.role!r} is not supported; use {', '.join(_ROLES)}")
    if message.function_call is not None:
        what = "calls of the old form are not supported: use 'tool_calls'"
        raise invalid(f"{place}.function_call", what, "unsupported_parameter")
    if message.tool_calls and role != "assistant":
        raise invalid(f"{place}.tool_calls", f"a message of role {role!r} calls no tools")
    if (message.tool_call_id is not None) is not (role == "tool"):
        what = "names no call" if role == "tool" else f"has role {role!r}, which answers no call"
        raise invalid(f"{place}.tool_call_id", f"the message {what}")
    if message.tool_call_id is not None and not 1 <= len(message.tool_call_id) <= 128:
        raise invalid(
            f"{place}.tool_call_id", f"the id has {len(message.tool_call_id)} characters; 1 to 128 are possible"
        )
    calls = read_calls(f"{place}.tool_calls", message.tool_calls or [])
    if message.content is None:
        if not calls:
            raise invalid(f"{place}.content", "the message has no content")
        return ChatMessage("assistant", "", calls)
    if isinstance(message.content, str):
        text = message.content
    else:
        text = "".join(_part(f"{place}.content[{number}]", part) for number, part in enumerate(message.content))
    return msgspec.structs.replace(
        msgspec.convert({"role": role, "content": text}, ChatMessage),
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
    )


def _logprobs(body: _Body) -> int | None:
    """How many alternatives of each T; None where no logarithms are wanted."""
    top = body.top_logprobs or 0
    _check_range("top_logprobs", top, 0, TOP_LOGPROBS_MAX)
    if top and body.logprobs is not True:
        raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true")
    return top if body.logprobs is True else None


def _part(place: str, part: _Part) -> str:
    if part.type != "text":
        raise invalid(f"{place}.type", f"content of type {part.type!r} is not supported: text only")
    if part.text is None:
        raise invalid(f"{place}.text", "the part has no text")
    return part.text


def _max_tokens(body: _Common, default: int, most: int) -> int:
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if asked is None:
        return min(default, most)
    if not 1 <= asked <= most:
        raise invalid(name, f"'{name}' is {asked}; 1 to {most} are possible")
    return asked


def _sampling(body: _Common) -> Sampling:
    _check_range("temperature", body.temperature, 0.0, 2.0)
    _check_range("top_p", body.top_p, 0.0, 1.0)
    if body.top_p == 0:
        raise invalid("top_p", "'top_p' is 0; it must be above 0")
    if body.seed is not None and not -(2**63) <= body.seed < 2**63:
        raise invalid("seed", f"'seed' is {body.seed}; it must fit 64 bits")
    return Sampling(
        temperature=0.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=_stops(body.stop),
    )


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise invalid(name, f"'{name}' is {value}; {least:g} to {most:g} are possible")


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > STOPS_MAX:
        raise invalid("stop", f"'stop' has {len(stops)} strings, at most {STOPS_MAX} are possible")
    for text in stops:
        if not 1 <= len(text) <= STOP_LENGTH_MAX:
            raise invalid("stop", f"a stop string has {len(text)} characters; 1 to {STOP_LENGTH_MAX} are possible")
    return stops
