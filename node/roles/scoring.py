"""A provider's second opinions (S8): scores the sessions of others that the beacon has drawn it for, signs, files."""

import trio

from consensus.market.opinions import Pick, turns
from contracts.typed_data import Address, Digest
from gossip.doorway import DoorLimits
from gossip.errors import GossipError
from gossip.messages import Signed, encode, sign
from gossip.messages.opinions import MAX_OPEN_BYTES, UNREAD_GAP, OpenTranscript, Opined, Opinion, decode_open
from gossip.messages.router import OpinionFiling
from gossip.messages.session import MAX_QUERY_BYTES
from gossip.streams import FrameStream
from gossip.topics import OPINION
from inference.audit import (
    AuditLimits,
    TokenScore,
    Verdict,
    judge_answer,
    judge_scoring,
    unpack_scores,
)
from inference.calibration import find_limits
from inference.engine import Engine, Scorer
from inference.errors import AuditInvalid, EngineError, ModelError, ScoresMissing, SessionError
from inference.metering import Transcript
from inference.session.query import BYTES_PER_TOKEN_MAX, QueryBody, decode_body
from node.context import Node
from node.roles.access import AccessRefused, ask_router
from node.roles.public import PublicState

SCORING_S = 100.0
"""How long one transcript may take; whoever opened it waits a little longer."""

STREAMS = 8
"""Transcripts that wait for the one that is being scored, at most."""

KEPT = 4_096
"""Verdicts remembered for who asks again."""

_THOUSAND = 1_000


class Filer:
    """Files verdicts with committee members, one after the other, until a batch has them."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self._waiting: dict[tuple[Digest, Address], Signed[Opinion]] = {}
        self._turn = 0
        self._hurry = trio.Event()

    def file(self, opinion: Signed[Opinion]) -> None:
        """Have a verdict filed."""
        self._waiting[opinion.payload.ticket_id, opinion.payload.scorer] = opinion
        while len(self._waiting) > KEPT:
            del self._waiting[next(iter(self._waiting))]
        self._hurry.set()

    async def run(self) -> None:
        """File for ever."""
        slot = self._node.slot()
        while True:
            for place, opinion in tuple(self._waiting.items()):
                if self._is_told(opinion.payload) or not await self._file(opinion):
                    self._waiting.pop(place, None)
            if not self._waiting:
                self._hurry = trio.Event()
                await self._hurry.wait()
            else:
                slot = await self._node.next_slot(slot)

    def _is_told(self, opinion: Opinion) -> bool:
        """Whether the ledger has it, or has no use for it."""
        pick = self._public.ledger.audits.pick(opinion.ticket_id)
        return pick is None or bool(pick.decision) or any(one.scorer == opinion.scorer for one in pick.given)

    async def _file(self, opinion: Signed[Opinion]) -> bool:
        """Whether it may still get into a batch; whoever was asked last is not asked first again."""
        members = self._public.committee.members
        self._turn += 1
        router = members[(self._node.address[0] + self._turn) % len(members)].address
        try:
            await ask_router(self._node, self._public, router, OpinionFiling(opinion), timeout=5)
        except AccessRefused as error:
            self._node.log.info("opinion refused", ticket=opinion.payload.ticket_id.hex(), code=error.code)
            return False
        except GossipError as error:
            self._node.log.info("opinion waits", router=router.hex(), reason=str(error))
        return True


class Scoring:
    """Answers whoever opens a transcript that this provider was drawn for."""

    def __init__(self, node: Node, public: PublicState, engines: "dict[Digest, Engine]", filer: Filer) -> None:
        self._node = node
        self._public = public
        self._engines = engines
        self._filer = filer
        self._said: dict[Digest, Signed[Opinion]] = {}
        self._one = trio.Lock()

    def serve(self) -> None:
        """Be open for transcripts, on a network that has second opinions."""
        if self._node.terms.params.audit_slots:
            self._node.network.serve(OPINION, self._serve, max_concurrent=STREAMS, max_per_peer=2, door=DoorLimits())

    async def _serve(self, stream: FrameStream) -> None:
        data = await stream.receive(limit=MAX_OPEN_BYTES, timeout=30)
        if data is None:
            return
        opened = decode_open(data)
        fault = self._fault(opened)
        if fault is not None:
            await stream.fail(fault, f"0x{opened.ticket_id.hex()}")
            return
        async with self._one:
            opinion = self._said.get(opened.ticket_id) or await self._opine(opened, stream)
        if opinion is not None:
            await stream.send(encode(Opined(opinion)))
            await stream.end()

    def _fault(self, opened: OpenTranscript) -> str | None:
        """Why this provider has no business with a transcript."""
        pick = self._public.ledger.audits.pick(opened.ticket_id)
        if pick is None:
            return "not_picked"
        order = [offer.provider for offer in pick.scorers]
        if self._node.address not in order:
            return "not_drawn"
        if order.index(self._node.address) >= turns(pick, self._node.slot(), self._node.terms.params):
            return "not_its_turn"
        transcript = Transcript(opened.body)
        if len(opened.token_ids) < pick.tokens or max(opened.token_ids) >= 1 << 32 or min(opened.token_ids) < 0:
            return "another_transcript"
        transcript.add(opened.token_ids)
        return None if transcript.digest() == pick.transcript else "another_transcript"

    async def _opine(self, opened: OpenTranscript, stream: FrameStream) -> Signed[Opinion] | None:
        pick = self._public.ledger.audits.pick(opened.ticket_id)
        engine = None if pick is None else self._engines.get(pick.model_id)
        if pick is None or engine is None or not isinstance(engine, Scorer):
            await stream.fail("cannot_score", "this provider does not score the model now")
            return None
        try:
            limits = find_limits(self._node.config.data_dir / "models", pick.model_id)
            with trio.fail_after(SCORING_S):
                verdict = await _judge(opened, pick, engine, limits)
        except ScoresMissing as error:
            self._node.log.warning("transcript not readable", ticket=opened.ticket_id.hex(), reason=str(error))
            verdict = None
        except (EngineError, ModelError, SessionError, trio.TooSlowError) as error:
            self._node.log.warning("second opinion failed", ticket=opened.ticket_id.hex(), reason=str(error))
            await stream.fail("cannot_score", "the engine could not score it now")
            return None
        opinion = Opinion(
            ticket_id=opened.ticket_id,
            transcript=pick.transcript,
            scorer=self._node.address,
            tokens=pick.tokens,
            mean_gap=UNREAD_GAP if verdict is None else round(_THOUSAND * verdict.mean_gap),
            max_gap=UNREAD_GAP if verdict is None else round(_THOUSAND * verdict.max_gap),
            passed=verdict is not None and verdict.passed is True,
        )
        signed = sign(opinion, self._node.key, self._node.terms.domain)
        self._said[opened.ticket_id] = signed
        while len(self._said) > KEPT:
            del self._said[next(iter(self._said))]
        self._filer.file(signed)
        return signed


async def _judge(opened: OpenTranscript, pick: Pick, engine: Scorer, limits: AuditLimits) -> Verdict:
    """The verdict on the T that were credited.

    Raises ScoresMissing where the engine fails at this transcript; EngineError, and SessionError for a query that this
    node can't read: a later one may. Of those two it says nothing, for anybody can make a query too long or unreadable,
    and a cheat would.
    """
    try:
        body = decode_body(opened.body, MAX_QUERY_BYTES // BYTES_PER_TOKEN_MAX)
        said = opened.token_ids[: pick.tokens]
        if body.score is None:
            return judge_answer(await _scores(engine, body, said), body.temperature, limits)
        return await _judge_opinion(body, said, engine, limits)
    except AuditInvalid:
        return Verdict(False, pick.tokens, 0.0, 0.0)


async def _judge_opinion(body: QueryBody, said: tuple[int, ...], engine: Scorer, limits: AuditLimits) -> Verdict:
    """The session was itself a user's second opinion: its T are packed scores."""
    claimed = unpack_scores(said, len(said))
    if body.score is None or len(said) > len(body.score):
        raise AuditInvalid(f"{len(said)} scores for fewer T")
    return judge_scoring(claimed, await _scores(engine, body, body.score[: len(said)]), limits)


async def _scores(engine: Scorer, body: QueryBody, token_ids: tuple[int, ...]) -> list[TokenScore]:
    async with engine.score(body.messages, token_ids, body.tools) as scores:
        return [score async for score in scores]
