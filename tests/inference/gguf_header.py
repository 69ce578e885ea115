"""The beginning of a GGUF with a vocabulary of a test's own."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any


def make_gguf(fields: Mapping[str, Any], *, version: int = 3) -> bytes:
    """A header with ``fields``: text, whole numbers, and lists of text, whole numbers or fractions."""
    body = b"".join(_string(key) + _value(value) for key, value in fields.items())
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(fields)) + body


def bpe_fields(tokens: Sequence[str], merges: Sequence[str], control: Sequence[str] = ()) -> dict[str, Any]:
    """A byte-level tokenizer of ``tokens`` (a space is Ġ, a line's end Ċ)."""
    return {
        "general.architecture": "llama",
        "llama.block_count": 30,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [3 if token in control else 1 for token in tokens],
        "tokenizer.ggml.merges": list(merges),
    }


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _string(value)
        case int():
            return struct.pack("<II", 4, value)
        case [str(), *_] | []:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case _:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
