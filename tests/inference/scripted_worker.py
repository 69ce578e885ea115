"""A worker that computes nothing: it says what its model's name tells it to, over the real pipe.

``python -m tests.inference.scripted_worker``. An answer is words, one T each; the prompt's text may ask for trouble.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from inference.exllamav2.protocol import (
    AskLoad,
    Beat,
    Cancel,
    Counted,
    CountText,
    Failed,
    Load,
    PromptRead,
    ReadPrompt,
    Refused,
    Said,
    Start,
    WorkerConfig,
    decode_command,
)
from inference.worker_child import Answers, Loading, NotStarted, Ready, take_config

WORDS = {"kill": 1, "hang": 2, "fail": 3, "break": 4, "flood": 5, "garbage": 6, "beat": 7, "endless": 8}
PLAIN = 9


def main() -> None:
    """Announce, then serve."""
    config, answers = take_config(WorkerConfig)
    print("noise of a library on its stdout", flush=True)
    match Path(config.folder).name:
        case "no_gpu":
            answers.send(Loading(1, 2), NotStarted("no_gpu", "there is none here"))
            return
        case "mumble":
            os.write(answers._descriptor, b"hello?\n")
        case "dies":
            return
        case "stalls":
            threading.Event().wait()
    answers.send(*(Loading(step, 20) for step in range(21)), Ready(config.slots, "scripted"))
    serve(answers)


def serve(answers: Answers) -> None:
    """Answer commands in turn; of a cancelled answer nothing is said."""
    cancelled = 0
    for line in sys.stdin.buffer:
        match decode_command(line):
            case CountText(request, text):
                answers.send(Counted(request, len(text.split())))
            case ReadPrompt(request, messages, _):
                text = messages[-1].content
                if text == "refuse":
                    answers.send(Refused(request, None, "roles must alternate"))
                elif text == "forge":
                    answers.send(Refused(request, 0, "control tokens"))
                else:
                    answers.send(PromptRead(request, (WORDS.get(text, PLAIN),) * max(1, len(text.split()))))
            case Start() as start:
                answer(answers, start)
            case Cancel():
                cancelled += 1
            case AskLoad(request):
                answers.send(Load(request, 0, cancelled, 0))


def answer(answers: Answers, start: Start) -> None:
    """Two words and an end, or what the prompt asks for instead."""
    answers.send(Said(start.id, "one ", (1,)))
    match start.prompt[0]:
        case 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case 2:
            threading.Event().wait()
        case 3:
            answers.send(Failed(start.id, "the cache is too small"))
            return
        case 4:
            answers.send(Failed(start.id, "RuntimeError: kernel", crashed=True))
            return
        case 5:
            answers.send(*(Said(start.id, "more ", (2,)) for _ in range(start.max_tokens + 5)))
        case 6:
            os.write(answers._descriptor, b"{not json\n")
        case 7:
            for _ in range(8):
                time.sleep(0.1)  # the node's deadline runs in real time
                answers.send(Beat())
        case 8:
            return
    answers.send(Said(start.id, "two", (2,)), Said(start.id, "", (), "stop", cached=3))


if __name__ == "__main__":
    main()
