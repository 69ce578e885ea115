"""The child process that holds a model: ``python -m inference.llamacpp.worker``. The only user of xllamacpp.

The parent writes one line of JSON (:class:`WorkerConfig`) to stdin, so that the API key never shows in a process
list, and keeps stdin open: its end, however the parent died, ends this process. One line comes back on stdout when the
model is loaded. A crash in native code costs this process and the sessions it had, nothing else.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from inference.worker_child import Ready, end_with_parent, take_config

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
    config, answers = take_config(WorkerConfig)
    socket = Path(config.socket)
    end_with_parent(lambda: _remove(socket))
    server = _serve(config)
    socket.chmod(0o600)
    answers.send(Ready())
    threading.Event().wait()
    del server


def _remove(socket: Path) -> None:
    """Tidy up what a killed parent leaves behind."""
    with suppress(OSError):  # gone already where the parent lives and tidied up itself
        socket.unlink()
        socket.parent.rmdir()


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
