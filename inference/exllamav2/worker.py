"""The child process that holds a model: ``python -m inference.exllamav2.worker``.

Two threads: this one reads the node's lines and answers what needs the tokenizer alone; the generator's does all that
touches PyTorch, takes commands from a queue between two steps, and is the only one that does. Its end is the end of the
process, and so is the end of stdin. A crash costs this process and the answers it was at, nothing else.
"""

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inference.engine import Prompt
from inference.exllamav2.devices import CannotStart, check_version, find_gpus, is_sticky, load_package
from inference.exllamav2.protocol import (
    AskLoad,
    Beat,
    Cancel,
    Command,
    Counted,
    CountText,
    Failed,
    ReadPrompt,
    Start,
    WorkerConfig,
    decode_command,
)
from inference.worker_child import Answers, Loading, NotStarted, Ready, take_config

if TYPE_CHECKING:
    from inference.exllamav2.generator import LoadedModel

BEAT_SECONDS = 1.0
_BROKEN = 70
"""Exit status of a worker whose generator cannot be used any more."""


def main() -> None:
    """Load the model, serve until stdin ends."""
    config, answers = take_config(WorkerConfig)
    driver = Driver(config, answers)
    threading.Thread(target=_or_end(driver.run), daemon=True).start()
    for line in sys.stdin.buffer:
        driver.take(decode_command(line))
    os._exit(0)  # not sys.exit: the generator's thread may be inside a long step


def _or_end(run: Callable[[], None]) -> Callable[[], None]:
    """``run``, after which the process ends, however it ended."""

    def guarded() -> None:
        try:
            run()
        except BaseException:  # noqa: BLE001  the thread's supervisor: the log gets it, the process ends
            traceback.print_exc()
        os._exit(_BROKEN)

    return guarded


class Driver:
    """The generator's thread, and what other threads may ask it."""

    def __init__(self, config: WorkerConfig, answers: Answers) -> None:
        self._config = config
        self._answers = answers
        self._commands: queue.SimpleQueue[Start | Cancel | AskLoad] = queue.SimpleQueue()
        self._model: LoadedModel | None = None
        self._last_beat = 0.0

    def take(self, command: Command) -> None:
        """Deal with a command of the node; called by the reading thread, once the model is ready."""
        model = self._model
        if model is None:
            raise RuntimeError(f"{type(command).__name__} before the model was ready")
        match command:
            case CountText(request, text):
                self._answers.send(Counted(request, model.count(text)))
            case ReadPrompt(request, messages, tools):
                self._answers.send(model.read_prompt(request, Prompt(messages, tools)))
            case _:
                self._commands.put(command)

    def run(self) -> None:
        """Load, then compute for ever. Returns where it cannot go on."""
        try:
            model = self._load()
        except CannotStart as reason:
            self._answers.send(NotStarted(reason.kind, reason.detail))
            return
        while True:
            self._take_commands(model)
            if not model.busy:
                continue
            try:
                events = model.step()
            except Exception as error:  # noqa: BLE001  the supervisor of the generator: anything may come out of it
                traceback.print_exc()
                if not self._recover(model, error):
                    return
                continue
            self._answers.send(*events)
            self._beat()

    def _load(self) -> "LoadedModel":
        version = check_version()
        gpus = find_gpus()
        for package in ("exllamav2", "jinja2"):
            load_package(package)
        from inference.exllamav2.generator import LoadedModel  # noqa: PLC0415  needs the packages just looked for

        model = LoadedModel(self._config, gpus, lambda done, total: self._answers.send(Loading(done, total)))
        speed = model.test_itself()
        mode = "paged" if model.paged else "not paged: no flash-attn 2.5.7 on Ampere or newer, so one answer at a time"
        notes = f"exllamav2 {version}, {mode}, self-test {speed:.1f} tokens/s for one answer"
        print(f"loaded {Path(self._config.folder).name}: {notes}", file=sys.stderr, flush=True)
        self._model = model
        self._answers.send(Ready(model.slots, notes))
        return model

    def _take_commands(self, model: "LoadedModel") -> None:
        """All that wait; with nothing to compute, wait for one."""
        while True:
            try:
                command = self._commands.get(block=not model.busy)
            except queue.Empty:
                return
            match command:
                case Start():
                    try:
                        model.start(command)
                    except (AssertionError, ValueError, IndexError) as error:
                        self._answers.send(Failed(command.id, f"{type(error).__name__}: {error}"[:300]))
                case Cancel(request):
                    model.cancel(request)
                case AskLoad(request):
                    self._answers.send(model.load(request))

    def _recover(self, model: "LoadedModel", error: Exception) -> bool:
        """Fail every answer of the broken generator and make a new one; False where the process cannot go on."""
        reason = f"{type(error).__name__}: {error}"[:300]
        sticky = is_sticky(error)
        lost = model.lost() if sticky else model.recover()
        self._answers.send(*(Failed(request, reason, crashed=True) for request in lost))
        return not sticky

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat >= BEAT_SECONDS:
            self._last_beat = now
            self._answers.send(Beat())


if __name__ == "__main__":
    main()
