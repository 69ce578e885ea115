import pytest
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import MerkleError
from contracts.merkle import CreditTree, merkle_leaf, merkle_proof, merkle_root, merkle_verify
from contracts.typed_data import ZERO_DIGEST, Address, Digest

# from @openzeppelin/merkle-tree 1.x: StandardMerkleTree.of([[0x0101…, 1e18·i²+i] for i in 1..n], [address, uint256]);
# up to two leaves every tree has the same shape
VECTORS = {
    1: "3058d7f21006dcb72cb579ffae0fcee5b3665e1fccf19e2aedd53eae4cb2443b",
    2: "db18f54d924d2a091a5f1bfda21ac77be11217589367f61cce65ad0fb6ff2c8c",
}

ROOT_OF_13 = "01faf04533d284c93530b983f239d94c97f830ac19b8382765872b4b5d191c2b"

LAST_OF_13 = [
    "4139089236c562f36f8177b83dffab76aeda0b3517712d1e7c2d80fa74a9d2f4",
    "5bf744e797b6de41806bd48c9411f082acf003400d4cfed4b773b585448c9659",
    "7dc79153032d8f750b72ccd052f183e6455d45be2abdd64e37d8d44112e3ef1c",
    "243d00b85edfbe1f2d57317702f01c763e1ddb5c95c6c56e6682326e56a86221",
]

CREDITS = st.dictionaries(
    st.binary(min_size=20, max_size=20).map(Address), st.integers(0, 2**256 - 1), min_size=1, max_size=20
)


def vector_credits(count: int) -> dict[Address, int]:
    return {Address(bytes([i]) * 20): 10**18 * i * i + i for i in range(1, count + 1)}


@pytest.mark.parametrize(("count", "root"), VECTORS.items())
def test_leaves_and_pairs_are_openzeppelins(count: int, root: str) -> None:
    assert merkle_root(vector_credits(count)).hex() == root


def test_the_root_of_openzeppelins_readme() -> None:
    credit = {Address(b"\x11" * 20): 5 * 10**18, Address(b"\x22" * 20): 5 * 10**18 // 2}
    assert merkle_root(credit).hex() == "d4dee0beab2d53f2cc83e567171bd2820e49898130a22622b10ead383e90bd77"


def test_a_proof_of_openzeppelins_tree_verifies_whatever_the_shape() -> None:
    provider, cumulative = list(vector_credits(13).items())[-1]
    proof = [Digest(bytes.fromhex(sibling)) for sibling in LAST_OF_13]
    assert merkle_verify(Digest(bytes.fromhex(ROOT_OF_13)), provider, cumulative, proof)


def plain_root(credit: dict[Address, int]) -> bytes | None:
    """The shape as the module's text has it, without any of its shortcuts."""
    shards: list[bytes | None] = []
    for number in range(4_096):
        level: list[bytes | None] = [
            merkle_leaf(who, credit[who]) for who in sorted(credit) if who.hex()[:3] == f"{number:03x}"
        ]
        while len(level) > 1:
            level = joined(level)
        shards.append(level[0] if level else None)
    while len(shards) > 1:
        shards = joined(shards)
    return shards[0]


def joined(level: list[bytes | None]) -> list[bytes | None]:
    pairs = [[one for one in level[place : place + 2] if one is not None] for place in range(0, len(level), 2)]
    return [keccak(b"".join(sorted(pair))) if len(pair) == 2 else next(iter(pair), None) for pair in pairs]


# few shards, so that providers meet in one
CROWDED = st.dictionaries(
    st.builds(
        lambda head, tail: Address(bytes([head, 0]) + bytes(17) + bytes([tail])), st.integers(0, 2), st.integers(0, 20)
    ),
    st.integers(0, 2**256 - 1),
    max_size=12,
)


@given(st.lists(CROWDED, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_tree_that_grows_step_by_step_is_the_one_made_at_once(steps: list[dict[Address, int]]) -> None:
    expected: dict[Address, int] = {}
    tree = CreditTree.of({})
    for step in steps:
        old, root = tree, tree.root
        before = dict(old)
        expected |= step
        tree = tree.with_items(step)
        assert (dict(old), old.root) == (before, root), "the old one is as it was"
        assert tree.changed_since(old) == {who: wei for who, wei in step.items() if before.get(who) != wei}
    assert dict(tree) == expected
    assert list(tree) == sorted(expected)
    assert len(tree) == len(expected)
    assert tree.root == merkle_root(expected) == (plain_root(expected) or ZERO_DIGEST)
    for provider, cumulative in expected.items():
        assert merkle_verify(tree.root, provider, cumulative, tree.proof(provider))


def test_ground_addresses_make_no_path_longer_than_the_contract_takes() -> None:
    """The contract reads 32 siblings: 12 above the shards leave a million providers of one shard."""
    victim = Address(b"\xab\xc0" + bytes(18))
    crowd = {Address(b"\xab\xc0" + number.to_bytes(18, "big")): number for number in range(1, 1_025)}
    others = {Address(bytes([head, tail]) + bytes(18)): 1 for head in range(256) for tail in range(0, 256, 16)}
    tree = CreditTree.of({**others, **crowd, victim: 5})
    assert len(tree.proof(victim)) == 12 + 11
    assert merkle_verify(tree.root, victim, 5, tree.proof(victim))


def test_a_tree_is_taken_as_it_is_and_who_is_not_in_it_is_a_key_error() -> None:
    tree = CreditTree.of(vector_credits(3))
    assert CreditTree.of(tree) is tree
    assert tree.with_items({}) is tree
    with pytest.raises(KeyError):
        tree[Address(bytes(20))]


def test_nobody_credited_is_the_zero_digest_which_holds_nothing() -> None:
    assert merkle_root({}) == ZERO_DIGEST
    assert not merkle_verify(ZERO_DIGEST, Address(b"\x01" * 20), 0, [])


@given(CREDITS)
@settings(max_examples=60, deadline=None)
def test_every_proof_verifies_and_none_for_another_amount(credit: dict[Address, int]) -> None:
    root = merkle_root(credit)
    for provider, cumulative in credit.items():
        proof = merkle_proof(credit, provider)
        assert merkle_verify(root, provider, cumulative, proof)
        assert not merkle_verify(root, provider, (cumulative + 1) % 2**256, proof)


@given(CREDITS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_proof_does_not_verify(credit: dict[Address, int], data: st.DataObject) -> None:
    provider = data.draw(st.sampled_from(sorted(credit)))
    proof = list(merkle_proof(credit, provider))
    place = data.draw(st.integers(0, len(proof)))
    proof.insert(place, Digest(data.draw(st.binary(min_size=32, max_size=32))))
    assert not merkle_verify(merkle_root(credit), provider, credit[provider], proof)


@given(CREDITS)
@settings(max_examples=40, deadline=None)
def test_the_root_does_not_depend_on_the_order(credit: dict[Address, int]) -> None:
    assert merkle_root(dict(reversed(credit.items()))) == merkle_root(credit)


def test_who_is_not_in_the_tree_has_no_proof() -> None:
    with pytest.raises(MerkleError, match="0x0909"):
        merkle_proof(vector_credits(3), Address(b"\x09" * 20))


@pytest.mark.parametrize(("provider", "cumulative"), [(b"\x01" * 19, 1), (b"\x01" * 20, -1), (b"\x01" * 20, 2**256)])
def test_what_has_no_abi_encoding_has_no_leaf(provider: bytes, cumulative: int) -> None:
    with pytest.raises(MerkleError):
        merkle_leaf(Address(provider), cumulative)
