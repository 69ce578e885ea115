"""Proving that one has a model: which blocks a challenge asks for, and whether an answer holds. Pure.

The blocks follow from the beacon, so that neither router nor provider chooses them, and from the provider, so that no
two providers are asked the same. An answer carries the blocks themselves with their Merkle paths: a router needs
nothing but the manifest, whose hash is the model id. What this proves is random access to the bytes within the
deadline, not that an answer to a user is computed with them.
"""

import hashlib
from collections.abc import Sequence

from contracts.typed_data import Address, Digest
from gossip.messages.challenge import BlockProof
from inference.errors import ProofInvalid
from inference.merkle import block_size, hash_block, root_from_path
from inference.models import ModelManifest

CHALLENGED_BLOCKS = 4
"""Blocks of one challenge: whoever lacks a fraction f of the bytes passes it with (1 − f)⁴."""


def challenge_seed(beacon: Digest, slot: int, router: Address, provider: Address, model_id: Digest) -> Digest:
    """What the blocks of a challenge are drawn from: nothing in it is anybody's choice once ``slot`` has begun."""
    tag = b"yellowstone challenge 1\0"
    return Digest(hashlib.sha256(tag + beacon + slot.to_bytes(8, "big") + router + provider + model_id).digest())


def draw_blocks(seed: Digest, blocks: int) -> tuple[int, ...]:
    """The blocks asked for: distinct, :data:`CHALLENGED_BLOCKS` or all where there are no more, in drawn order."""
    drawn: list[int] = []
    counter = 0
    while len(drawn) < min(CHALLENGED_BLOCKS, blocks):
        index = int.from_bytes(hashlib.sha256(seed + counter.to_bytes(4, "big")).digest(), "big") % blocks
        counter += 1
        if index not in drawn:
            drawn.append(index)
    return tuple(drawn)


def commit_blocks(proofs: Sequence[BlockProof]) -> Digest:
    """What a provider signs: SHA-256 over the blocks' leaf hashes."""
    return Digest(hashlib.sha256(b"".join(hash_block(proof.data) for proof in proofs)).digest())


def check_blocks(manifest: ModelManifest, indexes: Sequence[int], proofs: Sequence[BlockProof]) -> None:
    """Raise :class:`ProofInvalid` unless ``proofs`` are the model's blocks ``indexes``, in order."""
    if len(proofs) != len(indexes):
        raise ProofInvalid(f"{len(proofs)} blocks where {len(indexes)} were asked for")
    for index, proof in zip(indexes, proofs, strict=True):
        file, block = manifest.locate(index)
        if len(proof.data) != block_size(file.size, block):
            raise ProofInvalid(f"block {block} of {file.path} has {block_size(file.size, block)} bytes")
        root = root_from_path(hash_block(proof.data), block, file.blocks, proof.path)
        if root.hex() != file.merkle_root:
            raise ProofInvalid(f"block {block} of {file.path} does not lead to the file's Merkle root")
