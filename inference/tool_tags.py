"""Tool calls out of an answer's text, for engines that give text alone: ``<tool_call>{…}</tool_call>``.

The form is that of Hermes, Qwen, SmolLM3 and many others, and no other is known here: where a model's chat template
does not show it, tools are refused rather than guessed at.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from gossip.messages.session import ToolDelta
from inference.engine import Piece, join_pieces

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_CALL_CHARS = 16_384
"""Arguments of one call that are sent on; a longer one is left as text."""


class _Call(msgspec.Struct, frozen=True):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


def takes_tools(props: Any) -> bool:
    """Whether a llama.cpp server's ``/props`` say that its template takes tools, and marks calls as is known here."""
    if not isinstance(props, dict):
        return False
    caps = props.get("chat_template_caps")
    template = props.get("chat_template_tool_use") or props.get("chat_template") or ""
    return isinstance(caps, dict) and bool(caps.get("supports_tools")) and marks_calls(str(template))


def marks_calls(template: str) -> bool:
    """Whether a chat template speaks of tools and marks calls as is known here."""
    return OPEN in template and "tools" in template


class TaggedCalls:
    """An answer's pieces with calls in the place of their marks. T stay with the piece that they came in.

    A call is told once it is whole. What only looks like one stays text.
    """

    def __init__(self, pieces: AsyncIterator[Piece]) -> None:
        self._pieces = pieces
        self._held = ""
        """Text that may be, or is, the beginning of a call."""
        self._waiting = Piece("", ())
        """T, and what is known of them, whose text is held."""
        self._count = 0

    def __aiter__(self) -> "TaggedCalls":
        return self

    async def __anext__(self) -> Piece:
        while (piece := self._take(await anext(self._pieces))) is None:
            pass
        return piece

    def _take(self, piece: Piece) -> Piece | None:
        """What is settled with ``piece``: None where all of it is held, T too, which never run ahead of their text."""
        self._held += piece.text
        text, calls, told = "", [], self._count
        while (call := self._next_call()) is not None:
            before, delta = call
            text, told = text + _said(before, told), self._count
            calls.append(delta)
        settled = len(self._held) if piece.finish is not None else _settled(self._held)
        text, self._held = text + _said(self._held[:settled], told), self._held[settled:]
        waiting, self._waiting = join_pieces(self._waiting, msgspec.structs.replace(piece, text="")), Piece("", ())
        if not text and not calls and piece.finish is None:
            self._waiting = waiting
            return None
        finish = "tool_calls" if piece.finish == "stop" and self._count else piece.finish
        return msgspec.structs.replace(waiting, text=text, calls=tuple(calls), finish=finish)

    def _next_call(self) -> tuple[str, ToolDelta] | None:
        """The text before the first whole call that is held, and the call; None where there is none."""
        start = self._held.find(OPEN)
        while start >= 0:
            end = self._held.find(CLOSE, start)
            if end < 0:
                return None
            delta = self._read(self._held[start + len(OPEN) : end])
            if delta is not None:
                before, self._held = self._held[:start], self._held[end + len(CLOSE) :]
                return before, delta
            start = self._held.find(OPEN, end)
        return None

    def _read(self, inner: str) -> ToolDelta | None:
        try:
            call = msgspec.json.decode(inner.strip(), type=_Call)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        arguments = bytes(call.arguments).decode()
        if not 1 <= len(call.name) <= 64 or len(arguments) > _CALL_CHARS:
            return None
        index, self._count = self._count, self._count + 1
        return ToolDelta(index, f"call_{index}", call.name, arguments)


def _said(text: str, calls: int) -> str:
    """``text`` after so many calls: white space between and after calls is none of the answer."""
    return text if calls == 0 or text.strip() else ""


def _settled(held: str) -> int:
    """How much of ``held`` is text for sure: up to a mark, or what may become one."""
    start = held.find(OPEN)
    while start >= 0:
        if held.find(CLOSE, start) < 0:
            return start
        start = held.find(OPEN, start + 1)
    for length in range(min(len(OPEN) - 1, len(held)), 0, -1):
        if OPEN.startswith(held[-length:]):
            return len(held) - length
    return len(held)
