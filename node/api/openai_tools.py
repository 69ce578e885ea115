"""Tools and calls as OpenAI's clients write and read them. Pure."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from gossip.messages.session import LikelyToken, TokenDetail, ToolDelta
from inference.tools import SCHEMA_BYTES, TOOLS_MAX, FunctionCall, Tool, ToolCall, ToolUse
from node.api.backend import BackendError

_NAME = re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")
_DESCRIPTION_MAX = 4096
_MICRO = 1_000_000


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()


class ToolField(msgspec.Struct):
    """An entry of ``tools``."""

    type: str
    function: _Function | None = None


class _Called(msgspec.Struct):
    name: str
    arguments: str


class CallField(msgspec.Struct):
    """An entry of an assistant message's ``tool_calls``."""

    id: str
    function: _Called
    type: str = "function"


def read_tools(fields: list[ToolField] | None, choice: Any, *, parallel: bool) -> ToolUse | None:
    """The tools of a request; None where there are none, or none may be used. Raises :class:`BackendError` (400)."""
    if not fields:
        if choice not in (None, "none", "auto"):
            raise _invalid("tool_choice", "'tool_choice' names a tool, but there are no 'tools'")
        return None
    if choice == "none":
        return None
    if len(fields) > TOOLS_MAX:
        raise _invalid("tools", f"'tools' has {len(fields)} entries, at most {TOOLS_MAX} are possible")
    tools = tuple(_tool(f"tools[{index}]", field) for index, field in enumerate(fields))
    names = {tool.name for tool in tools}
    match choice:
        case None | "auto":
            return ToolUse(tools, parallel=parallel)
        case "required":
            return ToolUse(tools, "required", parallel=parallel)
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return ToolUse(tools, "required", name, parallel)
        case _:
            raise _invalid(
                "tool_choice", f"'tool_choice' is {str(choice)[:100]!r}: none of auto, none, required or a tool"
            )


def _tool(place: str, field: ToolField) -> Tool:
    if field.type != "function":
        raise _invalid(f"{place}.type", f"tools of type {field.type[:64]!r} are not supported: functions only")
    if field.function is None:
        raise _invalid(f"{place}.function", "the tool has no function")
    function = field.function
    _check_name(f"{place}.function.name", function.name)
    if len(function.description or "") > _DESCRIPTION_MAX:
        size = len(function.description or "")
        what = f"the description has {size} characters, at most {_DESCRIPTION_MAX} are possible"
        raise _invalid(f"{place}.function.description", what)
    schema = bytes(function.parameters).removeprefix(b"null")
    if len(schema) > SCHEMA_BYTES:
        what = f"the schema has {len(schema)} bytes, at most {SCHEMA_BYTES} are possible"
        raise _invalid(f"{place}.function.parameters", what)
    if schema and not schema.startswith(b"{"):
        raise _invalid(f"{place}.function.parameters", "the schema is no object")
    return Tool(function.name, function.description or "", schema.decode())


def read_calls(place: str, fields: list[CallField]) -> tuple[ToolCall, ...]:
    """The calls of an assistant's turn. Raises :class:`BackendError` (400)."""
    if len(fields) > TOOLS_MAX:
        raise _invalid(place, f"{len(fields)} calls, at most {TOOLS_MAX} are possible")
    return tuple(_call(f"{place}[{index}]", field) for index, field in enumerate(fields))


def _call(place: str, field: CallField) -> ToolCall:
    if field.type != "function":
        raise _invalid(f"{place}.type", f"calls of type {field.type[:64]!r} are not supported: functions only")
    if not 1 <= len(field.id) <= 128:
        raise _invalid(f"{place}.id", f"the id has {len(field.id)} characters; 1 to 128 are possible")
    _check_name(f"{place}.function.name", field.function.name)
    if len(field.function.arguments) > SCHEMA_BYTES:
        size = len(field.function.arguments)
        raise _invalid(f"{place}.function.arguments", f"{size} characters, at most {SCHEMA_BYTES} are possible")
    return ToolCall(field.id, FunctionCall(field.function.name, field.function.arguments))


def _check_name(place: str, name: str) -> None:
    if not _NAME.match(name):
        raise _invalid(place, f"{name[:100]!r} is no name: 1 to 64 letters, digits, '_', '-' and '.'")


def _invalid(param: str, message: str) -> BackendError:
    return BackendError(400, "invalid_value", message, kind="invalid_request_error", param=param)


def delta_objects(calls: Iterable[ToolDelta]) -> list[dict[str, Any]]:
    """Parts of calls as a stream's ``delta.tool_calls`` has them."""
    objects = []
    for call in calls:
        if call.name:
            function = {"name": call.name, "arguments": call.arguments}
            objects.append({"index": call.index, "id": call.call_id, "type": "function", "function": function})
        else:
            objects.append({"index": call.index, "function": {"arguments": call.arguments}})
    return objects


def whole_calls(deltas: Iterable[ToolDelta]) -> list[dict[str, Any]]:
    """Calls put together from their parts, as a whole message's ``tool_calls`` has them."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        function = {"name": "", "arguments": ""}
        call = calls.setdefault(delta.index, {"id": "", "type": "function", "function": function})
        call["id"] = call["id"] or delta.call_id
        call["function"]["name"] = call["function"]["name"] or delta.name
        call["function"]["arguments"] += delta.arguments
    return [calls[index] for index in sorted(calls)]


def logprob_objects(details: Iterable[TokenDetail]) -> list[dict[str, Any]]:
    """Logarithms as a chat answer's ``logprobs.content`` has them."""
    return [_likely(one) | {"top_logprobs": [_likely(other) for other in one.top]} for one in details]


def text_logprobs(details: Iterable[TokenDetail]) -> dict[str, Any]:
    """Logarithms as a legacy completion's ``logprobs`` has them; offsets count from this piece's beginning."""
    tokens, logprobs, top, offsets, at = [], [], [], [], 0
    for one in details:
        text = _text(one)
        tokens.append(text)
        logprobs.append(_logprob(one))
        top.append({_text(other): _logprob(other) for other in one.top})
        offsets.append(at)
        at += len(text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def _likely(one: LikelyToken | TokenDetail) -> dict[str, Any]:
    return {"token": _text(one), "logprob": _logprob(one), "bytes": list(one.data)}


def _text(one: LikelyToken | TokenDetail) -> str:
    return one.data.decode(errors="replace")


def _logprob(one: LikelyToken | TokenDetail) -> float:
    return -one.cost / _MICRO
