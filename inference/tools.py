"""Tools that a model may call: definitions, calls, and how both travel (OpenAI's function calling). Pure.

A definition's schema and a call's arguments stay the JSON text that their authors wrote: nobody on the way needs to
read them.
"""

from typing import Annotated, Any, Literal

import msgspec

TOOLS_MAX = 128
"""Tools of one request, and calls of one turn."""

SCHEMA_BYTES = 64 << 10
"""The longest schema of one tool, and the longest arguments of one call."""

INSTRUCTIONS_T = 512
"""T that a chat template may add to explain that there are tools, generously."""

TOOL_T = 16
"""T that a chat template adds to each definition and each call."""

ToolName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_.-]+$")]
_Schema = Annotated[str, msgspec.Meta(max_length=SCHEMA_BYTES)]


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which function, with what: ``arguments`` is JSON text as the model wrote it, perhaps not valid."""

    name: ToolName
    arguments: _Schema


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call in an assistant's turn; a message of role ``tool`` answers it by its ``id``."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    function: FunctionCall
    type: Literal["function"] = "function"


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One function that a model may call; ``parameters`` is a JSON schema as text, empty where there is none."""

    name: ToolName
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    parameters: _Schema = ""

    def to_openai(self) -> dict[str, Any]:
        """As chat templates and OpenAI's servers take it. Raises :class:`msgspec.DecodeError` for a schema that is
        no JSON."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        if self.parameters:
            function["parameters"] = msgspec.json.decode(self.parameters)
        return {"type": "function", "function": function}


class ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tools of a request. ``choice``: the model may call some, or must; ``only`` names the one that it must."""

    tools: Annotated[tuple[Tool, ...], msgspec.Meta(min_length=1, max_length=TOOLS_MAX)]
    choice: Literal["auto", "required"] = "auto"
    only: ToolName | None = None
    parallel: bool = True
    """Whether one turn may hold several calls."""

    def openai_choice(self) -> str | dict[str, Any]:
        """``tool_choice`` as OpenAI has it."""
        return self.choice if self.only is None else {"type": "function", "function": {"name": self.only}}


def tool_texts(use: ToolUse | None) -> tuple[str, ...]:
    """Every text of a request's tools that reaches a prompt."""
    tools = () if use is None else use.tools
    return tuple(text for tool in tools for text in (tool.name, tool.description, tool.parameters) if text)


def call_texts(calls: tuple[ToolCall, ...]) -> tuple[str, ...]:
    """Every text of a turn's calls that reaches a prompt."""
    return tuple(text for call in calls for text in (call.id, call.function.name, call.function.arguments))


def compute_tools_bound(use: ToolUse | None, calls: tuple[ToolCall, ...]) -> int:
    """T that definitions and calls add to a prompt at most: no T is shorter than a byte."""
    if use is None and not calls:
        return 0
    texts = (*tool_texts(use), *call_texts(calls))
    entries = len(calls) + (0 if use is None else len(use.tools))
    return INSTRUCTIONS_T + TOOL_T * entries + sum(len(text.encode()) for text in texts)
