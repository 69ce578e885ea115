"""The Merkle tree over cumulative credits; OpenZeppelin's MerkleProof and contracts/compute.vy accept its proofs. Pure.

Leaves are ``keccak(keccak(abi.encode(provider, cumulative)))``, as StandardMerkleTree's: hashed twice so that no inner
node passes for a leaf. Pairs are hashed in ascending order, so a proof is a list of siblings without directions, and
whoever checks one need not know the tree's shape.

The shape is this module's own, for StandardMerkleTree sorts leaves by their hash and one new credit moves them all.
Providers are split by the first 12 bits of their address into shards; a shard is a balanced tree in ascending order of
address, and above the shards stands a binary tree over the 12 bits, a lone child taking its parent's place. So the
root tells the contents alone, a credit costs about 20 hashes among 100,000 providers, and a path has at most
12 + log2(providers of one shard) siblings whatever addresses somebody has ground.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from eth_hash.auto import keccak

from contracts.errors import MerkleError
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Uint256

SHARD_BITS = 12
"""Leading bits of an address that choose its shard."""

_SHARDS = 1 << SHARD_BITS
_UINT256 = 2**256

_Levels = list[list[Digest | None]]
"""A binary tree, leaves first, the root's level last; None where nothing hangs below."""


def merkle_leaf(provider: Address, cumulative: int) -> Digest:
    """The leaf of ``provider`` with ``cumulative`` wei. Raises :class:`MerkleError` for what has no ABI encoding."""
    if len(provider) != 20:
        raise MerkleError(f"0x{provider.hex()} is no 20-byte address")
    if not 0 <= cumulative < _UINT256:
        raise MerkleError(f"0x{provider.hex()} is credited {cumulative} wei, which is no uint256")
    return Digest(keccak(keccak(b"\0\0\0\0\0\0\0\0\0\0\0\0" + provider + cumulative.to_bytes(32, "big"))))


class _Shard(NamedTuple):
    """Providers of one prefix in ascending order; ``levels`` are over their leaves."""

    credits: dict[Address, int]
    levels: _Levels


class CreditTree(Mapping[Address, Uint256]):
    """Cumulative wei by provider, in ascending order, with its Merkle root; never changes.

    A new tree shares every shard that stayed as it was with the one it came from.
    """

    __slots__ = ("_count", "_shards", "_top")

    def __init__(self, shards: "list[_Shard | None]", top: _Levels, count: int) -> None:
        """``top`` is over the shards' roots. Nobody may change what is given here; :meth:`of` makes a tree."""
        self._shards = shards
        self._top = top
        self._count = count

    @classmethod
    def of(cls, credits: Mapping[Address, int]) -> "CreditTree":
        """``credits`` as a tree; a tree is taken as it is. Raises as :func:`merkle_leaf` does."""
        if isinstance(credits, cls):
            return credits
        return _EMPTY.with_items(credits)

    def with_items(self, credits: Mapping[Address, int]) -> "CreditTree":
        """This tree and ``credits``, which replace what the same providers had. Raises as :func:`merkle_leaf` does."""
        if not credits:
            return self
        touched: dict[int, dict[Address, int]] = {}
        for provider, cumulative in credits.items():
            touched.setdefault(_shard_of(provider), {})[provider] = cumulative
        shards, count = list(self._shards), self._count
        roots: dict[int, Digest | None] = {}
        for number, changed in touched.items():
            old = shards[number]
            made = shards[number] = _changed(old, changed)
            roots[number] = made.levels[-1][0]
            count += len(made.credits) - (len(old.credits) if old is not None else 0)
        return CreditTree(shards, _with_leaves(self._top, roots), count)

    def changed_since(self, old: "CreditTree") -> dict[Address, Uint256]:
        """What is not as it was in ``old``, a tree that this one came from; shared shards aren't looked at."""
        changed: dict[Address, Uint256] = {}
        for shard, before in zip(self._shards, old._shards, strict=True):
            if shard is not None and shard is not before:
                held = {} if before is None else before.credits
                changed |= {who: Uint256(wei) for who, wei in shard.credits.items() if held.get(who) != wei}
        return changed

    @property
    def root(self) -> Digest:
        """The root over all; the zero digest where nobody has credit."""
        return self._top[-1][0] or ZERO_DIGEST

    def proof(self, provider: Address) -> tuple[Digest, ...]:
        """The siblings from ``provider``'s leaf to the root. Raises :class:`MerkleError` where it has no credit."""
        number = _shard_of(provider)
        shard = self._shards[number]
        if shard is None or provider not in shard.credits:
            raise MerkleError(f"0x{provider.hex()} is not in the tree")
        place = list(shard.credits).index(provider)
        return (*_siblings(shard.levels, place), *_siblings(self._top, number))

    def __getitem__(self, provider: Address) -> Uint256:
        shard = self._shards[_shard_of(provider)]
        if shard is None:
            raise KeyError(provider)
        return Uint256(shard.credits[provider])

    def __iter__(self) -> Iterator[Address]:
        return (provider for shard in self._shards if shard is not None for provider in shard.credits)

    def __len__(self) -> int:
        return self._count


def merkle_root(credits: Mapping[Address, int]) -> Digest:
    """The root over {provider: cumulative wei}; the zero digest where nobody has credit."""
    return CreditTree.of(credits).root


def merkle_proof(credits: Mapping[Address, int], provider: Address) -> tuple[Digest, ...]:
    """The siblings from ``provider``'s leaf to the root. Raises :class:`MerkleError` where it has no credit."""
    return CreditTree.of(credits).proof(provider)


def merkle_verify(root: Digest, provider: Address, cumulative: int, proof: Sequence[Digest]) -> bool:
    """Whether ``proof`` leads from (provider, cumulative wei) to ``root``; the zero digest holds nothing."""
    node = merkle_leaf(provider, cumulative)
    for sibling in proof:
        node = _hash_pair(node, sibling)
    return root != ZERO_DIGEST and node == root


def _shard_of(provider: Address) -> int:
    return int.from_bytes(provider[:2], "big") >> (16 - SHARD_BITS)


def _changed(shard: _Shard | None, changed: Mapping[Address, int]) -> _Shard:
    """A shard with other credits: known providers keep their places, a new one moves those behind it."""
    leaves = {provider: merkle_leaf(provider, cumulative) for provider, cumulative in changed.items()}
    if shard is None:
        held = dict(sorted(changed.items()))
        return _Shard(held, _folded([leaves[provider] for provider in held]))
    held = {**shard.credits, **changed}
    places = {provider: place for place, provider in enumerate(shard.credits)}
    if len(held) == len(shard.credits):
        return _Shard(held, _with_leaves(shard.levels, {places[who]: leaf for who, leaf in leaves.items()}))
    held = dict(sorted(held.items()))
    bottom = shard.levels[0]
    return _Shard(held, _folded([leaves[who] if who in leaves else bottom[places[who]] for who in held]))


def _folded(leaves: "list[Digest | None]") -> _Levels:
    """A balanced tree over ``leaves``, at least one: neighbours are paired, level by level, an odd one rises alone."""
    levels = [leaves]
    while len(level := levels[-1]) > 1:
        above: list[Digest | None] = [_joined(*pair) for pair in zip(level[::2], level[1::2], strict=False)]
        levels.append([*above, level[-1]] if len(level) % 2 else above)
    return levels


def _with_leaves(levels: _Levels, leaves: Mapping[int, Digest | None]) -> _Levels:
    """The tree with other leaves at some places: only what stands above them is hashed anew."""
    made = [list(level) for level in levels]
    for place, leaf in leaves.items():
        made[0][place] = leaf
    places = set(leaves)
    for level, above in pairwise(made):
        places = {place >> 1 for place in places}
        for place in places:
            last = 2 * place + 1 == len(level)
            above[place] = level[-1] if last else _joined(level[2 * place], level[2 * place + 1])
    return made


def _siblings(levels: _Levels, place: int) -> Iterator[Digest]:
    for level in levels[:-1]:
        if place ^ 1 < len(level) and (sibling := level[place ^ 1]) is not None:
            yield sibling
        place >>= 1


def _joined(first: Digest | None, second: Digest | None) -> Digest | None:
    if first is None or second is None:
        return first or second
    return _hash_pair(first, second)


def _hash_pair(first: Digest, second: Digest) -> Digest:
    return Digest(keccak(first + second if first < second else second + first))


_EMPTY = CreditTree([None] * _SHARDS, _folded([None] * _SHARDS), 0)
