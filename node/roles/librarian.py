"""The provider's half of users' own counts: shows the blocks that a model's tokenizer is read from, and no others.

Anybody may ask, since anybody may be a user; what is given is bounded, for it costs reading.
"""

from collections.abc import Callable

import trio

from contracts.typed_data import Digest
from gossip.messages import encode
from gossip.messages.vocabulary import MAX_ASK_BYTES, BlocksAnswer, BlocksAsk, decode_blocks_ask
from gossip.streams import FrameStream
from inference.errors import ModelError
from inference.merkle import BLOCK_BYTES
from inference.model_files import ModelIdentity
from inference.models import GGUF_PATH, ModelManifest, Part, part_of
from inference.vocabulary_files import VOCABULARY_BYTES
from node.context import Node

MOST_STREAMS = 8
"""Streams open at once; more are turned away by the network layer."""

PEER_STREAMS = 2
"""Of them by one peer."""

SAY_S = 5.0
"""How soon the next question must follow."""

_READERS = 1
"""Questions whose blocks are read from the disk at once."""


class Librarian:
    """Answers :class:`~gossip.messages.vocabulary.BlocksAsk` for the models that ``identity_of`` knows."""

    def __init__(self, node: Node, identity_of: Callable[[Digest], ModelIdentity | None]) -> None:
        self._node = node
        self._identity_of = identity_of
        self._readers = trio.CapacityLimiter(_READERS)

    async def serve(self, stream: FrameStream) -> None:
        """Questions and answers until the user has enough. Raises :class:`~gossip.errors.GossipError`."""
        asked = 0
        while (data := await stream.receive(limit=MAX_ASK_BYTES, timeout=SAY_S)) is not None:
            ask = decode_blocks_ask(data)
            asked += ask.count
            if asked * BLOCK_BYTES > VOCABULARY_BYTES:
                await stream.fail("too_much", f"{asked} blocks in one stream")
                return
            if not await self._answer(stream, ask):
                return
        await stream.end()

    async def _answer(self, stream: FrameStream, ask: BlocksAsk) -> bool:
        """Whether there was an answer."""
        identity = self._identity_of(ask.model_id)
        if identity is None:
            await stream.fail("not_served", f"model 0x{ask.model_id.hex()} is not served here")
            return False
        if not ask.count:
            await stream.send(encode(BlocksAnswer(identity.manifest.encode())))
            return True
        indexes = range(ask.first, ask.first + ask.count)
        try:
            if not all(is_shown(identity.manifest, index) for index in indexes):
                await stream.fail("not_shown", f"blocks {ask.first} to {indexes[-1]} hold no tokenizer")
                return False
            blocks = await trio.to_thread.run_sync(identity.prove, indexes, limiter=self._readers)
        except ModelError as error:
            self._node.log.info("blocks not shown", model=ask.model_id.hex(), reason=str(error))
            await stream.fail("not_shown", "there are no such blocks, or the files are not those that were hashed")
            return False
        await stream.send(encode(BlocksAnswer(b"", blocks)))
        return True


def is_shown(manifest: ModelManifest, index: int) -> bool:
    """Whether a tokenizer may lie in the model's block ``index``. Raises :class:`ModelError` where there is none."""
    file, block = manifest.locate(index)
    is_early = (block + 1) * BLOCK_BYTES <= VOCABULARY_BYTES
    return is_early and (file.path == GGUF_PATH or part_of(file.path) in (Part.TOKENIZER, Part.DESCRIPTION))
