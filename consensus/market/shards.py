"""The two parts of the ledger that grow with traffic, split so that a batch costs what it changes, not what there is.

Both are mappings that never change; a new one shares every part that stayed as it was, its hash included. A root is a
function of the contents alone, whatever the order in which they came.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec
from eth_hash.auto import keccak

from contracts.typed_data import ZERO_DIGEST, Address, Digest

V = TypeVar("V", bound=msgspec.Struct)

SHARDS = 4_096
"""Parts that the keys are spread over, by their first 12 bits: some hundred thousand keys make parts of dozens."""

_ENCODER = msgspec.msgpack.Encoder()


class KeyShards(Mapping[Address, V], Generic[V]):
    """Values by address; keys come in ascending order."""

    __slots__ = ("_count", "_parts", "_roots")

    def __init__(self, parts: "list[dict[Address, V]]", roots: list[Digest], count: int) -> None:
        """``roots`` belong to ``parts``; each part is sorted by key. Nobody may change what is given here."""
        self._parts = parts
        self._roots = roots
        self._count = count

    @classmethod
    def of(cls, items: Mapping[Address, V]) -> "KeyShards[V]":
        """``items`` in shards."""
        if isinstance(items, cls):
            return items
        return cls([{}] * SHARDS, [ZERO_DIGEST] * SHARDS, 0).with_items(items)

    def with_items(self, items: Mapping[Address, V]) -> "KeyShards[V]":
        """These and ``items``, which replace what has the same key."""
        touched: dict[int, dict[Address, V]] = {}
        for key, value in items.items():
            touched.setdefault(_shard(key), {})[key] = value
        return self._changed({shard: {**self._parts[shard], **changed} for shard, changed in touched.items()})

    def where(self, keep: Callable[[V], bool]) -> "KeyShards[V]":
        """Those whose value is kept: looks at every one."""
        touched = {_shard(key) for key, value in self.items() if not keep(value)}
        return self._changed({s: {k: v for k, v in self._parts[s].items() if keep(v)} for s in touched})

    @property
    def root(self) -> Digest:
        """keccak of the parts' hashes in order, an empty part's being zero."""
        return Digest(keccak(b"".join(self._roots)))

    def _changed(self, touched: Mapping[int, Mapping[Address, V]]) -> "KeyShards[V]":
        parts, roots, count = list(self._parts), list(self._roots), self._count
        for shard, items in touched.items():
            count += len(items) - len(parts[shard])
            parts[shard] = dict(sorted(items.items()))
            roots[shard] = Digest(keccak(_ENCODER.encode(parts[shard]))) if items else ZERO_DIGEST
        return KeyShards(parts, roots, count)

    def __getitem__(self, key: Address) -> V:
        return self._parts[_shard(key)][key]

    def __iter__(self) -> Iterator[Address]:
        return (key for part in self._parts for key in part)

    def __len__(self) -> int:
        return self._count


class SlotTickets(Mapping[Digest, int]):
    """Ticket ids by the slot of the ticket, read as ticket id to slot; slots ascend, and ids within a slot."""

    __slots__ = ("_roots", "_slots")

    def __init__(self, slots: Mapping[int, frozenset[Digest]], roots: Mapping[int, bytes]) -> None:
        """``roots`` are the slot's 8 bytes and the hash of its ids; both ascend by slot."""
        self._slots = slots
        self._roots = roots

    @classmethod
    def of(cls, items: Mapping[Digest, int]) -> "SlotTickets":
        """``items`` by slot."""
        return items if isinstance(items, cls) else cls({}, {}).moved_on(items, 0)

    def moved_on(self, items: Mapping[Digest, int], first_slot: int) -> "SlotTickets":
        """These and ``items``, less all of slots before ``first_slot``."""
        slots, roots = dict(self._slots), dict(self._roots)
        last = next(reversed(slots), -1)
        for slot, added in _by_slot(items).items():
            ids = slots[slot] = slots.get(slot, frozenset()).union(added)
            roots[slot] = slot.to_bytes(8, "big") + keccak(b"".join(sorted(ids)))
        if any(slot < last and slot not in self._slots for slot in items.values()):
            slots, roots = dict(sorted(slots.items())), dict(sorted(roots.items()))
        while slots and (oldest := next(iter(slots))) < first_slot:
            del slots[oldest], roots[oldest]
        return SlotTickets(slots, roots)

    def holds(self, ticket_id: Digest, slot: int) -> bool:
        """Whether the ticket of ``slot`` is there: one look-up, where ``in`` has to look through all slots."""
        return ticket_id in self._slots.get(slot, ())

    @property
    def root(self) -> Digest:
        """keccak over every slot and the hash of its ids."""
        return Digest(keccak(b"".join(self._roots.values())))

    def __getitem__(self, ticket_id: Digest) -> int:
        for slot, ids in self._slots.items():
            if ticket_id in ids:
                return slot
        raise KeyError(ticket_id)

    def __iter__(self) -> Iterator[Digest]:
        return (ticket_id for ids in self._slots.values() for ticket_id in sorted(ids))

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))


def _shard(key: bytes) -> int:
    return int.from_bytes(key[:2], "big") >> 4


def _by_slot(items: Mapping[Digest, int]) -> dict[int, list[Digest]]:
    """Ticket ids by slot, slots ascending."""
    found: dict[int, list[Digest]] = {}
    for ticket_id, slot in sorted(items.items(), key=lambda item: item[1]):
        found.setdefault(slot, []).append(ticket_id)
    return found
