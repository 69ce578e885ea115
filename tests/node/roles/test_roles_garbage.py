"""Random bytes, and true messages with a few bytes changed, on every protocol and topic: the nodes go on serving."""

import random
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from consensus.evidence import accuse_index
from contracts.typed_data import ZERO_DIGEST, Digest, Signature
from gossip import topics
from gossip.errors import GossipError, MessageError
from gossip.messages import encode, sign
from gossip.messages.committee import (
    CertifiedBatch,
    CommitCertificate,
    CommitmentFrame,
    DecidedFrame,
    HelloFrame,
    PassFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    SettlementFrame,
    StatusFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.market import LivenessQuery, PassRequest
from gossip.messages.router import DeliveryFiling, PassAsk, ReportFiling, RfcAsk
from gossip.messages.session import Query, SessionOpen
from gossip.messages.sync import BookRequest, SyncRequest
from gossip.network import Network, Verdict, open_network
from node.context import now_ms
from node.roles.secrets import SlotSecrets
from tests.consensus.builders import key
from tests.node.roles.fakes import DOMAIN, MEMBERS, WEI
from tests.node.roles.harness import Lab, Running, ask, open_lab, until

PROTOCOLS = (topics.ROUTER, topics.LIVENESS, topics.SESSION, topics.SYNC, topics.COMMITTEE)
CHANGED = 12
"""Changed copies of each true message."""


def true_messages(lab: Lab) -> dict[str, list[msgspec.Struct]]:
    """What each protocol is for, as far as a stranger could make it; half of it names parties that don't exist."""
    world = lab.world()
    settlement = world.settlement()
    ticket_id = settlement.ticket.id(DOMAIN)
    assert settlement.report is not None
    request = sign(PassRequest(key("user").address, key("s").address, 0, 5, now_ms()), key("user"), DOMAIN)
    query = sign(Query(ticket_id, key("session").address, b"{}"), key("session"), DOMAIN)
    liveness = LivenessQuery(ticket_id, ticket_id, MEMBERS[0].address, now_ms())
    issued = sign(world.pass_issued(world.access_pass(), world.pass_request()), world.router, DOMAIN)
    return {
        topics.ROUTER: [
            PassAsk(request),
            RfcAsk(settlement.rfc),
            ReportFiling(ticket_id, settlement.report, settlement.receipt),
            DeliveryFiling(ticket_id, None, settlement.receipt),
        ],
        topics.LIVENESS: [sign(liveness, MEMBERS[0], DOMAIN)],
        topics.SESSION: [SessionOpen(settlement.ticket, query)],
        topics.SYNC: [SyncRequest(1, 5), BookRequest()],
        topics.COMMITTEE: [
            HelloFrame(world.record()),
            StatusFrame(1, 0),
            PassFrame(issued),
            SettlementFrame(settlement),
            CommitmentFrame(world.commitment(world.router, 1)),
        ],
    }


def changed(data: bytes, chance: random.Random) -> bytes:
    """``data`` with one to three bytes different, or cut, or longer."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        made[chance.randrange(len(made))] = chance.randrange(256)
    if chance.random() < 0.2:
        del made[chance.randrange(len(made)) :]
    if chance.random() < 0.1:
        made += chance.randbytes(7)
    return bytes(made)


async def say(attacker: Network, target: Running, protocol: str, frames: list[bytes]) -> None:
    """Frames on one stream, whatever the answer is."""
    try:
        stream = await attacker.open_stream(target.node.network.peer_id, protocol, timeout=10)
        try:
            for frame in frames:
                await stream.send(frame)
            await stream.end()
            while await stream.receive(limit=1 << 20, timeout=10) is not None:
                pass
        finally:
            await stream.aclose()
    except GossipError:
        return  # being refused is what should happen


@pytest.mark.seed(1)
async def test_nodes_bear_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        # A stranger is banned after ten faults; here it may go on.
        lab.hosts = replace(lab.hosts, ban_points=10**9)
        members = await lab.start_committee()
        provider = await lab.start_provider("provider")
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        targets = dict.fromkeys(PROTOCOLS, members[0]) | {
            topics.LIVENESS: provider,
            topics.SESSION: provider,
        }
        hello = encode(HelloFrame(members[1].parts.peers.record))
        async with open_network(lab.hosts, b"\x99" * 32) as attacker:
            for target in (*members, provider):
                await attacker.connect(target.node.network.multiaddrs, timeout=10)
            for protocol, messages in true_messages(lab).items():
                target = targets[protocol]
                await say(attacker, target, protocol, [chance.randbytes(4_096)])
                await say(attacker, target, protocol, [chance.randbytes(60)])
                await say(attacker, target, protocol, [b""])
                await say(attacker, target, protocol, [])
                await say(attacker, target, protocol, [hello, chance.randbytes(4_096)])
                for message in messages:
                    data = encode(message)
                    await say(attacker, target, protocol, [data])
                    for _ in range(CHANGED):
                        await say(attacker, target, protocol, [changed(data, chance)])
            await gossip_garbage(lab, attacker, chance)
        nonsense = await evil_member(lab, chance)
        for running in (*members, provider):
            drops = running.node.network.statistics().drops
            assert "handler_failed" not in drops, (running.name, drops)
        assert members[0].node.network.statistics().drops["bad_message"] > 20
        assert provider.node.network.statistics().drops["bad_message"] > 10
        answer, _ = await ask(user)
        assert answer.tokens == 32
        rfc_id = Digest(bytes.fromhex(user.parts.sessions.all()[0]["rfc_id"][2:]))
        said = user.parts.sessions.messages(rfc_id)
        assert said is not None
        rfc = said[0].payload
        await until(lambda: user.parts.public.ledger.is_settled(rfc), "the settlement")
        first = await user.node.store.get_batch(1)
        assert first is not None
        assert batch_hash(first.header) != nonsense


async def evil_member(lab: Lab, chance: random.Random) -> Digest:
    """Frames that one member signs to confuse another; the hash of the batch that it would like."""
    victim, evil = lab.members[0], lab.member(lab.committee.proposer(1, 1))
    world = lab.world()
    reveal = SlotSecrets(evil.node.key, lab.terms.params, DOMAIN).of_slot(1)
    header, body, _ = world.propose(lab.genesis(), proposer=evil.node.key, reveal=reveal, slot=1)
    header = replace(header, beacon=ZERO_DIGEST)
    value = batch_hash(header)
    huge = 2**63 - 1

    def proposal(height: int, round_: int) -> ProposalFrame:
        signed = sign(Proposal(height, round_, 0, value, evil.address), evil.node.key, DOMAIN)
        return ProposalFrame(signed, header, body)

    certificate = CommitCertificate(1, 0, value, lab.committee.root, (Signature(b"\x01" * 65),))
    frames: list[msgspec.Struct] = [
        proposal(1, 1),
        proposal(1, 0),
        proposal(1, huge),
        replace(proposal(1, 5), body=replace(body, settlements=(world.settlement(),))),
        *(PrevoteFrame(sign(Prevote(1, r, 0, value), evil.node.key, DOMAIN)) for r in (0, 3, huge)),
        *(PrevoteFrame(sign(Prevote(1, 1, r, value), evil.node.key, DOMAIN)) for r in (1, 2, huge)),
        PrevoteFrame(sign(Prevote(huge, 0, 0, value), evil.node.key, DOMAIN)),
        PrecommitFrame(sign(Precommit(1, 0, ZERO_DIGEST, lab.committee.root), evil.node.key, DOMAIN)),
        PrecommitFrame(sign(Precommit(1, 0, value, ZERO_DIGEST), evil.node.key, DOMAIN)),
        PrecommitFrame(sign(Precommit(1, 0, value, lab.committee.root), key("stranger"), DOMAIN)),
        DecidedFrame(CertifiedBatch(header, certificate, body)),
        StatusFrame(0, 0),
        StatusFrame(huge, huge),
        *true_messages(lab)[topics.COMMITTEE],
    ]
    member = victim.member_parts()[0]
    for frame in frames:
        for data in (encode(frame), *(changed(encode(frame), chance) for _ in range(CHANGED))):
            try:
                await member.on_frame(evil.address, decode_link_frame(data))
            except MessageError:
                continue  # the link drops and scores it
    return value


async def gossip_garbage(lab: Lab, attacker: Network, chance: random.Random) -> None:
    world, names = lab.world(), lab.members[0].node.topics
    gossiped: dict[str, msgspec.Struct] = {
        names.records: world.record(expires_ms=now_ms() + 60_000),
        names.bids: world.bid(expires_ms=now_ms() + 60_000),
        names.proofs: world.proof(expires_ms=now_ms() + 60_000),
        names.reveals: world.record(),
        names.batches: world.settlement(),
        names.evidence: accuse_index(world.rfc(), world.rfc(token_max=1), DOMAIN),
    }
    before = {member.name: penalties(member) for member in lab.members}

    def accept(_: bytes, __: str) -> Verdict:
        return Verdict.ACCEPT

    for topic, message in gossiped.items():
        await attacker.subscribe(topic, accept, max_bytes=1 << 20)
        await attacker.wait_for_mesh(topic, 1, timeout=20)
        for data in (chance.randbytes(4_096), chance.randbytes(100), changed(encode(message), chance)):
            await attacker.publish(topic, data)
    await until(
        lambda: sum(penalties(m) - before[m.name] for m in lab.members) >= len(gossiped), "the gossip to be judged"
    )


def penalties(running: Running) -> int:
    return running.node.network.statistics().drops.get("penalties", 0)
