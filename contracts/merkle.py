"""The Merkle tree over cumulative credits, equal to OpenZeppelin's StandardMerkleTree of (address, uint256). Pure.

Leaves are ``keccak(keccak(abi.encode(provider, cumulative)))``: hashed twice so that no inner node passes for a leaf.
They are sorted by hash and laid into an array-shaped binary tree from its end; pairs are hashed in ascending order, so
a proof is a list of siblings without directions. contracts/compute.vy checks the proofs.

Source: @openzeppelin/merkle-tree, StandardMerkleTree with its default sorting.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from eth_hash.auto import keccak

from contracts.errors import MerkleError
from contracts.typed_data import ZERO_DIGEST, Address, Digest

_UINT256 = 2**256


@lru_cache(maxsize=16_384)  # from batch to batch few credits change
def merkle_leaf(provider: Address, cumulative: int) -> Digest:
    """The leaf of ``provider`` with ``cumulative`` wei. Raises :class:`MerkleError` for what has no ABI encoding."""
    if len(provider) != 20:
        raise MerkleError(f"0x{provider.hex()} is no 20-byte address")
    if not 0 <= cumulative < _UINT256:
        raise MerkleError(f"0x{provider.hex()} is credited {cumulative} wei, which is no uint256")
    return Digest(keccak(keccak(provider.rjust(32, b"\0") + cumulative.to_bytes(32, "big"))))


def merkle_root(credits: Mapping[Address, int]) -> Digest:
    """The root over {provider: cumulative wei}; the zero digest where nobody has credit."""
    return _tree(_leaves(credits))[0] if credits else ZERO_DIGEST


def merkle_proof(credits: Mapping[Address, int], provider: Address) -> tuple[Digest, ...]:
    """The siblings from ``provider``'s leaf to the root. Raises :class:`MerkleError` where it has no credit."""
    if provider not in credits:
        raise MerkleError(f"0x{provider.hex()} is not in the tree")
    leaves = _leaves(credits)
    nodes = _tree(leaves)
    index = len(nodes) - 1 - leaves.index(merkle_leaf(provider, credits[provider]))
    siblings = []
    while index > 0:
        siblings.append(nodes[index - 1 if index % 2 == 0 else index + 1])
        index = (index - 1) // 2
    return tuple(siblings)


def merkle_verify(root: Digest, provider: Address, cumulative: int, proof: Sequence[Digest]) -> bool:
    """Whether ``proof`` leads from (provider, cumulative wei) to ``root``; the zero digest holds nothing."""
    node = merkle_leaf(provider, cumulative)
    for sibling in proof:
        node = _hash_pair(node, sibling)
    return root != ZERO_DIGEST and node == root


def _leaves(credits: Mapping[Address, int]) -> list[Digest]:
    return sorted(merkle_leaf(provider, cumulative) for provider, cumulative in credits.items())


def _tree(leaves: Sequence[Digest]) -> list[Digest]:
    """All nodes, the root first; the children of node i are 2i+1 and 2i+2, the first leaf is the last node."""
    nodes = [ZERO_DIGEST] * (len(leaves) - 1) + list(reversed(leaves))
    for index in range(len(leaves) - 2, -1, -1):
        nodes[index] = _hash_pair(nodes[2 * index + 1], nodes[2 * index + 2])
    return nodes


def _hash_pair(first: Digest, second: Digest) -> Digest:
    return Digest(keccak(first + second if first < second else second + first))
