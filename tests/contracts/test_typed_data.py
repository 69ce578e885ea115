"""Hand-made EIP-712 digests against eth_account's."""

import enum
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pytest
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import TypedDataInvalid
from contracts.typed_data import Address, Digest, Domain, Signature, Uint256, digest, encode_type, struct_hash
from gossip.messages.committee import BatchHeader, Precommit

DOMAIN = Domain(77_101, Address(b"\xc0" * 20))

REFERENCE_DOMAIN = {
    "name": "Yellowstone",
    "version": "1",
    "chainId": 77_101,
    "verifyingContract": "0x" + "c0" * 20,
}


class Colour(enum.IntEnum):
    RED = 0
    BLUE = 7


class Leaf(msgspec.Struct, frozen=True):
    label: str
    amount_wei: Uint256


class Everything(msgspec.Struct, frozen=True):
    owner: Address
    small: Annotated[int, msgspec.Meta(ge=0)]
    large: Uint256
    flag: bool
    colour: Colour
    digest_of_it: Digest
    text: str
    blob: bytes
    signature: Signature
    numbers: tuple[int, ...]
    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=9)]
    leaf: Leaf
    leaves: tuple[Leaf, ...]


EVERYTHING_TYPES = {
    "Everything": [
        {"name": "owner", "type": "address"},
        {"name": "small", "type": "uint64"},
        {"name": "large", "type": "uint256"},
        {"name": "flag", "type": "bool"},
        {"name": "colour", "type": "uint8"},
        {"name": "digestOfIt", "type": "bytes32"},
        {"name": "text", "type": "string"},
        {"name": "blob", "type": "bytes"},
        {"name": "signature", "type": "bytes"},
        {"name": "numbers", "type": "uint64[]"},
        {"name": "names", "type": "string[]"},
        {"name": "leaf", "type": "Leaf"},
        {"name": "leaves", "type": "Leaf[]"},
    ],
    "Leaf": [{"name": "label", "type": "string"}, {"name": "amountWei", "type": "uint256"}],
}

LEAVES = st.builds(Leaf, st.text(max_size=20), st.integers(0, 2**256 - 1).map(Uint256))

EVERYTHING = st.builds(
    Everything,
    owner=st.binary(min_size=20, max_size=20).map(Address),
    small=st.integers(0, 2**63 - 1),
    large=st.integers(0, 2**256 - 1).map(Uint256),
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    digest_of_it=st.binary(min_size=32, max_size=32).map(Digest),
    text=st.text(max_size=40),
    blob=st.binary(max_size=70),
    signature=st.binary(min_size=65, max_size=65).map(Signature),
    numbers=st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
    names=st.lists(st.text(max_size=5), max_size=4).map(tuple),
    leaf=LEAVES,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
)


def reference_digest(types: dict[str, list[dict[str, str]]], message: dict[str, Any]) -> bytes:
    signable = encode_typed_data(REFERENCE_DOMAIN, types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def plain_leaf(leaf: Leaf) -> dict[str, Any]:
    return {"label": leaf.label, "amountWei": int(leaf.amount_wei)}


@given(EVERYTHING)
@settings(max_examples=60, deadline=None)
def test_every_kind_of_field_hashes_as_eth_account_hashes_it(value: Everything) -> None:
    message = {
        "owner": "0x" + value.owner.hex(),
        "small": value.small,
        "large": int(value.large),
        "flag": value.flag,
        "colour": int(value.colour),
        "digestOfIt": value.digest_of_it,
        "text": value.text,
        "blob": value.blob,
        "signature": value.signature,
        "numbers": list(value.numbers),
        "names": list(value.names),
        "leaf": plain_leaf(value.leaf),
        "leaves": [plain_leaf(leaf) for leaf in value.leaves],
    }
    assert digest(DOMAIN, value) == reference_digest(EVERYTHING_TYPES, message)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_a_precommit_hashes_as_eth_account_hashes_it(height: int, round_: int, value: bytes) -> None:
    types = {
        "Precommit": [
            {"name": "height", "type": "uint64"},
            {"name": "round", "type": "uint64"},
            {"name": "batchHash", "type": "bytes32"},
            {"name": "committeeRoot", "type": "bytes32"},
        ]
    }
    message = {"height": height, "round": round_, "batchHash": value, "committeeRoot": value[::-1]}
    vote = Precommit(height, round_, Digest(value), Digest(value[::-1]))
    assert digest(DOMAIN, vote) == reference_digest(types, message)


def test_the_batch_headers_type_is_the_contracts() -> None:
    assert encode_type(BatchHeader) == (
        "BatchHeader(uint64 height,uint64 slot,uint64 day,bytes32 parent,bytes32 bodyRoot,bytes32 creditRoot,"
        "uint256 totalCredited,uint256 bootstrapCredited,bytes32 stateRoot,bytes32 committeeRoot,bytes32 beacon,"
        "bytes32 reveal,address proposer)"
    )


T = TypeVar("T")


class Boxed(msgspec.Struct, Generic[T], frozen=True):
    content: T


class Shelf(msgspec.Struct, frozen=True):
    box: Boxed[Leaf]


def test_a_parametrised_struct_is_named_after_its_parameter() -> None:
    assert encode_type(Shelf) == "Shelf(BoxedLeaf box)BoxedLeaf(Leaf content)Leaf(string label,uint256 amountWei)"
    types = {
        "Shelf": [{"name": "box", "type": "BoxedLeaf"}],
        "BoxedLeaf": [{"name": "content", "type": "Leaf"}],
        "Leaf": EVERYTHING_TYPES["Leaf"],
    }
    shelf = Shelf(Boxed(Leaf("a", Uint256(3))))
    assert digest(DOMAIN, shelf) == reference_digest(types, {"box": {"content": {"label": "a", "amountWei": 3}}})


@pytest.mark.parametrize("other", [Domain(77_102, DOMAIN.contract), Domain(77_101, Address(b"\xc1" * 20))])
def test_another_chain_or_contract_is_another_digest(other: Domain) -> None:
    leaf = Leaf("a", Uint256(1))
    assert digest(other, leaf) != digest(DOMAIN, leaf)


class Fraction(msgspec.Struct, frozen=True):
    share: float


def test_a_float_has_no_eip712_form() -> None:
    with pytest.raises(TypedDataInvalid, match="float"):
        struct_hash(Fraction(0.5))
