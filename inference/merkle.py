"""The Merkle tree over a model file: blocks of 16 KiB, SHA-256, RFC 6962's prefixes, an odd node lifted. Pure.

A file's tree is built over its blocks. Every 64 blocks make a whole subtree, a *span*; the spans' roots are enough to
prove any block to whoever reads its span again, and are 32 bytes for each MiB.
"""

import hashlib
from collections.abc import Sequence

from inference.errors import ProofInvalid

BLOCK_BYTES = 16 << 10
"""What one leaf stands for and an answer to a challenge carries; the last one of a file may be shorter."""

SPAN_BLOCKS = 64
SPAN_BYTES = SPAN_BLOCKS * BLOCK_BYTES

_LEAF = hashlib.sha256(b"\0")


def hash_block(data: bytes | bytearray | memoryview) -> bytes:
    """A leaf: SHA-256 of a zero byte and the block."""
    leaf = _LEAF.copy()
    leaf.update(data)
    return leaf.digest()


def count_blocks(size: int) -> int:
    """Blocks of a file of ``size`` bytes; an empty one has a block too."""
    return max(1, -(-size // BLOCK_BYTES))


def block_size(size: int, index: int) -> int:
    """Bytes of block ``index`` of a file of ``size`` bytes."""
    return max(0, min(BLOCK_BYTES, size - index * BLOCK_BYTES))


def compute_merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over at least one leaf hash: nodes are prefixed 1; an odd one is lifted."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def compute_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings that lead from leaf ``index`` to the root, from the bottom up."""
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            path.append(level[sibling])
        level, index = _above(level), index // 2
    return tuple(path)


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """The root that ``path`` leads to from leaf ``index`` of ``count``. Raises ProofInvalid for a wrong length."""
    node, left = leaf, list(reversed(path))
    while count > 1:
        if index ^ 1 < count:
            if not left:
                raise ProofInvalid(f"a Merkle path of {len(path)} nodes is too short")
            sibling = left.pop()
            node = _join(sibling, node) if index & 1 else _join(node, sibling)
        index, count = index // 2, (count + 1) // 2
    if left:
        raise ProofInvalid(f"a Merkle path of {len(path)} nodes is too long")
    return node


def _above(level: list[bytes]) -> list[bytes]:
    pairs = [_join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
    return pairs if len(level) % 2 == 0 else [*pairs, level[-1]]


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
