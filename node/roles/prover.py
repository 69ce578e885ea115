"""The provider's half of model challenges (S42): show committee members the blocks that they ask for.

Answers only members, only about models on sale, and each member about each model once in a while.
"""

from collections import Counter
from collections.abc import Callable

import trio

from contracts.typed_data import Address, Digest
from gossip.messages import Signed, encode, sign
from gossip.messages.challenge import (
    ChallengeAnswer,
    ModelAnswer,
    ModelChallenge,
    decode_challenge,
)
from gossip.streams import FrameStream
from inference.errors import ModelError
from inference.model_files import ModelIdentity
from inference.possession import challenge_seed, commit_blocks, draw_blocks
from node.context import Node, now_ms
from node.roles.public import PublicState

MOST_STREAMS = 256
"""Streams open at once; more are turned away by the network layer."""

PEER_STREAMS = 16
"""Of them by one peer."""

SAY_S = 3.0
"""How soon a challenge must follow the stream that it comes on."""

CLOCK_MS = 60_000
"""How far a router's clock may be off ours: an older challenge is a replayed one."""

MOST_IN_SLOT = 4
"""Challenges of one router for one model that are answered in a slot: the due one, and tries after a failure."""

CHALLENGE_BYTES = 768

_READERS = 2
"""Challenges whose blocks are read from the disk at once."""


class Prover:
    """Answers challenges for the models that ``identity_of`` knows."""

    def __init__(self, node: Node, public: PublicState, identity_of: Callable[[Digest], ModelIdentity | None]) -> None:
        self._public = public
        self._node = node
        self._identity_of = identity_of
        self._readers = trio.CapacityLimiter(_READERS)
        self._answered: Counter[tuple[Address, Digest]] = Counter()
        """Challenges answered in the present slot, by router and model."""
        self._slot = -1

    async def serve(self, stream: FrameStream) -> None:
        """One challenge and its answer. Raises :class:`~gossip.errors.GossipError`; what it raises is scored."""
        data = await stream.receive(limit=CHALLENGE_BYTES, timeout=SAY_S)
        if data is None:
            return
        challenge = decode_challenge(data)
        router = challenge.signer(self._node.terms.domain)
        refusal = self._refuse(challenge.payload)
        if refusal is not None:
            self._node.log.info("challenge refused", router=router.hex(), code=refusal[0], reason=refusal[1])
            await stream.fail(*refusal)
            return
        identity = self._identity_of(challenge.payload.model_id)
        if identity is None:
            await stream.fail("not_served", f"model 0x{challenge.payload.model_id.hex()} is not served here")
            return
        self._answered[router, challenge.payload.model_id] += 1
        try:
            answer = await trio.to_thread.run_sync(self._answer, challenge, identity, limiter=self._readers)
        except ModelError as error:
            self._node.log.error("model cannot be proven", model=challenge.payload.model_id.hex(), reason=str(error))
            # the path of a file is nobody's business
            await stream.fail("model_changed", "the model's files are not those that were hashed")
            return
        await stream.send(encode(answer))
        await stream.end()

    def _refuse(self, challenge: ModelChallenge) -> tuple[str, str] | None:
        """Why a well-signed challenge gets no answer; None where it does."""
        if challenge.router not in self._public.recent_members():
            return "not_a_router", f"0x{challenge.router.hex()} is not a committee member"
        if challenge.provider != self._node.address:
            return "wrong_provider", f"the challenge is for provider 0x{challenge.provider.hex()}"
        now = now_ms()
        if abs(now - challenge.sent_ms) > CLOCK_MS:
            return "stale", f"the challenge was sent {now - challenge.sent_ms} ms ago by its own clock"
        if (slot := self._node.slot()) != self._slot:
            self._slot = slot
            self._answered.clear()
        if self._answered[challenge.router, challenge.model_id] >= MOST_IN_SLOT:
            return "too_often", f"{MOST_IN_SLOT} challenges a model in a slot"
        return None

    def _answer(self, challenge: Signed[ModelChallenge], identity: ModelIdentity) -> ChallengeAnswer:
        asked, manifest, domain = challenge.payload, identity.manifest, self._node.terms.domain
        seed = challenge_seed(asked.beacon, asked.slot, asked.router, asked.provider, asked.model_id)
        blocks = identity.prove(draw_blocks(seed, manifest.blocks))
        answer = ModelAnswer(challenge.id(domain), self._node.address, asked.model_id, commit_blocks(blocks))
        return ChallengeAnswer(sign(answer, self._node.key, domain), manifest.encode(), blocks)
