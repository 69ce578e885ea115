import copy
from collections.abc import Iterator
from functools import cache

import pytest

from tests.contracts.local_chain import World


@cache
def _deployed() -> World:
    return World()


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh network's contracts; what a test does to the chain and its clock is taken back behind it."""
    deployed = _deployed()
    with deployed.chain.env.anchor():
        fresh = copy.copy(deployed)
        fresh.keys = list(deployed.keys)
        yield fresh
