"""Evidence before the registry: one transaction an offence, whatever the chain answers, and none by a member."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.tendermint.evidence import accuse
from contracts.typed_data import Digest
from gossip.messages import sign
from gossip.messages.committee import Prevote
from gossip.messages.evidence import Evidence
from node.config import Role
from node.context import Node
from node.roles import finder
from node.roles.evidence import EvidencePool
from node.roles.finder import Finder
from node.roles.public import PublicState
from tests.node.roles.fakes import DOMAIN, MEMBERS
from tests.node.roles.harness import Lab, open_lab, until

A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def double_prevote(lab: Lab, height: int = 3, member: int = 1) -> Evidence:
    one, two = (sign(Prevote(height, 0, 0, value), MEMBERS[member], DOMAIN) for value in (A, B))
    return accuse(one, two, lab.committee, DOMAIN)


@asynccontextmanager
async def finding(
    lab: Lab, name: str = "finder", roles: tuple[Role, ...] = ("provider",)
) -> AsyncIterator[tuple[Node, EvidencePool]]:
    """A node that does nothing but submit, or watch; one that ran before finds its store again."""
    async with lab.bare(name, roles) as node, trio.open_nursery() as nursery:
        pool = EvidencePool(node, PublicState(node, lab.genesis()))
        await pool.load()
        await nursery.start(pool.run)
        assert node.chain is not None
        await nursery.start(Finder(node, pool, node.chain, submits=node.config.is_finder).run)
        yield node, pool
        nursery.cancel_scope.cancel()


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(finder, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(finder, "MOST_RETRY_S", 0.02)
    monkeypatch.setattr(finder, "LOOK_S", 0.02)
    async with open_lab(tmp_path, monkeypatch) as made:
        yield made


async def fated(pool: EvidencePool, word: str, count: int = 1) -> list[dict[str, Any]]:
    await until(lambda: [case["fate"] for case in pool.report()].count(word) == count, f"{count} {word}")
    return pool.report()


async def test_a_finder_submits_each_offence_once_and_keeps_the_result(lab: Lab) -> None:
    async with finding(lab) as (node, pool):
        pool.found(double_prevote(lab))
        pool.found(double_prevote(lab))
        (case,) = await fated(pool, "slashed")
        assert (case["slashed"], case["reward_wei"], case["offender"]) == (True, 50, MEMBERS[1].address)
        assert lab.chain.slashings == [(node.address, MEMBERS[1].address, case["id"])]
    async with finding(lab) as (_, pool):
        assert pool.report() == [case]
        pool.found(double_prevote(lab, height=4))
        told = await fated(pool, "punished")
        assert told[1]["detail"] == "registry: nothing to slash", "one offence has cost everything"
    assert len(lab.chain.slashings) == 1


async def test_the_second_finder_comes_too_late_and_says_so(lab: Lab) -> None:
    async with finding(lab) as (_, first), finding(lab, "second") as (_, second):
        first.found(double_prevote(lab))
        await fated(first, "slashed")
        second.found(double_prevote(lab))
        (case,) = await fated(second, "punished")
        assert (case["slashed"], case["tx_hash"], case["detail"]) == (True, None, "registry: already punished")
    assert len(lab.chain.slashings) == 1


async def test_an_outage_and_a_lost_answer_cost_patience_only(lab: Lab) -> None:
    lab.chain.down = True
    async with finding(lab) as (_, pool):
        pool.found(double_prevote(lab))
        await trio.testing.wait_all_tasks_blocked()
        lab.chain.swallows = 1
        lab.chain.down = False
        (case,) = await fated(pool, "punished")
        assert case["detail"] == "registry: already punished (perhaps by this node)"
    assert len(lab.chain.slashings) == 1


async def test_no_coin_for_gas_is_tried_again_and_the_registrys_own_word_is_final(lab: Lab) -> None:
    lab.chain.slash_refusals = ["Insufficient funds for gas * price + value"] * 3
    async with finding(lab) as (_, pool):
        pool.found(double_prevote(lab))
        await fated(pool, "slashed")
        lab.chain.slash_refusals = ["registry: not bound"]
        pool.found(double_prevote(lab, member=2))
        told = await fated(pool, "refused")
        assert (told[1]["slashed"], told[1]["detail"]) == (False, "registry: not bound")
    assert len(lab.chain.slashings) == 1


async def test_an_offender_without_stake_is_left_alone(lab: Lab) -> None:
    lab.chain.slash_refusals = ["registry: nothing to slash"]
    async with finding(lab) as (_, pool):
        pool.found(double_prevote(lab))
        (case,) = await fated(pool, "nothing_to_slash")
        assert case["slashed"] is False


async def test_attempts_are_bounded_and_the_next_start_begins_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder, "MAX_TRIES", 3)
    lab.chain.down = True
    async with finding(lab) as (_, pool):
        pool.found(double_prevote(lab))
        await until(lambda: "given up after 3" in pool.report()[0]["detail"], "giving up")
        assert (pool.report()[0]["fate"], pool.report()[0]["slashed"]) == ("open", None)
    lab.chain.down = False
    async with finding(lab) as (_, pool):
        await fated(pool, "slashed")


async def test_a_member_watches_and_sends_nothing(lab: Lab) -> None:
    async with finding(lab, "member", ("member",)) as (_, watcher), finding(lab) as (_, pool):
        evidence = double_prevote(lab)
        watcher.found(evidence)
        await trio.testing.wait_all_tasks_blocked()
        assert watcher.report()[0]["slashed"] is None
        assert not lab.chain.slashings
        pool.found(evidence)
        await fated(pool, "slashed")
        (case,) = await fated(watcher, "punished")
        assert case["slashed"] is True
    assert len(lab.chain.slashings) == 1
