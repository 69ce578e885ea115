"""Offences in a running network: everybody hears of them, keeps them, and does what is theirs to do."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from consensus.cases import KEPT_PER_MEMBER
from consensus.evidence import Evidence, OffenceKind, accuse_pass
from consensus.market.access import pass_commitment
from consensus.tendermint.evidence import accuse
from contracts.signing import Key
from contracts.typed_data import Digest, Domain
from gossip.messages import Signed, encode, sign
from gossip.messages.committee import PassFrame, Prevote, PrevoteFrame
from gossip.messages.evidence import DoublePrevote
from gossip.messages.market import AccessPass, PassIssued, PassRequest
from gossip.network import Network, Verdict
from inference.errors import SessionError
from node.context import now_ms
from node.roles.access import AccessRefused
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.provider import _ACCEPTED, Provider
from node.roles.public import PublicState
from node.roles.sync import Sync
from tests.consensus.builders import SALT, key
from tests.node.roles.fakes import DOMAIN, MEMBERS, WEI
from tests.node.roles.harness import SHORT, Lab, Running, ask, ask_match, ask_pass, make_rfc, open_lab, until

A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def prevotes(who: Key = MEMBERS[3], height: int = 1, domain: Domain = DOMAIN) -> tuple[Signed[Prevote], ...]:
    return tuple(sign(Prevote(height, 0, 0, value), who, domain) for value in (A, B))


def double_prevote(lab: Lab, who: Key = MEMBERS[3], height: int = 1) -> Evidence:
    one, two = prevotes(who, height)
    return accuse(one, two, lab.committee, DOMAIN)


def double_pass(issuer: Key, session: str = "session", day: int = 0) -> Evidence:
    one, two = (
        sign(AccessPass(key(session).address, day, allowance, 1, issuer.address, A), issuer, DOMAIN)
        for allowance in (64, 128)
    )
    return accuse_pass(one, two, DOMAIN)


def kinds(running: Running) -> list[OffenceKind]:
    return [case["kind"] for case in running.parts.evidence.report()]


async def everybody_knows(lab: Lab, kind: OffenceKind) -> None:
    await until(lambda: all(kind in kinds(one) for one in lab.running.values()), f"{kind.name} known to everybody")


async def test_a_double_vote_reaches_everybody_is_kept_and_costs_the_stake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        provider = await lab.start_provider("provider")
        full = await lab.start("full", ("full",))
        await lab.market(providers=1)
        await lab.knows(full, providers=1)

        liar = members[3]
        link = liar.member_parts()[1]
        for vote in prevotes():
            link.broadcast(PrevoteFrame(vote))
        members[0].member_parts()[2]._hand_over(lab.world().settlement())
        await everybody_knows(lab, OffenceKind.PREVOTE)
        told = [one.parts.evidence.report()[0] for one in lab.running.values()]
        assert len({(case["id"], case["offender"], case["evidence"]) for case in told}) == 1
        assert told[0]["offender"] == liar.address

        await until(lambda: lab.chain.slashings, "a slashing")
        await until(lambda: provider.parts.evidence.report()[0]["fate"] == "slashed", "the provider's reward")
        assert lab.chain.slashings == [(provider.address, liar.address, told[0]["id"])]
        status = await members[0].parts.status.status()
        assert status["equivocators"] == (liar.address,)
        standing = await members[0].parts.status.committee()
        assert standing is not None
        assert standing["equivocators"] == (liar.address,)
        await until(lambda: full.parts.evidence.report()[0]["slashed"], "whoever has a chain sees what became of it")

        await full.stop()
        full = await lab.start("full", ("full",))
        assert kinds(full) == [OffenceKind.PREVOTE], "from its own store"
        await comes_late(lab, full)


async def comes_late(lab: Lab, peer: Running) -> None:
    """A node that heard nothing is told in a book answer."""
    async with lab.bare("late") as node:
        public = PublicState(node, lab.genesis())
        pool = EvidencePool(node, public)
        sync = Sync(node, public, Feed(node, public), pool)
        await node.network.connect(peer.node.network.multiaddrs, timeout=5)
        await sync.pull_book(peer.node.network.peer_id)
        await sync.pull_book(peer.node.network.peer_id)
        assert [case["offender"] for case in pool.report()] == [MEMBERS[3].address]


async def test_what_proves_nothing_is_not_passed_on_and_what_is_known_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node") as node:
        pool = EvidencePool(node, PublicState(node, lab.genesis()))
        one, _ = prevotes()
        good: Any = double_prevote(lab)
        abroad = sorted(prevotes(domain=Domain(1, DOMAIN.contract)), key=lambda vote: vote.id(DOMAIN))
        forged = [
            DoublePrevote(good.second, good.first),
            DoublePrevote(one, one),
            DoublePrevote(*sorted((one, prevotes(MEMBERS[2])[1]), key=lambda vote: vote.id(DOMAIN))),
            DoublePrevote(*sorted((one, prevotes(height=2)[1]), key=lambda vote: vote.id(DOMAIN))),
            DoublePrevote(*abroad),
        ]
        assert [pool.judge(evidence) for evidence in forged] == [Verdict.REJECT] * len(forged)
        junk = (b"", b"\x00", encode(good)[:-1], encode(good) + bytes(4_096), encode(one))
        assert {pool._judge_bytes(data, "peer") for data in junk} == {Verdict.REJECT}
        assert not pool.report()

        stranger = Key(b"\x66" * 32)
        low, high = sorted(prevotes(stranger), key=lambda vote: vote.id(DOMAIN))
        assert pool.judge(DoublePrevote(low, high)) is Verdict.IGNORE, "no member that this node knows"

        assert pool.judge(good) is Verdict.ACCEPT
        pool.take(good)
        assert pool.judge(good) is Verdict.IGNORE
        third = sign(Prevote(1, 0, 0, Digest(b"c" * 32)), MEMBERS[3], DOMAIN)
        same: Any = accuse(one, third, lab.committee, DOMAIN)
        assert pool.judge(same) is Verdict.IGNORE, "other halves of the same offence"
        for height in range(2, KEPT_PER_MEMBER + 10):
            pool.found(double_prevote(lab, height=height))
        assert len(pool.report()) == KEPT_PER_MEMBER
        pool.found(double_prevote(lab, MEMBERS[2]))
        assert len(pool.report()) == KEPT_PER_MEMBER + 1


async def test_who_spreads_forged_evidence_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    penalise = Network.penalise

    def note(network: Network, peer_id: str, points: int, reason: str) -> None:
        scored.append(peer_id)
        penalise(network, peer_id, points, reason)

    monkeypatch.setattr(Network, "penalise", note)
    async with open_lab(tmp_path, monkeypatch) as lab:
        full = await lab.start("full", ("full",))
        async with lab.bare("liar") as liar:
            await liar.network.connect(full.node.network.multiaddrs, timeout=5)
            await liar.network.subscribe(liar.topics.evidence, lambda *_: Verdict.ACCEPT, max_bytes=4_096)
            await liar.network.wait_for_mesh(liar.topics.evidence, 1, timeout=20)
            one, _ = prevotes()
            await liar.network.publish(liar.topics.evidence, encode(DoublePrevote(one, one)))
            await until(lambda: liar.network.peer_id in scored, "a score")
            await liar.network.publish(liar.topics.evidence, encode(double_prevote(lab)))
            await until(lambda: kinds(full) == [OffenceKind.PREVOTE], "true evidence of the same peer")


async def test_an_index_used_twice_ends_the_pass_and_a_router_that_issues_twice_gets_no_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=16)
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        home = lab.home_of(key("user").address)
        cheat, honest = key("cheat's session"), key("honest session")
        granted = await ask_pass(user, home, key("user"), cheat)
        await ask_match(user, home, make_rfc(cheat, granted))
        again = make_rfc(cheat, granted, token_max=32)
        topic = user.node.topics.rfc(again.payload.model_id)
        await user.node.network.publish(topic, encode(again))
        await everybody_knows(lab, OffenceKind.RFC_INDEX)
        with pytest.raises(AccessRefused, match="its pass has ended"):
            await ask_match(user, home, make_rfc(cheat, granted, index=9))
        others = await ask_pass(user, home, key("user"), honest)
        await ask_match(user, home, make_rfc(honest, others))
        assert not lab.chain.slashings, "the registry knows nothing of passes"

        restarted = MEMBERS.index(next(one for one in MEMBERS if one.address == home.address))
        await home.stop()
        home = await lab.start_member(restarted)
        await lab.linked()
        await lab.market(providers=1)
        with pytest.raises(AccessRefused, match="its pass has ended"):
            await ask_match(user, home, make_rfc(cheat, granted, index=10))

        answer, _ = await ask(user)
        assert answer._ticket.router == home.address
        home.parts.evidence.found(double_pass(MEMBERS[restarted]))
        await everybody_knows(lab, OffenceKind.ACCESS_PASS)
        with pytest.raises(AccessRefused, match="expired"):
            await ask_match(user, home, make_rfc(honest, others, index=1, deadline_ms=now_ms() + 1_000))
        answer, _ = await ask(user)
        assert answer._ticket.router == lab.rank_of(user.address, 1), "which takes over"


async def test_a_provider_takes_no_ticket_of_a_router_that_issued_twice_that_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("provider", ("provider",)) as node:
        pool = EvidencePool(node, PublicState(node, lab.genesis()))
        provider, world = Provider(node, PublicState(node, lab.genesis()), pool), lab.world()
        pool.found(double_pass(MEMBERS[1]))
        with pytest.raises(SessionError, match="two passes"):
            await provider._accept(world.ticket(world.rfc(), router=MEMBERS[1]))
        _ACCEPTED.set([])
        await provider._accept(world.ticket(world.rfc(), router=MEMBERS[0]))
        await provider._accept(world.ticket(world.rfc(), router=MEMBERS[1], slot=SHORT.day_slots))


async def test_members_see_a_router_that_issues_more_than_usermax_and_two_passes_for_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        issuer, judge = members[0], members[1]
        lab.chain.balances[key("user").address] = WEI

        def frame(session: str, allowance: int) -> PassFrame:
            commitment = pass_commitment(key("user").address, SALT)
            made = AccessPass(key(session).address, 0, allowance, 1, issuer.address, commitment)
            request = PassRequest(key("user").address, key(session).address, 0, 0, now_ms())
            passed, asked = sign(made, MEMBERS[0], DOMAIN), sign(request, key("user"), DOMAIN)
            return PassFrame(sign(PassIssued(passed, asked, SALT, issuer.address), MEMBERS[0], DOMAIN))

        link = issuer.member_parts()[1]
        link.broadcast(frame("one", 64))
        link.broadcast(frame("two", 2**40))
        await until(lambda: judge.member_parts()[2].over_issued, "the sum")
        standing = await judge.parts.status.committee()
        assert standing is not None
        assert [(one["router"], one["day"]) for one in standing["over_issued"]] == [(issuer.address, 0)]
        assert not judge.parts.evidence.report(), "it would name the user: that stays among members"
        link.broadcast(frame("one", 32))
        await everybody_knows(lab, OffenceKind.ACCESS_PASS)


async def test_abused_passes_are_forgotten_with_their_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(SHORT, slot_ms=100, day_slots=3)
    async with open_lab(tmp_path, monkeypatch, short) as lab, lab.bare("node") as node, trio.open_nursery() as nursery:
        pool = EvidencePool(node, PublicState(node, lab.genesis()))
        await nursery.start(pool.run)
        pool.found(double_pass(MEMBERS[1]))
        day = node.terms.params.day_of(node.slot())
        granted = sign(AccessPass(key("s").address, day, 64, 1, MEMBERS[0].address, A), MEMBERS[0], DOMAIN)
        rfc = lab.world().rfc("s", granted)
        pool.note_rfc(rfc)
        pool.note_rfc(sign(replace(rfc.payload, token_max=1), key("s"), DOMAIN))
        assert [case["kind"] for case in pool.report()] == [OffenceKind.ACCESS_PASS, OffenceKind.RFC_INDEX]
        await until(lambda: len(pool.report()) == 1, "the end of the day after")
        assert pool.report()[0]["kind"] is OffenceKind.ACCESS_PASS
        nursery.cancel_scope.cancel()
