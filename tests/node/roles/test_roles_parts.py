"""The parts that need no other node: judging gossip, the watermark, balances, secrets, peers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from consensus.market.batch import propose_batch
from consensus.market.beacon import verify_reveal
from consensus.market.errors import BatchInvalid, BeaconInvalid
from contracts.errors import ChainUnavailable
from contracts.typed_data import ZERO_DIGEST, Address
from gossip.messages import Signed, sign
from gossip.messages.records import NodeRecord, SlotReveal
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles import bidders
from node.roles.balances import Balances
from node.roles.bidders import Bidders
from node.roles.feed import MAX_LIFETIME_MS, Feed
from node.roles.peers import Peers
from node.roles.public import PublicState
from node.roles.secrets import SlotSecrets
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import Lab, open_lab, until


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
async def node(lab: Lab) -> AsyncIterator[Node]:
    async with lab.bare("one", ("member",), MEMBERS[0]) as opened:
        yield opened


def soon(ms: int = 60_000) -> int:
    return now_ms() + ms


async def test_feed_judges_signature_lifetime_and_membership(lab: Lab, node: Node) -> None:
    world = lab.world()
    feed = Feed(node, PublicState(node, lab.genesis()))

    def reveal(who: str, named: Address) -> Signed[SlotReveal]:
        return sign(SlotReveal(named, 1, ZERO_DIGEST), key(who), lab.terms.domain)

    bid = world.bid(expires_ms=soon())
    cases: list[tuple[Signed[Any], Verdict]] = [
        (world.record(expires_ms=soon()), Verdict.ACCEPT),
        (bid, Verdict.ACCEPT),
        (world.proof(expires_ms=soon()), Verdict.ACCEPT),
        (Signed(replace(bid.payload, price_wei=1), bid.signature), Verdict.REJECT),
        (sign(bid.payload, key("somebody else"), lab.terms.domain), Verdict.REJECT),
        (sign(bid.payload, key("provider"), replace(lab.terms.domain, chain_id=1)), Verdict.REJECT),
        (Signed(bid.payload, b"\x00" * 65), Verdict.REJECT),  # type: ignore[arg-type]  # 65 bytes
        (world.bid(expires_ms=now_ms() - 1), Verdict.IGNORE),
        (world.record(expires_ms=now_ms() - 1), Verdict.IGNORE),
        (world.bid(expires_ms=soon(MAX_LIFETIME_MS + 60_000)), Verdict.IGNORE),
        (reveal("member 0", key("member 0").address), Verdict.ACCEPT),
        (reveal("member 0", key("member 1").address), Verdict.REJECT),
        (reveal("stranger", key("stranger").address), Verdict.IGNORE),
    ]
    assert [feed.judge(message) for message, _ in cases] == [verdict for _, verdict in cases]


async def test_feed_counts_what_the_book_refuses_and_goes_on(lab: Lab, node: Node) -> None:
    world = lab.world()
    public = PublicState(node, lab.genesis())
    feed = Feed(node, public)
    feed.take(world.bid(price_wei=0, expires_ms=soon()))
    assert feed.refused == 1
    feed.take(world.record(expires_ms=soon()))
    feed.take(world.proof(expires_ms=soon()))
    feed.take(world.bid(expires_ms=soon()))
    assert [listing.providers for listing in public.book.models(now_ms())] == [1]
    assert feed.refused == 1


async def test_s43_bids_of_who_holds_no_mor_are_not_passed_on(
    lab: Lab, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich, poor, late = (key(name).address for name in ("rich", "poor", "late"))
    lab.chain.balances[rich] = 1
    public = PublicState(node, lab.genesis())
    assert node.chain is not None
    known = Bidders(node, public, node.chain)
    lab.chain.down = True
    assert known.passes(rich)
    assert known.passes(poor), "who is unknown is let through"
    await known._look()
    assert known.passes(poor), "the chain is away"
    lab.chain.down = False
    await known._look()
    assert (known.passes(rich), known.passes(poor), known.refused) == (True, False, 1)
    # A new snapshot: who held MOR still passes until it is known that it holds none any more, and who held none may.
    lab.chain.balances |= {rich: 0, poor: 5}
    account = replace(public.ledger.account, snapshot_block=9)
    public.ledger = replace(public.ledger, days={account.day: account})
    await known._look()
    assert (known.passes(rich), known.passes(poor)) == (True, True)
    await known._look()
    assert (known.passes(rich), known.passes(poor)) == (False, True)
    # Fresh addresses share one pace, and take nobody's place.
    monkeypatch.setattr(bidders, "STRANGERS_PER_S", 1)
    fresh = [known.passes(key(f"fresh {number}").address) for number in range(600)]
    assert 480 <= sum(fresh) < 600
    assert not known.passes(late)
    assert known.passes(poor)
    assert len(known._wanted) <= bidders.ASKED_AT_ONCE


async def test_a_feed_passes_no_bid_on_that_nobody_may_serve(lab: Lab, node: Node) -> None:
    feed, world = Feed(node, PublicState(node, lab.genesis())), lab.world()
    assert feed.bidders is not None
    bid, proof, record = world.bid(expires_ms=soon()), world.proof(expires_ms=soon()), world.record(expires_ms=soon())
    said: tuple[Signed[Any], ...] = (bid, proof, record)
    assert all(feed._passes(message) for message in said)
    await feed.bidders._look()
    await feed.bidders._look()
    assert [feed._passes(message) for message in said] == [False, False, True]
    assert feed.judge(bid) is Verdict.ACCEPT, "it is no fault of whoever passes it on"


async def test_reveals_are_kept_of_members_only(lab: Lab, node: Node) -> None:
    public = PublicState(node, lab.genesis())
    for who in ("member 0", "stranger"):
        public.add(sign(SlotReveal(key(who).address, 4, ZERO_DIGEST), key(who), lab.terms.domain))
    assert set(public.reveals) == {(key("member 0").address, 4)}


async def test_balances_outlive_outage_and_restart(lab: Lab) -> None:
    rich, poor, unknown = (key(name).address for name in ("rich", "poor", "unknown"))
    lab.chain.balances |= {rich: 5 * WEI, unknown: WEI}
    async with lab.bare("one", ("member",)) as node:
        balances = Balances(node, node.chain)
        await balances.load()
        assert await balances.of(rich, 7) == 5 * WEI
        assert await balances.holders([rich, poor], 7) == {rich}
    lab.chain.down = True
    async with lab.bare("one", ("member",)) as node:
        balances = Balances(node, node.chain)
        await balances.load()
        assert await balances.of(rich, 7) == 5 * WEI
        assert await balances.of(rich, 8) == 5 * WEI, "the last snapshot carries on"
        assert await balances.of(poor, 7) == 0
        assert await balances.holders([rich, poor, unknown], 7) == {rich}
        with pytest.raises(ChainUnavailable):
            await balances.of(unknown, 7)
        lab.chain.down = False
        lab.chain.balances[rich] = 0
        assert await balances.of(unknown, 8) == WEI
        assert await balances.of(rich, 8) == 0, "a new snapshot replaces the old one"


async def test_balances_of_two_blocks_at_once_do_not_mix(lab: Lab, node: Node) -> None:
    who = [key(f"user {number}").address for number in range(8)]
    lab.chain.balances |= dict.fromkeys(who, WEI)
    balances = Balances(node, node.chain)
    found: list[int] = []

    async def learn(address: Address, block: int) -> None:
        found.append(await balances.of(address, block))

    async with trio.open_nursery() as nursery:
        for number, address in enumerate(who):
            nursery.start_soon(learn, address, 7 + number % 2)
    assert found == [WEI] * 8


async def test_balances_without_a_chain_are_unknown(lab: Lab) -> None:
    async with lab.bare("one") as node:
        with pytest.raises(ChainUnavailable, match="no chain endpoint"):
            await Balances(node, None).of(key("rich").address, 7)


async def test_secrets_lead_to_the_commitment(lab: Lab) -> None:
    params = replace(lab.terms.params, day_slots=8)
    secrets = SlotSecrets(MEMBERS[0], params, lab.terms.domain)
    again = SlotSecrets(MEMBERS[0], params, lab.terms.domain)
    for day in (0, 3):
        commitment = secrets.commitment(day)
        assert commitment.signer(lab.terms.domain) == MEMBERS[0].address
        assert commitment.payload.day == day
        for slot in range(8):
            secret = again.of_slot(day * 8 + slot)
            verify_reveal(commitment.payload.tip, slot, secret, 8)
            with pytest.raises(BeaconInvalid):
                verify_reveal(secrets.commitment(day + 1).payload.tip, slot, secret, 8)
    assert SlotSecrets(MEMBERS[1], params, lab.terms.domain).of_slot(0) != secrets.of_slot(0)


async def test_a_certified_header_with_another_body_is_refused(lab: Lab, node: Node) -> None:
    """What was followed once is remembered by its header's hash, which must stand for the body too."""
    public = PublicState(node, lab.genesis())
    world = lab.world()
    settlement = world.settlement()
    header, body, _ = propose_batch(
        public.ledger,
        lab.terms,
        proposer=MEMBERS[1].address,
        slot=2,
        reveal=SlotSecrets(MEMBERS[1], lab.terms.params, lab.terms.domain).of_slot(2),
        opening=None,
        commitments=(),
        pending=(settlement,),
    )
    assert public.follow(header, body).height == 1
    with pytest.raises(BatchInvalid, match="body_root"):
        public.follow(header, replace(body, settlements=()))


async def test_peers_bear_records_that_name_no_peer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member may say anything in its record; nobody may stop for it."""
    async with lab.bare("other") as other, lab.bare("one") as node, trio.open_nursery() as nursery:
        public = PublicState(node, lab.genesis())
        multiaddr = other.network.multiaddrs[0]
        peers = Peers(node, public, ("full",), (multiaddr, "/ip4/127.0.0.1/tcp/1", "nonsense"))
        for number, peer_id in enumerate(("é", "", node.network.peer_id)):
            record = NodeRecord(MEMBERS[number].address, peer_id, ("member",), ("nonsense",), 1, soon())
            public.add(sign(record, MEMBERS[number], lab.terms.domain))
        await nursery.start(peers.run)
        await until(lambda: node.network.is_connected(other.network.peer_id), "a connection to the good one")
        nursery.cancel_scope.cancel()


async def test_a_user_agent_announces_nothing(lab: Lab) -> None:
    async with lab.bare("one") as node, trio.open_nursery() as nursery:
        for roles, said in ((("user",), False), (("full",), True)):
            public = PublicState(node, lab.genesis())
            await nursery.start(Peers(node, public, roles, ()).run)
            assert (public.book.record(node.address, now_ms()) is not None) == said
        nursery.cancel_scope.cancel()
