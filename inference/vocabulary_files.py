"""Vocabularies out of a model's own files: a GGUF's header, or a folder's ``tokenizer.json``. Pure; reads only bytes.

The bytes come from another node and were checked against the model's manifest before, but nobody has vouched for what
they say: everything is bounded, and what is odd is :class:`~inference.errors.VocabularyInvalid`.
"""

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from inference.errors import VocabularyInvalid
from inference.vocabulary import Vocabulary

VOCABULARY_BYTES = 32 << 20
"""How far into a file a vocabulary is looked for."""

IDS_MAX = 1 << 20
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PREFIX = "tokenizer.ggml."
_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class Truncated(Exception):  # noqa: D101  raised and caught by who feeds the parser
    pass


def read_gguf(data: bytes) -> Vocabulary:
    """The vocabulary in a GGUF's first bytes. Raises :class:`Truncated` where more are needed, and
    :class:`VocabularyInvalid` for what is none or of a kind that is not known here."""
    fields = _Reader(data).fields()
    tokens = _strings(fields, "tokens")
    kinds = _numbers(fields, "token_type", len(tokens))
    match fields.get("model"):
        case "gpt2":
            pieces = [_piece(token, kind, _from_byte_level) for token, kind in zip(tokens, kinds, strict=True)]
            pairs = (_halves(merge) for merge in _strings(fields, "merges"))
            return Vocabulary(tuple(pieces), _ListedMerges(tokens, pairs))
        case "llama":
            scores = _numbers(fields, "scores", len(tokens))
            pieces = [_piece(token, kind, _from_metaspace) for token, kind in zip(tokens, kinds, strict=True)]
            return Vocabulary(tuple(pieces), _ScoredMerges(tokens, scores))
        case other:
            raise VocabularyInvalid(f"tokenizers of kind {str(other)[:64]!r} are not known here")


class _Reader:
    """Reads the keys and values at the beginning of a GGUF."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fields(self) -> dict[str, Any]:
        """Every ``tokenizer.ggml.*`` that is wanted, without the prefix."""
        if self._take(4) != b"GGUF":
            raise VocabularyInvalid("not a GGUF")
        version, _, count = self._scalar("I"), self._scalar("Q"), self._scalar("Q")
        if version not in (2, 3):
            raise VocabularyInvalid(f"GGUF of version {version}")
        wanted = {_PREFIX + name for name in ("model", "tokens", "token_type", "scores", "merges")}
        found: dict[str, Any] = {}
        for _ in range(min(count, IDS_MAX)):
            key, kind = self._string(), self._scalar("I")
            value = self._value(kind)
            if key in wanted:
                found[key.removeprefix(_PREFIX)] = value
            if {"model", "tokens"} <= found.keys() and found.keys() & {"merges", "scores"} and "token_type" in found:
                break
        return found

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind]) if kind in _SCALARS else self._unknown(kind)
        inner, count = self._scalar("I"), self._scalar("Q")
        if count > IDS_MAX:
            raise VocabularyInvalid(f"a list of {count} values, at most {IDS_MAX} are read")
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        if inner not in _SCALARS:
            return self._unknown(inner)
        code = f"<{count}{_SCALARS[inner]}"
        return list(struct.unpack(code, self._take(struct.calcsize(code))))

    def _unknown(self, kind: int) -> Any:
        raise VocabularyInvalid(f"a value of type {kind}, which GGUF does not have here")

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode(errors="replace")

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _take(self, size: int) -> bytes:
        if size > VOCABULARY_BYTES:
            raise VocabularyInvalid(f"a value of {size} bytes")
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise Truncated
        return self._data[start : self._at]


def _strings(fields: dict[str, Any], name: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise VocabularyInvalid(f"there is no list of {name}")
    return value


def _numbers(fields: dict[str, Any], name: str, count: int) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) != count or not all(isinstance(one, int | float) for one in value):
        raise VocabularyInvalid(f"there are no {count} numbers of {name}")
    return value


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | list[str]]
    type: str = "BPE"


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []
    decoder: Any = None
    pre_tokenizer: Any = None


def read_tokenizer_json(data: bytes) -> Vocabulary:
    """The vocabulary of a folder's ``tokenizer.json``. Raises :class:`VocabularyInvalid`."""
    try:
        found = msgspec.json.decode(data, type=_Tokenizer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise VocabularyInvalid(f"no tokenizer that is known here: {error}") from error
    if found.model.type != "BPE":
        raise VocabularyInvalid(f"tokenizers of kind {found.model.type[:64]!r} are not known here")
    added = {one.content: (one.id, _CONTROL if one.special else _USER) for one in found.added_tokens}
    ids = {**found.model.vocab, **{text: number for text, (number, _) in added.items()}}
    size = max(ids.values(), default=-1) + 1
    if not 0 < size <= IDS_MAX or min(ids.values()) < 0:
        raise VocabularyInvalid(f"ids up to {size}")
    is_byte_level = b"ByteLevel" in msgspec.json.encode([found.decoder, found.pre_tokenizer])
    decode = _from_byte_level if is_byte_level else _from_metaspace
    tokens = [""] * size
    pieces: list[bytes | None] = [None] * size
    for text, number in ids.items():
        tokens[number] = text
        pieces[number] = _piece(text, added.get(text, (0, _NORMAL))[1], decode)
    pairs = (_halves(merge) if isinstance(merge, str) else merge for merge in found.model.merges)
    return Vocabulary(tuple(pieces), _ListedMerges(tokens, pairs))


def _halves(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _piece(token: str, kind: int, decode: Callable[[str], bytes]) -> bytes | None:
    """The bytes of a token; None for one that says nothing."""
    if kind in (_CONTROL, _UNUSED):
        return None
    return token.encode() if kind == _USER else decode(token)


def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones are themselves, the others follow from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    for number, byte in enumerate(byte for byte in range(256) if byte not in plain):
        table[chr(256 + number)] = byte
    return table


_BYTES = _byte_table()


def _from_byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[char] for char in token)
    except KeyError:  # a token that was added as plain text
        return token.encode()


def _from_metaspace(token: str) -> bytes:
    if found := _BYTE.match(token):
        return bytes((int(found[1], 16),))
    return token.replace("\u2581", " ").encode()


class _ListedMerges:
    """The merges that a tokenizer lists, in their order."""

    def __init__(self, tokens: list[str], pairs: Iterable[Sequence[str]]) -> None:
        ids = {text: number for number, text in enumerate(tokens)}
        self._found: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, pair in enumerate(pairs):
            joined = ids.get("".join(pair)) if len(pair) == 2 else None
            if joined is not None and pair[0] in ids and pair[1] in ids:  # others are never done
                self._found.setdefault((ids[pair[0]], ids[pair[1]]), (rank, joined))

    def find(self, left: int, right: int) -> tuple[int, int] | None:
        return self._found.get((left, right))


class _ScoredMerges:
    """A tokenizer that joins whatever makes a token, the highest score first."""

    def __init__(self, tokens: list[str], scores: list[float]) -> None:
        self._tokens = tokens
        self._ids = {text: number for number, text in enumerate(tokens)}
        order = sorted(range(len(tokens)), key=lambda number: -scores[number])
        self._rank = {number: rank for rank, number in enumerate(order)}

    def find(self, left: int, right: int) -> tuple[int, int] | None:
        joined = self._ids.get(self._tokens[left] + self._tokens[right])
        return None if joined is None else (self._rank[joined], joined)
