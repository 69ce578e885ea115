"""A model folder for ExLlamaV2, checked before anything is loaded: is it EXL2 or GPTQ, and is it whole?

Reads headers and JSON only, a few megabytes at most; the worker need not be started to learn that a file is cut short.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import ModelUnusable

_JSON_BYTES = 64 << 20
_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""

_IDENTITY = (
    "*.safetensors",
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json"),
)
"""The files that decide what a model answers."""


@dataclass(frozen=True, slots=True)
class Exl2Folder:
    """A folder that was found to be in order."""

    path: Path
    quantisation: str
    """``exl2`` or ``gptq``, with its bits."""
    weight_bytes: int
    context: int
    """T that the model was made for."""


def check_folder(path: Path) -> Exl2Folder:
    """Check the model in ``path``. Raises :class:`ModelUnusable`, naming the file and what to do."""
    if not path.is_dir():
        raise ModelUnusable(path, "is not a folder; ExLlamaV2 takes a folder with config.json and *.safetensors")
    config = _read_json(path / "config.json")
    keys, size = _read_weights(path)
    quantisation = _quantisation(path, config, keys)
    _check_tokenizer(path)
    return Exl2Folder(path, quantisation, size, _check_positions(path / "config.json", config))


def read_template(path: Path) -> str:
    """The chat template of a folder that :func:`check_folder` found to be in order."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = json.loads((path / "tokenizer_config.json").read_bytes())["chat_template"]
    if isinstance(found, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default", next(iter(named.values())))
    return str(found)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _JSON_BYTES:
            raise ModelUnusable(file, f"is larger than {_JSON_BYTES} bytes, which no such file is")
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelUnusable(file, "is missing: is this a whole copy of a model's folder?") from error
    except OSError as error:
        raise ModelUnusable(file, f"cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(file, f"is not valid JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise ModelUnusable(file, "is not a JSON object: fetch it again")
    return value


def _read_weights(path: Path) -> tuple[set[str], int]:
    """The names of all tensors, and the bytes of all files; every file is as long as its header says."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        other = next((file.name for pattern in ("*.gguf", "*.bin", "*.pt") for file in path.glob(pattern)), None)
        found = f" (there is {other}, which is another format)" if other else ""
        raise ModelUnusable(path, f"has no *.safetensors{found}: ExLlamaV2 takes EXL2 or GPTQ weights")
    index = path / "model.safetensors.index.json"
    if index.exists():
        listed = _read_json(index).get("weight_map", {})
        missing = sorted({str(name) for name in listed.values()} - {file.name for file in files})
        # quantised copies often keep the original's index: it counts only where it names what is there
        if missing and len(missing) < len(set(listed.values())):
            raise ModelUnusable(path / missing[0], "is missing, though the folder's index names it: fetch it again")
    keys: set[str] = set()
    for file in files:
        try:
            keys |= _read_header(file).keys()
        except OSError as error:
            raise ModelUnusable(file, f"cannot be read: {error}") from error
    return keys, sum(file.stat().st_size for file in files)


def _read_header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_BYTES):
            raise ModelUnusable(file, f"has {size} bytes, fewer than its header needs: fetch it again")
        data = opened.read(length)
    try:
        header = json.loads(data)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ModelUnusable(file, f"has no readable safetensors header ({error!r}): fetch it again") from error
    if needed != size:
        raise ModelUnusable(file, f"has {size} bytes where its header needs {needed}: fetch it again")
    return dict(header)


def _quantisation(path: Path, config: dict[str, Any], keys: set[str]) -> str:
    stated = config.get("quantization_config")
    method = str(stated.get("quant_method", "")).lower() if isinstance(stated, dict) else ""
    bits = stated.get("bits") if isinstance(stated, dict) else None
    suffix = f" {bits} bit" if isinstance(bits, int | float) else ""
    endings = {key.rsplit(".", 1)[-1] for key in keys}
    if "q_weight" in endings and method in {"", "exl2"}:
        return f"exl2{suffix}"
    if "qweight" in endings and method in {"", "gptq"}:
        if isinstance(bits, int | float) and bits != 4:
            raise ModelUnusable(path, f"is GPTQ with {bits} bits; ExLlamaV2 takes GPTQ with 4 bits only")
        return f"gptq{suffix}"
    if method == "exl3" or "trellis" in endings:
        raise ModelUnusable(path, "is EXL3, which is ExLlamaV3's format; take the EXL2 or GPTQ weights of this model")
    what = f"is quantised as {method}" if method else "is not quantised"
    raise ModelUnusable(path, f"{what}; ExLlamaV2 serves EXL2 or 4-bit GPTQ weights: take those of this model")


def _check_tokenizer(path: Path) -> None:
    _read_json(path / "tokenizer.json")
    if (path / "chat_template.jinja").is_file():
        return
    if not _read_json(path / "tokenizer_config.json").get("chat_template"):
        raise ModelUnusable(
            path / "tokenizer_config.json",
            "has no chat_template, and there is no chat_template.jinja: take an instruction-tuned model",
        )


def _check_positions(file: Path, config: dict[str, Any]) -> int:
    """The context that a model was made for. A base of rotary embeddings that the package would miss is refused."""
    text = config.get("text_config")
    nested = text if isinstance(text, dict) else {}
    if "rope_parameters" in {**nested, **config} and "rope_theta" not in {**nested, **config}:
        raise ModelUnusable(
            file,
            "has rope_parameters but no rope_theta (saved by transformers 5): ExLlamaV2 would compute other positions. "
            "Copy rope_theta out of rope_parameters to the top level",
        )
    context = config.get("max_position_embeddings", nested.get("max_position_embeddings", math.inf))
    return int(context) if isinstance(context, int) and context > 0 else 1 << 31
