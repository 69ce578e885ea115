"""Users count T themselves: a model's vocabulary from its provider, true answers, and one that cuts words into letters.

Also what else a query may ask for, through whole nodes: tools, logarithms and padded frames.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.typed_data import Digest
from gossip.errors import RemoteError
from gossip.messages import encode
from gossip.messages.session import TokenDetail, ToolDelta
from gossip.messages.vocabulary import MAX_ANSWER_BYTES, BlocksAsk, decode_blocks_answer
from gossip.topics import VOCABULARY
from inference.engine import ChatMessage, Feature, Generation, Piece
from inference.merkle import BLOCK_BYTES
from inference.model_files import identify
from inference.models import decode_manifest
from inference.possession import check_blocks
from inference.synthetic import SyntheticEngine
from inference.tools import Tool, ToolUse
from inference.vocabulary_files import read_gguf
from node.api.backend import BackendError
from node.roles import librarian, vocabularies
from tests.inference.gguf_header import make_gguf
from tests.inference.test_vocabulary import FIELDS, ids
from tests.node.roles.fakes import WEI
from tests.node.roles.harness import PRICE, Lab, Running, ask, chat, open_lab, until

WORDS = 12
MOST_BYTES = 1 << 20


class TheEngine(SyntheticEngine):
    """Says `` the`` twelve times, with the ids of a real file's vocabulary, or of its letters, or of another word."""

    def __init__(self, says: tuple[int, ...] = ids("Ġthe")) -> None:
        super().__init__("the", slots=4)
        self.says = says

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:  # noqa: ARG002  # the answer is always the same
        async def pieces() -> AsyncGenerator[Piece]:
            for _ in range(WORDS):
                yield Piece(" the", self.says)
            yield Piece("", (), "stop")

        async with aclosing(pieces()) as said:
            yield said


@asynccontextmanager
async def _open(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: SyntheticEngine
) -> AsyncIterator[tuple[Lab, Running, Running]]:
    async with open_lab(folder, monkeypatch, models=[engine.model_id]) as lab:
        await lab.start_committee()
        provider = await lab.start_provider("provider", engine)
        user = await lab.start_user("user", 5_000 * WEI)
        await lab.market(providers=1)
        yield lab, provider, user


async def test_a_user_counts_t_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "the.gguf"
    # what follows the header is more than one would fetch
    for module in (librarian, vocabularies):
        monkeypatch.setattr(module, "VOCABULARY_BYTES", MOST_BYTES)
    path.write_bytes(make_gguf(FIELDS).ljust(2 * MOST_BYTES, b"\0"))
    engine = TheEngine()
    engine.identity = await identify(path, "synthetic", "1")  # type: ignore[assignment]  # a file instead of a description
    engine._model_id = engine.identity.manifest.model_id()
    request = chat(model=engine.name)
    async with _open(tmp_path, monkeypatch, engine) as (_, provider, user):
        answer, text = await ask(user, request)
        assert (text, answer.tokens, answer.outcome.recounted) == (" the" * WORDS, WORDS, False)
        file = user.node.config.data_dir / "vocabularies" / f"{engine.model_id.hex()}.bin"
        agent = user.parts.agent
        assert agent is not None
        await until(lambda: engine.model_id in agent._vocabularies._known, "the vocabulary")
        assert read_gguf(file.read_bytes()).pieces == read_gguf(make_gguf(FIELDS)).pieces
        assert file.stat().st_size <= MOST_BYTES

        answer, _ = await ask(user, request)
        assert (answer.tokens, answer.outcome.recounted) == (WORDS, True)
        # a provider that cuts the same text into letters is believed what the tokenizer makes of it
        engine.says = ids("Ġ", "t", "h", "e")
        answer, text = await ask(user, request)
        assert (text, answer.tokens, answer.outcome.recounted) == (" the" * WORDS, WORDS, True)
        assert answer.outcome.receipt is not None
        assert answer.outcome.receipt.receipt.tokens == 4 * WORDS
        await until(lambda: provider.parts.public.ledger.total_credited == 3 * WORDS * PRICE, "the credit")
        # and one whose ids say something else has failed
        engine.says = ids("a")
        with pytest.raises(BackendError, match="other text"):
            await ask(user, request)
        assert user.parts.sessions.all()[-1]["passed"] is False

        await _asks_what_is_not_shown(user, provider, engine)


async def _asks_what_is_not_shown(user: Running, provider: Running, engine: TheEngine) -> None:
    """Blocks with a tokenizer in them and no others, and no more of them than a tokenizer has."""
    last = MOST_BYTES // BLOCK_BYTES - 1
    for ask_for, code in (
        ([BlocksAsk(engine.model_id, last + 1, 1)], "not_shown"),
        ([BlocksAsk(engine.model_id, 2 * last + 9, 1)], "not_shown"),
        ([BlocksAsk(engine.model_id, 0, 16)] * (last // 16 + 2), "too_much"),
        ([BlocksAsk(Digest(b"\x01" * 32), 0, 1)], "not_served"),
    ):
        stream = await user.node.network.open_stream(provider.node.network.peer_id, VOCABULARY, timeout=5)
        for one in ask_for[:-1]:
            await stream.send(encode(one))
            assert await stream.receive(limit=MAX_ANSWER_BYTES, timeout=20)
        await stream.send(encode(ask_for[-1]))
        with pytest.raises(RemoteError) as refused:
            await stream.receive(limit=MAX_ANSWER_BYTES, timeout=20)
        assert refused.value.code == code
        await stream.aclose()
    stream = await user.node.network.open_stream(provider.node.network.peer_id, VOCABULARY, timeout=5)
    await stream.send(encode(BlocksAsk(engine.model_id, 0, 0)))
    data = await stream.receive(limit=MAX_ANSWER_BYTES, timeout=5)
    manifest = decode_manifest(decode_blocks_answer(data or b"").manifest, engine.model_id)
    await stream.send(encode(BlocksAsk(engine.model_id, last, 1)))
    data = await stream.receive(limit=MAX_ANSWER_BYTES, timeout=5)
    check_blocks(manifest, [last], decode_blocks_answer(data or b"").blocks)
    await stream.aclose()


async def test_tools_logarithms_and_padding_through_whole_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SyntheticEngine("synthetic", answer_tokens=4)
    async with _open(tmp_path, monkeypatch, engine) as (_, _, user):
        agent = user.parts.agent
        assert agent is not None
        use = ToolUse((Tool("look", "Looks.", '{"type":"object"}'),), "required")
        async with agent.chat(replace(chat(), tools=use)) as answer:
            calls = [call async for piece in answer.pieces() for call in piece.calls]
        assert calls == [ToolDelta(0, "call_0", "look"), ToolDelta(0, arguments="{}")]
        assert (answer.finish, answer.tokens) == ("tool_calls", 1)
        turn = ChatMessage("tool", "a tree", tool_call_id="call_0")
        _, text = await ask(user, replace(chat(), messages=(*chat().messages, turn), tools=replace(use, choice="auto")))
        assert text == "t0 t1 t2 t3 "
        async with agent.chat(replace(chat(), logprobs=0)) as answer:
            details = [detail async for piece in answer.pieces() for detail in piece.details]
        assert details == [TokenDetail(f"t{i} ".encode(), 0) for i in range(4)]

        object.__setattr__(
            user.node, "config", replace(user.node.config, user=replace(user.node.config.user, padded=True))
        )
        answer, text = await ask(user)
        assert (text, answer.tokens, answer.finish) == ("t0 t1 t2 t3 ", 4, "stop")

        # An engine without them is named, and its ticket is not used up.
        async def none(_: SyntheticEngine) -> frozenset[Feature]:
            return frozenset()

        monkeypatch.setattr(SyntheticEngine, "features", none)
        with pytest.raises(BackendError) as refused:
            await ask(user, replace(chat(), tools=use))
        assert (refused.value.status, refused.value.code, refused.value.param) == (
            400,
            "unsupported_parameter",
            "tools",
        )
        assert user.parts.sessions.all()[-1]["passed"] is True, "it is nobody's fault"
