import pytest

from tests.contracts.local_chain import World


@pytest.fixture
def world() -> World:
    return World()
