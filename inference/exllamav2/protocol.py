"""What the node and an ExLlamaV2 worker say to each other: lines of JSON over the worker's stdin and stdout. Pure.

Every request carries an ``id`` that the node gives out, counting up; what answers it carries the same.
"""

from typing import Literal

import msgspec

from inference.engine import ChatMessage, Finish
from inference.tools import ToolUse

CacheMode = Literal["fp16", "q8", "q6", "q4"]
"""Bits of a key or value in the cache."""

PAGE_TOKENS = 256
"""T of a cache page: a cache is a whole number of them."""

STOPS_MAX = 16
"""Stop strings that one request may have."""

STOP_CHARS_MAX = 256
"""Characters of a stop string."""


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to load a model. ``context`` is T of prompt and answer together; ``gpu_split`` is GB of weights per GPU."""

    folder: str
    slots: int
    context: int
    cache_tokens: int
    cache_mode: CacheMode = "fp16"
    chunk: int = 512
    """T of a prompt taken in one step: a cancelled prompt frees the engine after at most one of them."""
    gpu_split: tuple[float, ...] = ()


class CountText(msgspec.Struct, frozen=True, tag="count"):
    """Asks for :class:`Counted`."""

    id: int
    text: str


class ReadPrompt(msgspec.Struct, frozen=True, tag="prompt"):
    """Asks for :class:`PromptRead`, or :class:`Refused`."""

    id: int
    messages: tuple[ChatMessage, ...]
    tools: ToolUse | None = None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Asks for an answer: :class:`Said` until one has a finish, or :class:`Failed`."""

    id: int
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Ends the answer ``id``; nothing more is said of it."""

    id: int


class AskLoad(msgspec.Struct, frozen=True, tag="load"):
    """Asks the generator's thread for :class:`Load`: it answers between two steps."""

    id: int


Command = CountText | ReadPrompt | Start | Cancel | AskLoad


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """T of a plain text."""

    id: int
    tokens: int


class PromptRead(msgspec.Struct, frozen=True, tag="read"):
    """A conversation as token ids, after the chat template."""

    id: int
    ids: tuple[int, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A conversation that is not taken: control tokens in message ``index``, or the template's own ``reason``."""

    id: int
    index: int | None
    reason: str


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Answers being computed and waiting, and pages of the cache that nobody holds."""

    id: int
    active: int
    waiting: int
    free_pages: int


class Said(msgspec.Struct, frozen=True, tag="said"):
    """The next part of an answer; the last has a ``finish``. ``cached`` is T of the prompt that were in the cache."""

    id: int
    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    cached: int = 0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """No answer to ``id``; ``crashed`` where the generator itself broke, which every answer of the batch shares."""

    id: int
    reason: str
    crashed: bool = False


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The generator has made a step: said about once a second while there is work."""


Event = Counted | PromptRead | Refused | Load | Said | Failed | Beat

_COMMANDS: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_EVENTS: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def decode_command(line: bytes) -> Command:
    """A line of the node. Raises :class:`msgspec.MsgspecError`."""
    return _COMMANDS.decode(line)


def decode_event(line: bytes) -> Event:
    """A line of the worker. Raises :class:`msgspec.MsgspecError`."""
    return _EVENTS.decode(line)


def round_to_pages(tokens: int) -> int:
    """``tokens`` rounded up to whole pages."""
    return -(-tokens // PAGE_TOKENS) * PAGE_TOKENS
