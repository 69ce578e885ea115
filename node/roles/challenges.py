"""The router's half of model challenges (S42): ask a provider for blocks of its model, at join and now and then.

A provider that is silent, late or wrong is not matched by this router until it answers. Nothing of a prompt or an
answer is in a challenge.
"""

from typing import Any

import trio

from consensus.market.book import MAX_BIDS
from consensus.market.proving import ProofKey, Proving, ProvingLog
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MessageError, TransportError
from gossip.messages import encode, sign
from gossip.messages.challenge import MAX_ANSWER_BYTES, ChallengeAnswer, ModelChallenge, decode_challenge_answer
from gossip.messages.records import NodeRecord
from gossip.patience import within
from gossip.streams import FrameStream
from gossip.topics import CHALLENGE
from inference.errors import ModelError, ProofInvalid
from inference.models import ModelManifest, decode_manifest
from inference.possession import challenge_seed, check_blocks, commit_blocks, draw_blocks
from node.context import Node, now_ms
from node.roles.public import PublicState

LOOK_EVERY_S = 0.2
"""How soon a new bid's model is challenged: until then nobody is matched with it."""

CONCURRENT = 16
"""Challenges under way at once."""

_FAULT_POINTS = 10


class Challenger:
    """Keeps :class:`~consensus.market.proving.ProvingLog` up to date."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self._log = ProvingLog(node.address, node.terms.params.challenge_slots)
        self._limit = trio.CapacityLimiter(CONCURRENT)
        self._known: dict[Digest, tuple[str, int]] = {}
        """Engine and bytes of models that were shown, for people."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Challenge for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                slot, beacon = self._node.slot(), self._public.ledger.beacon
                for key in self._log.due(self._offered(), slot, beacon, now_ms()):
                    self._log.asked(key, slot)
                    nursery.start_soon(self._challenge, key, slot, beacon)
                await trio.sleep(LOOK_EVERY_S)

    def is_proven(self, provider: Address, model_id: Digest) -> bool:
        """Whether the provider may be matched for the model: its last challenge was answered."""
        return self._log.is_proven(provider, model_id)

    @property
    def changes(self) -> int:
        """How often :meth:`is_proven` has come to say something else of anybody."""
        return self._log.changes

    def states(self) -> list[dict[str, Any]]:
        """Every model on offer and how its provider stands, for the operator."""
        return [self._shown(key) for key in sorted(self._offered())]

    def _offered(self) -> set[ProofKey]:
        """Live bids whose provider has a record and a signed model proof; nobody answers who isn't a member yet."""
        if self._node.address not in self._public.recent_members():
            return set()
        return set(self._public.book.offers(now_ms()))

    def _shown(self, key: ProofKey) -> dict[str, Any]:
        state, (engine, size) = self._log.state(*key), self._known.get(key[1], (None, None))
        return {
            "provider": key[0],
            "model_id": key[1],
            "engine": engine,
            "bytes": size,
            "proven": state.proven_ms is not None,
            "since_ms": state.failed_ms if state.proven_ms is None else state.proven_ms,
            "reason": state.reason,
            "answered": state.answered,
            "failed": state.failed,
        }

    async def _challenge(self, key: ProofKey, slot: int, beacon: Digest) -> None:
        """One challenge and what comes of it."""
        provider, model_id = key
        try:
            async with self._limit:
                manifest = await self._ask(key, slot, beacon)
        except (GossipError, ModelError) as error:
            before = self._log.lost(key, str(error)[:256], now_ms())
            self._tell_failure(key, before, str(error))
            return
        before = self._log.passed(key, now_ms())
        self._known[model_id] = f"{manifest.engine} {manifest.build}", manifest.size
        while len(self._known) > MAX_BIDS:
            del self._known[next(iter(self._known))]
        if before.proven_ms is None:
            self._node.log.info("model proven", provider=provider.hex(), model=model_id.hex(), engine=manifest.engine)

    def _tell_failure(self, key: ProofKey, before: Proving, reason: str) -> None:
        tell = self._node.log.warning if before.in_a_row == 0 else self._node.log.info
        tell("model not proven", provider=key[0].hex(), model=key[1].hex(), reason=reason, in_a_row=before.in_a_row + 1)

    async def _ask(self, key: ProofKey, slot: int, beacon: Digest) -> ModelManifest:
        """The manifest of a model whose blocks the provider showed. Raises GossipError or ModelError."""
        provider, model_id = key
        record = self._public.book.record(provider, now_ms())
        if record is None:
            raise TransportError(f"no node record of provider 0x{provider.hex()}")
        asked = ModelChallenge(self._node.address, provider, model_id, slot, beacon, now_ms())
        challenge = sign(asked, self._node.key, self._node.terms.domain)
        deadline_s = self._node.terms.params.challenge_ms / 1_000
        try:
            answer = await within(deadline_s, self._exchange, record.payload, encode(challenge), deadline_s)
        except trio.TooSlowError:
            raise TransportError(f"no answer within {deadline_s:g} s") from None
        try:
            return self._check(challenge.id(self._node.terms.domain), asked, decode_challenge_answer(answer))
        except (MessageError, ModelError) as error:
            self._node.network.penalise(record.payload.peer_id, _FAULT_POINTS, str(error))
            raise

    async def _exchange(self, record: NodeRecord, challenge: bytes, deadline_s: float) -> bytes:
        stream = await self._open(record, deadline_s)
        try:
            await stream.send(challenge, timeout=deadline_s)
            answer = await stream.receive(limit=MAX_ANSWER_BYTES, timeout=deadline_s)
            await stream.end()
            return answer or b""
        finally:
            await stream.aclose()

    def _check(self, challenge_id: Digest, asked: ModelChallenge, answer: ChallengeAnswer) -> ModelManifest:
        """Raises :class:`~gossip.errors.MessageError` or :class:`~inference.errors.ModelError`."""
        signed = answer.answer.payload
        answer.answer.signer(self._node.terms.domain)
        if (signed.challenge_id, signed.provider, signed.model_id) != (challenge_id, asked.provider, asked.model_id):
            raise ProofInvalid("the answer is to another challenge")
        if signed.blocks != commit_blocks(answer.blocks):
            raise ProofInvalid("the answer's signature is over other blocks")
        manifest = decode_manifest(answer.manifest, asked.model_id)
        seed = challenge_seed(asked.beacon, asked.slot, asked.router, asked.provider, asked.model_id)
        check_blocks(manifest, draw_blocks(seed, manifest.blocks), answer.blocks)
        return manifest

    async def _open(self, record: NodeRecord, timeout: float) -> FrameStream:  # passed on
        if not self._node.network.is_connected(record.peer_id):
            await self._node.network.connect(record.multiaddrs, timeout=timeout)
        return await self._node.network.open_stream(record.peer_id, CHALLENGE, timeout=timeout)
