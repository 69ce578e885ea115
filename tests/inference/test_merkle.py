"""Merkle paths over any number of leaves, and the spans that stand for 64 of them."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import ProofInvalid
from inference.merkle import SPAN_BLOCKS, compute_merkle_root, compute_path, root_from_path


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaves_of(count: int) -> list[bytes]:
    return [sha(number.to_bytes(4, "big")) for number in range(count)]


def test_root_of_three() -> None:
    a, b, c = leaves_of(3)
    assert compute_merkle_root([a]) == a
    assert compute_merkle_root([a, b, c]) == sha(b"\1" + sha(b"\1" + a + b) + c)


@given(count=st.integers(1, 300), data=st.data())
def test_a_path_leads_to_the_root_and_nothing_else_does(count: int, data: st.DataObject) -> None:
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    root, path = compute_merkle_root(leaves), compute_path(leaves, index)
    assert root_from_path(leaves[index], index, count, path) == root
    assert root_from_path(sha(b"another"), index, count, path) != root
    if count > 1:
        other = data.draw(st.integers(0, count - 1).filter(lambda number: number != index))
        with suppress(ProofInvalid):  # elsewhere in the tree a path may have another length
            assert root_from_path(leaves[index], other, count, path) != root
        with pytest.raises(ProofInvalid, match="too short"):
            root_from_path(leaves[index], index, count, path[:-1])
    with pytest.raises(ProofInvalid, match="too long"):
        root_from_path(leaves[index], index, count, (*path, root))


@given(count=st.integers(1, 5 * SPAN_BLOCKS), data=st.data())
def test_spans_make_the_same_tree(count: int, data: st.DataObject) -> None:
    leaves = leaves_of(count)
    spans = [leaves[start : start + SPAN_BLOCKS] for start in range(0, count, SPAN_BLOCKS)]
    roots = [compute_merkle_root(span) for span in spans]
    assert compute_merkle_root(roots) == compute_merkle_root(leaves)
    index = data.draw(st.integers(0, count - 1))
    span, inner = divmod(index, SPAN_BLOCKS)
    assert compute_path(leaves, index) == (*compute_path(spans[span], inner), *compute_path(roots, span))
