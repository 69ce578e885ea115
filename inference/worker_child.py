"""The worker process that an engine lives in, seen from inside: configuration in, announcements out, end with the node.

Standard library and msgspec alone: a worker imports little before its engine.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

NotStartedKind = Literal["package_missing", "no_gpu", "wrong_build", "out_of_memory", "model"]
"""Why an engine cannot start: keys of :data:`inference.errors.NOT_STARTED`."""


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """``done`` of ``total`` steps of loading."""

    done: int
    total: int


class NotStarted(msgspec.Struct, frozen=True, tag="not_started"):
    """The engine cannot start, for a reason that an operator can mend; ``detail`` says how."""

    kind: NotStartedKind
    detail: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Requests are taken. ``slots`` where the engine itself decides how many at once; ``notes`` is for people."""

    slots: int = 0
    notes: str = ""


Announcement = Loading | NotStarted | Ready
_DECODER: msgspec.json.Decoder[Announcement] = msgspec.json.Decoder(Announcement)
_ENCODER = msgspec.json.Encoder()
C = TypeVar("C", bound=msgspec.Struct)


def decode_announcement(line: bytes) -> Announcement:
    """One line of a loading worker's stdout. Raises :class:`msgspec.MsgspecError`."""
    return _DECODER.decode(line)


class Answers:
    """The pipe to the node: whole lines, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, *messages: msgspec.Struct) -> None:
        """Write each message as a line."""
        data = memoryview(b"".join(_ENCODER.encode(message) + b"\n" for message in messages))
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


def take_config(kind: type[C]) -> tuple[C, Answers]:
    """Read the configuration and take stdout for ourselves: native code that prints reaches the log, not the pipe."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)
    answers = Answers(os.dup(1))
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    return config, answers


def end_with_parent(tidy: Callable[[], None]) -> None:
    """End this process, after ``tidy``, once the parent's end of stdin is gone, however the parent died."""

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        tidy()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
