"""The pool: each settlement once, the oldest first, bounded."""

import pytest

from consensus.market.errors import SettlementInvalid
from consensus.member.pool import SettlementPool
from tests.consensus.builders import World


def test_each_settlement_is_kept_once_until_it_is_forgotten() -> None:
    world = World()
    pool = SettlementPool()
    first, second = world.settlement(), world.settlement()
    ids = [settlement.ticket.id(world.domain) for settlement in (first, second)]
    assert pool.add(ids[0], first, own=False)
    assert not pool.add(ids[0], first, own=True)
    assert pool.add(ids[1], second, own=False)
    assert pool.waiting() == (first, second)
    assert pool.own() == (first,), "one that others told first is this desk's own all the same"
    assert pool.arrivals == 2
    assert pool.forget([ids[0], ids[0]]) == 1
    assert pool.waiting() == (second,)
    assert pool.own() == ()


def test_a_full_pool_refuses_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr("consensus.member.pool.MAX_WAITING", 1)
    pool = SettlementPool()
    first, second = world.settlement(), world.settlement()
    pool.add(first.ticket.id(world.domain), first, own=True)
    with pytest.raises(SettlementInvalid, match="pool_full") as caught:
        pool.add(second.ticket.id(world.domain), second, own=True)
    assert caught.value.retry
    assert len(pool) == 1
