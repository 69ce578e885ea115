"""The user's vocabularies: fetched once from a provider of the model, checked against the model's id, kept on disk.

Nothing waits for them: an answer that comes before its model's vocabulary is counted as its provider counts it.
"""

import trio

from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, TransportError
from gossip.messages import encode
from gossip.messages.vocabulary import BLOCKS_MAX, MAX_ANSWER_BYTES, BlocksAnswer, BlocksAsk, decode_blocks_answer
from gossip.streams import FrameStream
from gossip.topics import VOCABULARY
from inference.errors import InferenceError, VocabularyInvalid
from inference.merkle import BLOCK_BYTES
from inference.models import GGUF_PATH, ModelFile, ModelManifest, decode_manifest
from inference.possession import check_blocks
from inference.vocabulary import Vocabulary
from inference.vocabulary_files import VOCABULARY_BYTES, Truncated, read_gguf, read_tokenizer_json
from node.context import Node, now_ms
from node.files import write_atomic
from node.roles.public import PublicState

KNOWN_MAX = 8
"""Vocabularies in memory; some take tens of MB."""

ANSWER_S = 20.0
"""How long a provider may take for a few blocks."""

AGAIN_S = 60.0
"""How long after a failure the next try may come."""

_TOKENIZER = "tokenizer.json"
_FIRST_BLOCKS = 64


class Vocabularies:
    """What this user knows of models' tokenizers."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self._folder = node.config.data_dir / "vocabularies"
        self._known: dict[Digest, Vocabulary | None] = {}
        """None for a model that has none which can be read here."""
        self._not_before: dict[Digest, float] = {}
        self._in, self._out = trio.open_memory_channel[tuple[Digest, Address]](KNOWN_MAX)

    async def run(self) -> None:
        """Fetch for ever what :meth:`find` missed, one after the other."""
        async for model_id, provider in self._out:
            if model_id in self._known:
                continue
            try:
                self._keep(model_id, await self._load(model_id, provider))
            except VocabularyInvalid as error:
                self._node.log.info("model has no vocabulary", model=model_id.hex(), reason=str(error))
                self._keep(model_id, None)
            except (GossipError, InferenceError, OSError) as error:
                self._node.log.info("vocabulary not fetched", model=model_id.hex(), reason=str(error))
                self._not_before[model_id] = trio.current_time() + AGAIN_S

    def find(self, model_id: Digest, provider: Address) -> Vocabulary | None:
        """The model's vocabulary where it is here; where it is not, ``provider`` will be asked for it."""
        if model_id not in self._known and self._not_before.get(model_id, 0.0) <= trio.current_time():
            try:
                self._in.send_nowait((model_id, provider))
                self._not_before[model_id] = trio.current_time() + AGAIN_S
            except trio.WouldBlock:
                self._node.log.debug("vocabulary waits: others are being fetched", model=model_id.hex())
        return self._known.get(model_id)

    def _keep(self, model_id: Digest, vocabulary: Vocabulary | None) -> None:
        while len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        while len(self._not_before) > 64 * KNOWN_MAX:
            del self._not_before[next(iter(self._not_before))]
        self._known[model_id] = vocabulary

    async def _load(self, model_id: Digest, provider: Address) -> Vocabulary:
        path = self._folder / f"{model_id.hex()}.bin"
        if path.exists():
            data = await trio.to_thread.run_sync(path.read_bytes)
            return await trio.to_thread.run_sync(read_vocabulary, data)
        data, vocabulary = await self._fetch(model_id, provider)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        await trio.to_thread.run_sync(write_atomic, path, data)
        self._node.log.info("vocabulary fetched", model=model_id.hex(), ids=len(vocabulary.pieces), bytes=len(data))
        return vocabulary

    async def _fetch(self, model_id: Digest, provider: Address) -> tuple[bytes, Vocabulary]:
        record = self._public.book.record(provider, now_ms())
        if record is None:
            raise TransportError(f"no node record of provider 0x{provider.hex()}")
        if not self._node.network.is_connected(record.payload.peer_id):
            await self._node.network.connect(record.payload.multiaddrs, timeout=5)
        stream = await self._node.network.open_stream(record.payload.peer_id, VOCABULARY, timeout=5)
        try:
            answer = await self._ask(stream, BlocksAsk(model_id, 0, 0))
            manifest = decode_manifest(answer.manifest, model_id)
            file, start = _find_file(manifest)
            return await self._read(stream, model_id, manifest, file, start)
        finally:
            await stream.aclose()

    async def _read(
        self, stream: FrameStream, model_id: Digest, manifest: ModelManifest, file: ModelFile, start: int
    ) -> tuple[bytes, Vocabulary]:
        """Blocks until they hold a vocabulary: all of a tokenizer's file, of a GGUF as much as it takes."""
        data, most = bytearray(), min(file.blocks, VOCABULARY_BYTES // BLOCK_BYTES)
        goal = min(most, _FIRST_BLOCKS) if file.path == GGUF_PATH else most
        held = 0
        while True:
            while held < goal:
                indexes = range(start + held, start + min(goal, held + BLOCKS_MAX))
                answer = await self._ask(stream, BlocksAsk(model_id, indexes[0], len(indexes)))
                await trio.to_thread.run_sync(check_blocks, manifest, indexes, answer.blocks)
                data += b"".join(block.data for block in answer.blocks)
                held += len(indexes)
            try:
                whole = bytes(data)
                return whole, await trio.to_thread.run_sync(read_vocabulary, whole)
            except Truncated:
                if held == most:
                    raise VocabularyInvalid(f"no vocabulary in the first {len(data)} bytes of {file.path}") from None
            goal = min(most, 2 * goal)

    async def _ask(self, stream: FrameStream, ask: BlocksAsk) -> BlocksAnswer:
        await stream.send(encode(ask))
        data = await stream.receive(limit=MAX_ANSWER_BYTES, timeout=ANSWER_S)
        return decode_blocks_answer(data or b"")


def _find_file(manifest: ModelManifest) -> tuple[ModelFile, int]:
    """The file that holds the vocabulary, and its first block. Raises :class:`VocabularyInvalid`."""
    start = 0
    for file in manifest.files:
        if file.path in (GGUF_PATH, _TOKENIZER):
            if file.path == _TOKENIZER and file.size > VOCABULARY_BYTES:
                raise VocabularyInvalid(f"{file.path} has {file.size} bytes")
            return file, start
        start += file.blocks
    raise VocabularyInvalid(f"no tokenizer among {', '.join(file.path for file in manifest.files)[:200]}")


def read_vocabulary(data: bytes) -> Vocabulary:
    """A vocabulary from what was fetched or kept. Raises :class:`VocabularyInvalid`, and ``Truncated`` of a GGUF."""
    return read_gguf(data) if data.startswith(b"GGUF") else read_tokenizer_json(data)
