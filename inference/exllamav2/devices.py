"""What the machine offers to ExLlamaV2, and what is missing, in words for an operator. Runs in the worker."""

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.worker_child import NotStartedKind

GIB = 1 << 30
PACKAGE = "exllamav2"
OLDEST, TOO_NEW = (0, 3, 2), (0, 4)
"""The versions of the package that this program was written to."""

_INSTALL = "pip install 'yellowstone-router[exl2]'"
_OVERHEAD_BYTES = 600 << 20
"""Scratch space, reserve and CUDA's own, per GPU; the loader finds out exactly."""

CACHE_BYTES = {"fp16": 2.0, "q8": 1.0625, "q6": 0.8125, "q4": 0.5625}
"""Bytes of one key or value, its share of the scales included."""


class CannotStart(Exception):  # noqa: D101  raised and caught within the worker, which announces it
    def __init__(self, kind: NotStartedKind, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: its name, and bytes of its memory free and in all."""

    name: str
    free: int
    total: int


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that PyTorch can use. Raises :class:`CannotStart`."""
    torch: Any = load_package("torch")
    if not (torch.version.cuda or torch.version.hip):
        raise CannotStart(
            "wrong_build",
            f"PyTorch {torch.__version__} is built without CUDA; install a CUDA build of it (pytorch.org names the "
            'index for your driver), or choose engine = "llamacpp" for this machine\'s CPU',
        )
    if not torch.cuda.is_available() or not torch.cuda.device_count():
        raise CannotStart(
            "no_gpu",
            f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU: check that nvidia-smi lists one "
            'and that its driver is new enough, or choose engine = "llamacpp" for this machine\'s CPU',
        )
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(torch.cuda.get_device_properties(index).name, free, total))
    return tuple(found)


def load_package(name: str) -> Any:
    """Import ``name``. Raises :class:`CannotStart` where it is missing or does not fit the others."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CannotStart(
            "package_missing", f"the Python package {error.name!r} is not installed; type: {_INSTALL}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        # a prebuilt extension of another PyTorch, no compiler or CUDA toolkit to build one, a missing CUDA library
        raise CannotStart(
            "wrong_build",
            f"{name} does not load ({type(error).__name__}: {str(error)[:300]}): its CUDA extension must be built for "
            "the installed PyTorch. Install the wheel for it from the package's releases, or a CUDA toolkit and a C++ "
            "compiler so that it can build itself",
        ) from error


def check_version() -> str:
    """The package's version. Raises :class:`CannotStart`."""
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise CannotStart(
            "package_missing", f"the Python package '{PACKAGE}' is not installed; type: {_INSTALL}"
        ) from error
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
    if not OLDEST <= numbers < TOO_NEW:
        raise CannotStart("wrong_build", f"{PACKAGE} is {version}, this program knows 0.3.2 and later 0.3; {_INSTALL}")
    return version


def compute_cache_bytes(config: Any, tokens: int, mode: str) -> int:
    """Bytes of a cache of ``tokens`` T."""
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tokens
    return int(values * CACHE_BYTES[mode])


def require_memory(gpus: tuple[Gpu, ...], weights: int, cache: int) -> None:
    """Raise :class:`CannotStart` where weights and cache cannot fit into what is free."""
    free = sum(gpu.free for gpu in gpus)
    needed = weights + cache + _OVERHEAD_BYTES * len(gpus)
    if needed > free:
        names = ", ".join(f"{gpu.name}: {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free" for gpu in gpus)
        raise CannotStart("out_of_memory", memory_advice(needed, weights, cache, names))


def memory_advice(needed: int, weights: int, cache: int, where: str) -> str:
    """What does not fit, and what to change."""
    return (
        f"the model needs {needed / GIB:.1f} GiB (weights {weights / GIB:.1f}, cache {cache / GIB:.1f}) and there is "
        f'too little memory ({where}). Lower slots or context, set exl2.cache to "q8" or "q4", take weights of fewer '
        "bits, or end what else uses the GPU"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch or the package says that memory ran out."""
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "Insufficient VRAM" in text


def is_sticky(error: BaseException) -> bool:
    """Whether CUDA is unusable in this process from now on."""
    return "CUDA error" in str(error) or "HIP error" in str(error) or type(error).__name__ == "AcceleratorError"


def weight_bytes(config: Any) -> int:
    """Bytes of all weight files that a package's config lists."""
    return sum(Path(file).stat().st_size for file in config.tensor_files)
