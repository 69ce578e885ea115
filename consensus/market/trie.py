"""The parts of the ledger that grow with users, providers and traffic: maps that cost what changes, not what there is.

A :class:`Trie` never changes; a new one shares all but the way to what was changed with the one it came from, hashes
included. Its root tells the contents alone, whatever the order in which they came: a node of few keys is a bucket,
any other branches sixteenfold at the first nibble in which its keys differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from eth_hash.auto import keccak

from contracts.typed_data import ZERO_DIGEST, Digest, Uint256

K = TypeVar("K", bound=bytes)
V = TypeVar("V")

BUCKET = 8
"""Keys that a node holds before it branches: few, since a bucket is hashed whole."""

_ABSENT: Any = object()


def _to_wire(value: Any) -> bytes:
    if isinstance(value, Uint256):
        return int(value).to_bytes(32, "big")
    raise NotImplementedError(type(value))


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_wire)


class _Bucket(Generic[K, V]):
    """At most ``bucket`` keys, ascending."""

    __slots__ = ("_hash", "items")

    def __init__(self, items: dict[K, V]) -> None:
        self.items = items
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        if self._hash is None:
            self._hash = keccak(b"\x00" + _ENCODER.encode(self.items))
        return self._hash


class _Branch(Generic[K, V]):
    """More keys than a bucket holds; all agree with ``sample`` in their first ``at`` nibbles."""

    __slots__ = ("_hash", "at", "children", "sample")

    def __init__(self, at: int, sample: K, children: "list[_Node[K, V] | None]") -> None:
        self.at = at
        self.sample = sample
        self.children = children
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        if self._hash is None:
            below = [ZERO_DIGEST if child is None else child.hash for child in self.children]
            self._hash = keccak(b"\x01" + bytes((self.at,)) + b"".join(below))
        return self._hash


_Node = _Bucket[K, V] | _Branch[K, V]


class Trie(Mapping[K, V], Generic[K, V]):
    """Values by keys of one length, in ascending order of key; values are what msgspec encodes, or :class:`Uint256`."""

    __slots__ = ("_bucket", "_count", "_node")

    def __init__(self, node: "_Node[K, V] | None" = None, count: int = 0, bucket: int = BUCKET) -> None:
        """Without arguments an empty one; ``bucket`` is 1 where values are large."""
        self._node = node
        self._count = count
        self._bucket = bucket

    @classmethod
    def of(cls, items: Mapping[K, V], bucket: int = BUCKET) -> "Trie[K, V]":
        """``items`` as a trie; a trie is taken as it is."""
        return items if isinstance(items, cls) else cls(bucket=bucket).with_items(items)

    def with_items(self, items: Mapping[K, V]) -> "Trie[K, V]":
        """These and ``items``, which replace what has the same key."""
        if not items:
            return self
        merge: _Merge[K, V] = _Merge(self._bucket)
        node = merge.into(self._node, sorted(items.items(), key=_key))
        return Trie(node, self._count + merge.added, self._bucket)

    @property
    def root(self) -> Digest:
        """The hash over all; zero where there is nothing."""
        return ZERO_DIGEST if self._node is None else Digest(self._node.hash)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``, else ``default``."""
        node = self._node
        while type(node) is _Branch:
            node = node.children[_nibble(key, node.at)]
        return default if node is None else node.items.get(key, default)  # type: ignore[union-attr]  # a bucket

    def __getitem__(self, key: K) -> V:
        found: V = self.get(key, _ABSENT)
        if found is _ABSENT:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        return self.get(key, _ABSENT) is not _ABSENT

    def __iter__(self) -> Iterator[K]:
        waiting = [self._node]
        while waiting:
            match waiting.pop():
                case _Bucket(items=items):
                    yield from items
                case _Branch(children=children):
                    waiting.extend(reversed(children))

    def __len__(self) -> int:
        return self._count

    def changed_since(self, old: "Trie[K, V]") -> dict[K, V]:
        """What is not as it was in ``old``, a trie that this one came from; shared nodes aren't looked at."""
        changed: dict[K, V] = {}
        waiting = [(self._node, old._node)]
        while waiting:
            node, before = waiting.pop()
            if node is before:
                continue
            if isinstance(node, _Branch) and isinstance(before, _Branch) and node.at == before.at:
                waiting.extend(zip(node.children, before.children, strict=True))
                continue
            held, was = Trie(node), Trie(before)  # the one has branched where the other had not
            changed |= {key: held[key] for key in held if was.get(key, _ABSENT) != held[key]}
        return changed

    def with_prefix(self, prefix: bytes) -> dict[K, V]:
        """What stands under keys that begin with ``prefix``."""
        node = self._node
        while isinstance(node, _Branch) and node.at < 2 * len(prefix):
            node = node.children[_nibble(prefix, node.at)]
        return {key: self[key] for key in Trie(node) if key.startswith(prefix)}


def numbered_from(
    held: Mapping[int, Mapping[K, V]], changed: Mapping[int, Mapping[K, V]], first: int
) -> dict[int, Mapping[K, V]]:
    """The maps of ``first`` (a day, say) and later with what has changed; one that is over is dropped whole."""
    numbers = sorted(number for number in {*held, *changed} if number >= first)
    empty: Mapping[K, V] = {}
    return {number: Trie.of(held.get(number, empty)).with_items(changed.get(number, empty)) for number in numbers}


def numbered_roots(maps: Mapping[int, Mapping[K, V]]) -> Iterator[bytes]:
    """How many maps there are, then each one's number (a day, a part of a window) and root."""
    yield len(maps).to_bytes(8, "big")
    for number, held in maps.items():
        yield number.to_bytes(8, "big") + Trie.of(held).root


class _Merge(Generic[K, V]):
    """One change of a trie; ``added`` counts the keys that were not there before."""

    __slots__ = ("_bucket", "added")

    def __init__(self, bucket: int) -> None:
        self._bucket = bucket
        self.added = 0

    def into(self, node: "_Node[K, V] | None", items: Sequence[tuple[K, V]]) -> "_Node[K, V]":
        """``node`` with ``items``, ascending by key and at least one."""
        if node is None:
            self.added += len(items)
            return self._built(items)
        if isinstance(node, _Bucket):
            held = node.items | dict(items)
            self.added += len(held) - len(node.items)
            return self._built(sorted(held.items(), key=_key))
        agreed = min(_agreed(node.sample, items[0][0]), _agreed(node.sample, items[-1][0]))
        if agreed < node.at:  # the items differ from the keys below, or from each other, before those branch
            children: list[_Node[K, V] | None] = [None] * 16
            children[_nibble(node.sample, agreed)] = node
            return self._spread(_Branch(agreed, node.sample, children), items)
        return self._spread(node, items)

    def _spread(self, branch: _Branch[K, V], items: Sequence[tuple[K, V]]) -> _Branch[K, V]:
        children = list(branch.children)
        start, at = 0, branch.at
        while start < len(items):
            nibble = _nibble(items[start][0], at)
            end = start + 1
            while end < len(items) and _nibble(items[end][0], at) == nibble:
                end += 1
            children[nibble] = self.into(children[nibble], items[start:end])
            start = end
        return _Branch(at, branch.sample, children)

    def _built(self, items: Sequence[tuple[K, V]]) -> "_Node[K, V]":
        """A node of ``items`` alone, which have been counted."""
        if len(items) <= self._bucket:
            return _Bucket(dict(items))
        first, at = items[0][0], _agreed(items[0][0], items[-1][0])
        parts: list[list[tuple[K, V]]] = [[] for _ in range(16)]
        for item in items:
            parts[_nibble(item[0], at)].append(item)
        return _Branch(at, first, [self._built(part) if part else None for part in parts])


def _key(item: tuple[K, V]) -> K:
    return item[0]


def _nibble(key: bytes, at: int) -> int:
    return key[at >> 1] & 15 if at & 1 else key[at >> 1] >> 4


def _agreed(first: bytes, second: bytes) -> int:
    """The number of leading nibbles in which two keys of one length agree."""
    differing = (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_length()
    return (8 * len(first) - differing) >> 2
