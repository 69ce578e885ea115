"""Run a command that must not outlive its starter: ``python tether.py COMMAND...``, with a pipe as standard input.

The starter keeps the pipe's other end and never writes. However it ends, SIGKILL included, the pipe closes, and the
command is stopped: SIGTERM, then SIGKILL. On Linux the command also dies with this process. A parent-death signal set
by the starter itself won't do: it fires when the starting *thread* ends, and trio starts processes in worker threads.

Run as a script, from the standard library alone.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

STOP_S = 5.0
"""How long the command has between SIGTERM and SIGKILL."""

_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Run ``command`` until it ends or standard input does; returns its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the pipe alone decides
    prepare = _prepare_linux if sys.platform == "linux" else _prepare
    # no other thread runs yet, and this one lives as long as the process does: preexec_fn is sound here
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=prepare)  # noqa: PLW1509, S603 - see above
    threading.Thread(target=_stop_at_end, args=(child,), daemon=True).start()
    return child.wait()


def _prepare() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _prepare_linux() -> None:
    _prepare()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_at_end(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held by this thread, would abort the exit
        pass
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
