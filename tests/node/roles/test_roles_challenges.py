"""Providers prove their models to routers over real streams; who does not is not matched."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, RemoteError
from gossip.messages import encode, sign
from gossip.messages.challenge import MAX_ANSWER_BYTES, ModelChallenge, decode_challenge_answer
from gossip.streams import FrameStream
from gossip.topics import CHALLENGE
from inference.errors import ModelError
from inference.model_files import ModelFiles, open_model
from inference.possession import challenge_seed, check_blocks, draw_blocks
from inference.synthetic import SyntheticEngine
from node.api.backend import BackendError
from node.context import now_ms
from node.roles.prover import MOST_IN_SLOT, PEER_STREAMS, Prover
from tests.consensus.builders import key
from tests.node.roles.fakes import DOMAIN, MEMBERS, MODEL, WEI
from tests.node.roles.harness import SHORT, Running, ask, chat, eventually, open_lab, until


class FileEngine(SyntheticEngine):
    """The synthetic engine under the identity of a real file."""

    def __init__(self, path: Path) -> None:
        super().__init__(MODEL, answer_tokens=8)
        self.identity: Any = open_model(path, "synthetic", "1")
        self._model_id = self.identity.manifest.model_id()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(random.Random(1).randbytes(3 << 20))
    return path


def proofs(member: Running) -> list[dict[str, Any]]:
    challenger = member.parts.status.challenger
    assert challenger is not None
    return challenger.states()


async def test_a_provider_proves_its_files_at_join_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    async with open_lab(
        tmp_path, monkeypatch, replace(SHORT, challenge_slots=2), models=[FileEngine(weights).model_id]
    ) as lab:
        await lab.start_committee()
        engine = FileEngine(weights)
        provider = await lab.start_provider("provider", engine)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        answer, text = await ask(user)
        assert answer.provider == provider.address
        assert text
        for member in lab.members:
            await until(lambda m=member: proofs(m)[0]["answered"] >= 3, "challenges by the beacon")  # type: ignore[misc]  # bound now
            (shown,) = proofs(member)
            assert shown["proven"]
            assert (shown["provider"], shown["model_id"]) == (provider.address, engine.model_id)
            assert (shown["engine"], shown["bytes"], shown["failed"]) == ("synthetic 1", 3 << 20, 0)
        told = await lab.members[0].parts.status.models()
        assert [listing.model_id for listing in told["models"]] == [engine.model_id]
        assert (await user.parts.status.models())["proofs"] is None


async def test_a_changed_model_is_not_matched_and_comes_back_with_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    async with open_lab(
        tmp_path, monkeypatch, replace(SHORT, challenge_slots=1), models=[FileEngine(weights).model_id]
    ) as lab:
        await lab.start_committee()
        good = await lab.start_provider("good", FileEngine(weights), slots=50)
        bytes_before = weights.read_bytes()
        mine = tmp_path / "mine.gguf"
        mine.write_bytes(bytes_before)
        status = mine.stat()
        bad = await lab.start_provider("bad", FileEngine(mine), slots=50, price_wei=10**10)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        await served_by(user, bad)

        # other bytes behind the same status: only a challenge sees that
        mine.write_bytes(bytes(len(bytes_before)))
        os.utime(mine, ns=(status.st_atime_ns, status.st_mtime_ns))
        for member in lab.members:
            await until(lambda m=member: not state_of(m, bad)["proven"], "the failure")  # type: ignore[misc]  # bound now
            assert "model_changed" in state_of(member, bad)["reason"]
            assert state_of(member, good)["proven"]
        answer, _ = await ask(user)
        assert answer.provider == good.address

        mine.write_bytes(bytes_before)
        os.utime(mine, ns=(status.st_atime_ns, status.st_mtime_ns))
        for member in lab.members:
            await until(lambda m=member: state_of(m, bad)["proven"], "the proof")  # type: ignore[misc]  # bound now
        await served_by(user, bad)


async def served_by(user: Running, provider: Running) -> None:
    """The lower bid answers, unless a busy machine makes it miss the liveness check once."""

    async def answers() -> bool:
        answer, _ = await ask(user)
        return answer.provider == provider.address

    await eventually(answers, "an answer of the lower bid")


def state_of(member: Running, provider: Running) -> dict[str, Any]:
    return next(shown for shown in proofs(member) if shown["provider"] == provider.address)


async def test_a_touched_model_serves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    async with open_lab(tmp_path, monkeypatch, SHORT, models=[FileEngine(weights).model_id]) as lab:
        await lab.start_committee()
        engine = FileEngine(weights)
        provider = await lab.start_provider("provider", engine)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        os.utime(weights, ns=(5, 5))
        assert provider.parts.provider is not None
        bid = next(iter(provider.parts.provider._own_bids))
        assert await provider.parts.provider._free_slots(bid) == 0
        monkeypatch.setattr("node.roles.asking.RFC_DEADLINE_MS", 1_000)
        with pytest.raises(BackendError):
            await ask(user)


class Claimed:
    """The identity of a model whose bytes its provider hasn't got."""

    def __init__(self, true: ModelFiles, prove: Callable[..., Any]) -> None:
        self.manifest = true.manifest
        self.prove = prove

    def check(self) -> None:
        """Nothing to look at."""


async def test_a_signature_without_the_bytes_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    """A signature over a public hash, blocks of another model, blocks that were not asked for, silence."""
    true = open_model(weights, "synthetic", "1")
    other = tmp_path / "other.gguf"
    other.write_bytes(bytes(3 << 20))
    lies: dict[str, Callable[..., Any]] = {
        "nothing": lambda _: (),
        "another model": open_model(other, "synthetic", "1").prove,
        "other blocks": lambda indexes: true.prove([index ^ 1 for index in indexes]),
    }
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, challenge_ms=2_000)) as lab:
        await lab.start_committee(2)
        for name, prove in lies.items():
            engine = FileEngine(weights)
            engine.identity = Claimed(true, prove)
            await lab.start_provider(name, engine)
        engine = FileEngine(weights)
        del engine.identity
        await lab.start_provider("no identity", engine)

        async def silent(_prover: Prover, _stream: FrameStream) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(Prover, "serve", silent)
        await lab.start_provider("silent", FileEngine(weights))
        expected = {
            key("nothing").address: "0 blocks where 4",
            key("another model").address: "does not lead",
            key("other blocks").address: "block",
            key("no identity").address: "not_served",
            key("silent").address: "no answer within 2 s",
        }
        for member in lab.members:
            for provider, reason in expected.items():

                def is_seen(member: Running = member, provider: Address = provider, reason: str = reason) -> bool:
                    """A busy machine may be late once: it is asked again."""
                    return any(one["provider"] == provider and reason in one["reason"] for one in proofs(member))

                await until(is_seen, reason)
            assert not any(shown["proven"] for shown in proofs(member))


async def test_who_may_challenge_and_how_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, challenge_slots=10**9, slot_ms=60_000)) as lab:
        await lab.start_committee(1)
        model = open_model(weights, "synthetic", "1")
        provider = await lab.start_provider("provider", FileEngine(weights))
        await until(lambda: proofs(lab.members[0]) and proofs(lab.members[0])[0]["proven"], "the first proof")
        # a member that has not asked yet, and a stranger
        member, stranger = MEMBERS[3], key("stranger")
        whole = ModelChallenge(member.address, provider.address, model.manifest.model_id(), 3, Digest(bytes(32)), 0)
        async with lab.bare("asker", who=stranger) as node:
            await node.network.connect(provider.node.network.multiaddrs, timeout=5)

            async def told(who: Any = member, **changes: Any) -> bytes:
                payload = replace(whole, **({"sent_ms": now_ms()} | changes))
                stream = await node.network.open_stream(provider.node.network.peer_id, CHALLENGE, timeout=5)
                try:
                    await stream.send(encode(sign(payload, who, DOMAIN)))
                    return await stream.receive(limit=MAX_ANSWER_BYTES, timeout=10) or b""
                finally:
                    await stream.aclose()

            for code, changes in (
                ("not_a_router", {"who": stranger, "router": stranger.address}),
                ("wrong_provider", {"provider": stranger.address}),
                ("stale", {"sent_ms": now_ms() - 120_000}),
                ("stale", {"sent_ms": now_ms() + 120_000}),
                ("not_served", {"model_id": Digest(b"x" * 32)}),
            ):
                with pytest.raises(RemoteError) as error:
                    await told(**changes)
                assert error.value.code == code
            answer = decode_challenge_answer(await told())
            seed = challenge_seed(whole.beacon, 3, member.address, provider.address, whole.model_id)
            check_blocks(model.manifest, draw_blocks(seed, model.manifest.blocks), answer.blocks)
            assert answer.answer.signer(DOMAIN) == provider.address
            for _ in range(MOST_IN_SLOT - 1):
                await told()
            with pytest.raises(RemoteError) as error:
                await told()
            assert error.value.code == "too_often"

            # nobody keeps the routers out with streams that say nothing
            peer = provider.node.network.peer_id
            quiet = [await node.network.open_stream(peer, CHALLENGE, timeout=5) for _ in range(PEER_STREAMS + 1)]
            with pytest.raises(RemoteError) as error:
                await quiet[-1].receive(limit=100, timeout=10)
            assert error.value.code == "busy"
            for stream in quiet:
                await stream.aclose()

            # who signs for another, or sends no challenge at all, is heard no further
            with pytest.raises(GossipError):
                await told(who=stranger)
        await until(lambda: proofs(lab.members[0])[0]["proven"], "still proven")


async def test_garbage_for_an_answer_costs_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    async def garbage(_prover: Prover, stream: FrameStream) -> None:
        await stream.receive(limit=1_000, timeout=10)
        await stream.send(b"\xff" * 50)
        await stream.end()

    monkeypatch.setattr(Prover, "serve", garbage)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee(1)
        await lab.start_provider("provider", FileEngine(weights))
        await until(lambda: proofs(lab.members[0]) and proofs(lab.members[0])[0]["failed"], "the failure")
        assert "ChallengeAnswer" in proofs(lab.members[0])[0]["reason"]


def test_the_file_engine_is_what_it_says(weights: Path) -> None:
    engine = FileEngine(weights)
    assert engine.model_id == engine.identity.manifest.model_id()
    weights.unlink()
    with pytest.raises(ModelError):
        engine.identity.check()
    assert chat().model == MODEL
