"""A batch too large to gossip is noticed, and comes from a member that has it (S17)."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from gossip.errors import MessageError
from gossip.hardening import pubsub
from gossip.messages import batch_notice, encode
from gossip.messages.batch_notice import MAX_GOSSIPED_BYTES, BatchNotice, decode_gossiped, gossiped
from gossip.messages.committee import BatchBody, CertifiedBatch, CommitCertificate, SealedBatch, batch_hash
from gossip.network import Verdict
from node.roles import sync
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.public import PublicState
from tests.consensus.builders import World
from tests.node.roles.harness import open_lab, until
from tests.node.roles.test_roles_committee import file


def certified(count: int) -> CertifiedBatch:
    world = World()
    header, _, _ = world.propose(world.ledger(), [])
    body = BatchBody(None, (), (world.settlement(),) * count)
    header = replace(header, body_root=body.root)
    return CertifiedBatch(header, CommitCertificate(1, 0, batch_hash(header), world.committee.root, ()), body)


def test_a_batch_is_gossiped_whole_up_to_a_megabyte() -> None:
    small, large = certified(10), certified(2_000)
    assert gossiped(small) == encode(small)
    assert isinstance(decode_gossiped(gossiped(small)), SealedBatch)
    assert len(encode(large)) > MAX_GOSSIPED_BYTES
    assert len(gossiped(large)) < 1_000
    assert decode_gossiped(gossiped(large)) == BatchNotice(large.header, large.certificate)
    for junk in (b"", b"\x92", b"\x92\xc0\xc0", b"\x93\x00", encode(large)):
        with pytest.raises(MessageError):
            decode_gossiped(junk)


def test_no_topic_makes_an_rpc_of_more_than_a_mebibyte() -> None:
    assert MAX_GOSSIPED_BYTES + pubsub._RPC_OVERHEAD <= 1 << 20


async def test_a_large_batch_reaches_a_node_that_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_notice, "MAX_GOSSIPED_BYTES", 1_000)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        full = await lab.start("full", ("full",))
        # nothing but the notice makes it ask
        monkeypatch.setattr(sync, "RECONCILE_S", 10_000.0)
        for height in (1, 2, 3):
            file(members[0], lab.world().settlement(session=f"session {height}", index=height))
            await until(lambda height=height: full.height >= height, f"height {height} at the full node")  # type: ignore[misc]  # a default binds
        assert full.parts.public.heard_height >= 3


async def test_a_notice_without_its_certificate_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("one") as node:
        public, world = PublicState(node, lab.genesis()), lab.world()
        header, _, _ = world.propose(world.ledger(), [])
        header = replace(header, committee_root=public.committee.root)
        notice = BatchNotice(header, CommitCertificate(1, 0, batch_hash(header), header.committee_root, ()))
        following = sync.Sync(node, public, Feed(node, public), EvidencePool(node, public))
        assert following._judge(encode(notice), "peer") is Verdict.REJECT
