"""The watch for rescues outlives whatever the registry, or the endpoint before it, answers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import trio
from trio.testing import MockClock

from contracts.errors import ChainUnavailable, ContractsError, TransactionReverted
from node.chain import Epoch
from node.roles.epochs import RESCUE_POLL_S, Epochs


class FailingRegistry:
    """Raises one error after the other, then answers that nothing has happened."""

    def __init__(self, *failures: ContractsError) -> None:
        self.failures = list(failures)
        self.asked = 0

    async def epochs(self, after: int) -> Sequence[Epoch]:  # noqa: ARG002  # the seam's shape
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return ()


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_neither_a_refusal_nor_an_outage_ends_the_watch(clock: MockClock) -> None:
    registry = FailingRegistry(
        TransactionReverted("registry.epoch", "there is no contract"),
        ChainUnavailable("http://127.0.0.1:1", "rate limited", -32005),
    )
    node: Any = SimpleNamespace(log=structlog.get_logger())
    public: Any = SimpleNamespace(ledger=SimpleNamespace(running=SimpleNamespace(epoch=1)))
    with trio.move_on_after(3.5 * RESCUE_POLL_S):
        await Epochs(node, public, cast(Any, registry)).run()
    assert registry.asked == 4
