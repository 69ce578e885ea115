"""Which blocks a challenge asks for, and what no other answer than the true one passes."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip.errors import MalformedMessage, MessageTooLarge, SignerMismatch
from gossip.messages import Signed, encode, sign
from gossip.messages.challenge import (
    MAX_ANSWER_BYTES,
    BlockProof,
    ChallengeAnswer,
    ModelAnswer,
    ModelChallenge,
    decode_challenge,
    decode_challenge_answer,
)
from inference.errors import ProofInvalid
from inference.merkle import BLOCK_BYTES
from inference.model_files import DescribedModel
from inference.models import MAX_MANIFEST_BYTES
from inference.possession import CHALLENGED_BLOCKS, challenge_seed, check_blocks, commit_blocks, draw_blocks

ROUTER, PROVIDER = Key.generate(), Key.generate()
DOMAIN = Domain(77_101, Address(b"\x03" * 20))
MODEL = DescribedModel("".join(map(chr, range(32, 126))) * 2_000, "e", "b")
BEACON = Digest(b"b" * 32)


@given(seed=st.binary(min_size=32, max_size=32), blocks=st.integers(1, 10**7))
def test_blocks_are_distinct_and_in_the_model(seed: bytes, blocks: int) -> None:
    drawn = draw_blocks(Digest(seed), blocks)
    assert len(set(drawn)) == len(drawn) == min(CHALLENGED_BLOCKS, blocks)
    assert all(0 <= index < blocks for index in drawn)
    assert drawn == draw_blocks(Digest(seed), blocks)


def test_every_block_is_drawn_some_day() -> None:
    seeds = [challenge_seed(BEACON, slot, ROUTER.address, PROVIDER.address, Digest(bytes(32))) for slot in range(200)]
    counts = [sum(index in draw_blocks(seed, 20) for seed in seeds) for index in range(20)]
    assert min(counts) > 15, counts  # 40 on average


def test_the_draw_depends_on_all_that_names_the_challenge() -> None:
    other = Key.generate().address
    whole = (BEACON, 7, ROUTER.address, PROVIDER.address, Digest(b"m" * 32))
    others = (Digest(bytes(32)), 8, other, other, Digest(bytes(32)))
    seeds = {challenge_seed(*whole)}
    for place, value in enumerate(others):
        seeds.add(challenge_seed(*(*whole[:place], value, *whole[place + 1 :])))  # type: ignore[arg-type]  # in order
    assert len(seeds) == 6


def test_only_the_models_own_blocks_pass() -> None:
    manifest = MODEL.manifest
    indexes = (3, 0, 11)
    good = MODEL.prove(indexes)
    check_blocks(manifest, indexes, good)
    flipped = bytes([good[0].data[0] ^ 1]) + good[0].data[1:]
    bad: list[tuple[BlockProof, ...]] = [
        good[:2],
        (*good, good[0]),
        (good[1], good[0], good[2]),
        (BlockProof(flipped, good[0].path), *good[1:]),
        (BlockProof(good[0].data[:-1], good[0].path), *good[1:]),
        (BlockProof(good[0].data + b"x", good[0].path), *good[1:]),
        (BlockProof(good[0].data, good[0].path[:-1]), *good[1:]),
        (BlockProof(good[0].data, (*good[0].path, BEACON)), *good[1:]),
        (BlockProof(good[0].data, (BEACON, *good[0].path[1:])), *good[1:]),
        (BlockProof(b"", ()), *good[1:]),
    ]
    for proofs in bad:
        with pytest.raises(ProofInvalid):
            check_blocks(manifest, indexes, proofs)
    with pytest.raises(ProofInvalid):
        check_blocks(DescribedModel("x" * 188_000, "e", "b").manifest, indexes, good)


@given(index=st.integers(0, MODEL.manifest.blocks - 1), damage=st.integers(0, 2**20))
def test_a_flipped_bit_anywhere_is_seen(index: int, damage: int) -> None:
    (proof,) = MODEL.prove([index])
    data, path = bytearray(proof.data), list(proof.path)
    place = damage % (8 * (len(data) + 32 * len(path)))
    if place < 8 * len(data):
        data[place // 8] ^= 1 << place % 8
    else:
        node, bit = divmod(place - 8 * len(data), 256)
        path[node] = Digest((int.from_bytes(path[node], "big") ^ (1 << bit)).to_bytes(32, "big"))
    with pytest.raises(ProofInvalid):
        check_blocks(MODEL.manifest, [index], [BlockProof(bytes(data), tuple(path))])


# The messages.


def challenge(**changes: object) -> Signed[ModelChallenge]:
    whole = ModelChallenge(ROUTER.address, PROVIDER.address, MODEL.manifest.model_id(), 7, BEACON, 1_000)
    return sign(msgspec.structs.replace(whole, **changes), ROUTER, DOMAIN)


def answer() -> ChallengeAnswer:
    blocks = MODEL.prove(range(4))
    signed = ModelAnswer(challenge().id(DOMAIN), PROVIDER.address, MODEL.manifest.model_id(), commit_blocks(blocks))
    return ChallengeAnswer(sign(signed, PROVIDER, DOMAIN), MODEL.manifest.encode(), blocks)


def test_messages_survive_the_wire() -> None:
    assert decode_challenge(encode(challenge())) == challenge()
    assert decode_challenge_answer(encode(answer())) == answer()
    assert answer().answer.signer(DOMAIN) == PROVIDER.address
    with pytest.raises(SignerMismatch):
        sign(challenge().payload, PROVIDER, DOMAIN).signer(DOMAIN)


def test_the_largest_answer_fits_and_larger_ones_are_not_parsed() -> None:
    path = (BEACON,) * 40
    blocks = (BlockProof(random.Random(1).randbytes(BLOCK_BYTES), path),) * CHALLENGED_BLOCKS
    whole = ChallengeAnswer(answer().answer, b"x" * MAX_MANIFEST_BYTES, blocks)
    assert len(encode(whole)) < MAX_ANSWER_BYTES
    with pytest.raises(MessageTooLarge):
        decode_challenge_answer(bytes(MAX_ANSWER_BYTES + 1))
    with pytest.raises(MessageTooLarge):
        decode_challenge(bytes(1_000))
    with pytest.raises(MalformedMessage):
        decode_challenge_answer(encode(msgspec.structs.replace(whole, blocks=(BlockProof(b"", ()),) * 17)))


@given(data=st.binary(max_size=300))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    for decode in (decode_challenge, decode_challenge_answer):
        with pytest.raises(MalformedMessage):
            decode(data)
