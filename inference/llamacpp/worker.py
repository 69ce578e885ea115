"""The child process that holds a model: ``python -m inference.llamacpp.worker``. The only user of xllamacpp.

The parent writes one line of JSON (:class:`WorkerConfig`) to stdin, so that the API key never shows in a process
list, and keeps stdin open: its end, however the parent died, ends this process. One line comes back on stdout when the
model is loaded. A crash in native code costs this process and the sessions it had, nothing else.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

READY = b"ready\n"
"""What stdout says once requests are taken."""

BATCH = 64
"""T of a prompt taken in one step: a cancelled prompt frees the engine after at most one of them."""


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker is told. ``context`` is T per slot; ``socket`` ends in ``.sock``."""

    model: str
    socket: str
    api_key: str
    slots: int
    context: int
    threads: int


def main() -> None:
    """Load the model, serve until stdin ends."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
    # native code may write to descriptor 1: only our one line may reach the parent's pipe
    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, args=[Path(config.socket)], daemon=True).start()
    server = _serve(config)
    Path(config.socket).chmod(0o600)
    os.write(answers, READY)
    threading.Event().wait()
    del server


def _exit_with_parent(socket: Path) -> None:
    """End at once when the parent's end of stdin is gone, and tidy up what a killed parent leaves behind."""
    while sys.stdin.buffer.read(4096):
        pass
    with suppress(OSError):  # gone already where the parent lives and tidied up itself
        socket.unlink()
        socket.parent.rmdir()
    os._exit(0)


def _serve(config: WorkerConfig) -> object:
    os.umask(0o177)
    # busy waiting between tokens starves every other process of the machine
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp  # noqa: PLC0415  the OpenMP policy is read when the library is loaded

    params = xllamacpp.CommonParams()
    params.model.path = config.model
    params.hostnames = [config.socket]
    params.api_keys = [config.api_key]
    params.n_parallel = config.slots
    params.n_ctx = config.slots * config.context
    params.n_batch = BATCH
    params.n_ubatch = BATCH
    params.cpuparams.n_threads = config.threads
    params.cpuparams_batch.n_threads = config.threads
    params.n_threads_http = config.slots + 4
    params.cache_ram_mib = 0
    params.fit_params = False
    params.offline = True
    params.ui = False
    params.endpoint_slots = True
    params.verbosity = 2  # warnings: the log never holds a prompt
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
