"""What holds for every test."""

import sys

import pytest

LIMIT = sys.getrecursionlimit()


@pytest.fixture(autouse=True)
def recursion_limit() -> None:
    """Tests that import a chain library leave py_ecc's limit behind; a node never runs under it (node/recursion.py)."""
    sys.setrecursionlimit(LIMIT)
