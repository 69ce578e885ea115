"""What one honest node accepts no other rejects: a rejection bans who forwards it, and clocks and ledgers differ."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gossip.errors import MessageError, MessageExpired, MessageTooEarly
from gossip.messages.base import Signed, encode, sign
from gossip.messages.committee import CertifiedBatch, CommitCertificate, batch_hash
from gossip.messages.market import Rfc
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles import demand as demand_module
from node.roles import feed as feed_module
from node.roles.demand import MAX_WAIT_MS, Demand
from node.roles.evidence import EvidencePool
from node.roles.feed import MAX_LIFETIME_MS, Feed
from node.roles.public import PublicState
from node.roles.sync import Sync
from tests.consensus.builders import key, named_digest
from tests.node.roles.fakes import MEMBERS
from tests.node.roles.harness import Lab, open_lab

CLOCKS_MS = range(-60_000, 60_001, 10_000)
"""How far honest clocks are off."""


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
async def node(lab: Lab) -> AsyncIterator[Node]:
    async with lab.bare("one", ("member",), MEMBERS[0]) as opened:
        yield opened


@pytest.mark.parametrize("edge_ms", [0, MAX_LIFETIME_MS])
async def test_no_clock_rejects_a_bid_that_another_accepts(
    lab: Lab, node: Node, monkeypatch: pytest.MonkeyPatch, edge_ms: int
) -> None:
    feed: Any = Feed(node, PublicState(node, lab.genesis()))
    world, noon_ms = lab.world(), now_ms()
    for off_ms in range(-61_000, 61_001, 500):
        seen = set()
        for made in (
            world.bid(expires_ms=noon_ms + edge_ms + off_ms),
            world.record(expires_ms=noon_ms + edge_ms + off_ms),
        ):
            for clock_ms in CLOCKS_MS:
                monkeypatch.setattr(feed_module, "now_ms", lambda at=noon_ms + clock_ms: at)
                seen.add(feed.judge(made))
        assert seen <= {Verdict.ACCEPT, Verdict.IGNORE}, (off_ms, seen)


@pytest.mark.parametrize("edge_ms", [0, MAX_WAIT_MS])
async def test_no_clock_rejects_an_rfc_that_another_accepts(
    lab: Lab, node: Node, monkeypatch: pytest.MonkeyPatch, edge_ms: int
) -> None:
    public, noon_ms = PublicState(node, lab.genesis()), now_ms()
    demand = Demand(node, public, EvidencePool(node, public))
    for off_ms in range(-61_000, 61_001, 500):
        payload = replace(lab.world().rfc().payload, deadline_ms=noon_ms + edge_ms + off_ms)
        rfc = sign(payload, key("session"), lab.terms.domain)
        for clock_ms in CLOCKS_MS:
            monkeypatch.setattr(demand_module, "now_ms", lambda at=noon_ms + clock_ms: at)
            assert fault(demand, rfc) is None, (off_ms, clock_ms)


def fault(demand: Demand, rfc: Signed[Rfc]) -> MessageError | None:
    """What would be held against who forwards ``rfc``."""
    try:
        demand.check(rfc)
    except (MessageExpired, MessageTooEarly):
        return None
    except MessageError as error:
        return error
    return None


@pytest.mark.parametrize("height", [1, 2, 900])
async def test_a_batch_by_a_committee_that_this_node_has_not_heard_of_is_nobodys_fault(
    lab: Lab, node: Node, height: int
) -> None:
    """A rescue is read from the chain by one node earlier than by another."""
    public, world = PublicState(node, lab.genesis()), lab.world()
    header, body, _ = world.propose(world.ledger(), [])
    header = replace(header, height=height, committee_root=named_digest("rescued"))
    certificate = CommitCertificate(height, 0, batch_hash(header), header.committee_root, ())
    sync = Sync(node, public, Feed(node, public), EvidencePool(node, public))
    assert sync._judge(encode(CertifiedBatch(header, certificate, body)), "peer") is Verdict.IGNORE


async def test_a_batch_by_the_known_committee_without_its_signatures_is_rejected(lab: Lab, node: Node) -> None:
    public, world = PublicState(node, lab.genesis()), lab.world()
    header, body, _ = world.propose(world.ledger(), [])
    header = replace(header, committee_root=public.committee.root)
    certificate = CommitCertificate(header.height, 0, batch_hash(header), header.committee_root, ())
    sync: Any = Sync(node, public, Feed(node, public), EvidencePool(node, public))
    assert sync._judge(encode(CertifiedBatch(header, certificate, body)), "peer") is Verdict.REJECT
