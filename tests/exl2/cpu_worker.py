"""The engine's own worker on a CPU: ``python -m tests.exl2.cpu_worker``.

The real package's config, tokenizer, caches, jobs, sampler and generator run; in place of the CUDA extension, of
loading, of the forward pass and of the search for GPUs stand this folder's. ``YELLOWSTONE_TEST_UNPAGED`` takes flash
attention away again. Three words in a prompt break the forward pass, each in a way of its own.
"""

import contextlib
import os
import signal
import sys
import threading
from typing import Any

import torch

from tests.exl2.cpu_extension import make_extension
from tests.exl2.cpu_forward import CpuLlama

KILL, RAISE, HANG = "zigzagkill", "zigzagraise", "zigzaghang"


def install() -> None:
    """Put the stand-ins in their places."""
    sys.modules["exllamav2_ext"] = make_extension()
    import exllamav2
    import exllamav2.attn
    import exllamav2.generator.dynamic

    from inference.exllamav2 import devices

    devices.find_gpus = lambda: (devices.Gpu("no GPU, CPU stand-in", 8 * devices.GIB, 8 * devices.GIB),)
    if "YELLOWSTONE_TEST_UNPAGED" not in os.environ:
        exllamav2.attn.has_flash_attn_with_paged = True

    def load_autosplit(self: Any, cache: Any, callback: Any = None) -> None:
        for index in range(len(self.modules) + 1):
            callback(index, len(self.modules))
        self.cache_map = dict.fromkeys(range(self.config.num_hidden_layers), "cpu")
        cache.update_cache_tensors()
        self.cpu_llama = CpuLlama(self.config)
        self.fault = Faults(self.config)
        self.loaded = True

    def forward_chunk(self: Any, input_ids: Any, cache: Any, attn_params: Any, **others: Any) -> dict[str, Any]:
        self.fault.look(input_ids)
        head = not others.get("preprocess_only", False)
        logits = self.cpu_llama.logits(input_ids, cache, attn_params, head=head)
        return {} if logits is None else {"logits": logits}

    from inference.exllamav2 import generator

    generator._SELF_TEST_TOKENS = 4
    exllamav2.ExLlamaV2.load_autosplit = load_autosplit
    exllamav2.ExLlamaV2.forward_chunk = forward_chunk


class Faults:
    """Breaks a step whose ids hold one of the three words."""

    def __init__(self, config: Any) -> None:
        import exllamav2

        encode = exllamav2.ExLlamaV2Tokenizer(config).encode_unspecial
        self._faults = ((encode(" " + KILL), _kill), (encode(" " + RAISE), _raise), (encode(" " + HANG), _hang))

    def look(self, ids: Any) -> None:
        """Look at the ids of a step."""
        said = ids.flatten().tolist()
        for word, fault in self._faults:
            if any(said[at : at + len(word)] == word for at in range(len(said))):
                fault()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory, says the test")


def _hang() -> None:
    threading.Event().wait()


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the package greets; stdout is the worker's pipe
        install()
    from inference.exllamav2.worker import main

    main()
