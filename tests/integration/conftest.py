"""One network for every test that leaves it as it was, one of its own for each that doesn't."""

from collections.abc import Iterator

import pytest

from tests.integration.local_network import LocalNetwork, is_alive


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """Shared: four members, two providers, a plain full node and a user."""
    running = LocalNetwork(tmp_path_factory.mktemp("shared") / "net", "--block", "2")
    yield running
    pids = [node.pid for node in running.nodes()]
    assert running.stop() == 0, running.text()
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.fixture
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """For tests that kill."""
    running = LocalNetwork(tmp_path_factory.mktemp("own") / "net", "--block", "2", "--providers", "3")
    yield running
    running.stop()
