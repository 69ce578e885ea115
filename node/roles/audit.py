"""The user's audits (S8, S46): now and then another provider of the same model scores an answer before its report goes.

Only greedy answers are audited: of those every T is the model's best but for rounding. The scorer is reached like any
provider, with an RFC, a ticket and a direct stream of its own; no router sees what was asked. The scorer sees the
prompt, which is why the share is 0 unless a user chooses otherwise. An answer fails when every scorer that was asked,
two where there are as many, finds that it is not the model's.
"""

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio

from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError
from gossip.messages import Signed, encode
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned, Report
from inference.audit import SCORED_MIN, AuditLimits, Verdict, judge, unpack_scores
from inference.calibration import find_limits
from inference.engine import ChatMessage, Sampling
from inference.errors import InferenceError
from inference.session.client import ClientSession, open_session
from inference.session.query import QueryBody
from node.api.backend import BackendError, ChatRequest, ModelCard
from node.context import Node, now_ms
from node.files import write_atomic

if TYPE_CHECKING:
    from node.roles.asking import Opened

OPINIONS = 2
"""Scorers that must disagree with an answer, where there are as many."""

TRIES = 5
"""Matches that are asked for; some lead to a provider that was heard already."""

WAITING = 64
"""Answers that wait for an audit at once; others go without."""


@dataclass(frozen=True, slots=True)
class Audited:
    """An answer that waits for a second opinion, and its report with it."""

    rfc_id: Digest
    card: ModelCard
    messages: tuple[ChatMessage, ...]
    ticket: Signed[Ticket]
    body: bytes
    token_ids: tuple[int, ...]
    receipt: Cosigned
    report: Report
    session_key: Key


@dataclass(frozen=True, slots=True)
class Opinion:
    """A scorer's word, with what it signed."""

    provider: Address
    ticket: Signed[Ticket]
    body: bytes
    scores: tuple[int, ...]
    """Packed; the receipt's transcript commits to them."""
    receipt: Cosigned
    verdict: Verdict


Open = Callable[[ChatRequest, ModelCard], Awaitable["Opened"]]
"""Match and dial, as for a client's request. Raises BackendError."""


class Finish(Protocol):
    """Notes a session's outcome and queues its report."""

    def __call__(
        self,
        rfc_id: Digest,
        opened: "Opened",
        session: ClientSession | None,
        *,
        failed: bool,
        is_unused: bool = False,
    ) -> None:
        """``is_unused``: the ticket was not used, which is nobody's fault."""


class Auditor:
    """Draws answers, holds their reports back, and files them as ``settle`` is told."""

    def __init__(
        self, node: Node, open_: Open, finish: Finish, settle: Callable[[Audited, bool, dict[str, Any]], None]
    ) -> None:
        self._node = node
        self._open = open_
        self._finish = finish
        self._settle = settle
        self._share = node.config.user.audit_share
        self._random = random.SystemRandom()
        self._in, self._out = trio.open_memory_channel[Audited](WAITING)

    async def run(self) -> None:
        """Audit for ever, one answer after the other."""
        async for audited in self._out:
            await self._audit(audited)

    def take(self, answer: Audited, sampling: Sampling) -> bool:
        """Whether an answer is drawn: then its report is filed after the audit."""
        if sampling.temperature > 0 or len(answer.token_ids) < SCORED_MIN or self._random.random() >= self._share:
            return False
        try:
            self._in.send_nowait(answer)
        except trio.WouldBlock:
            self._node.log.info("answer goes without an audit: too many wait")
            return False
        return True

    async def _audit(self, audited: Audited) -> None:
        params = self._node.terms.params
        opinions: list[Opinion] = []
        with trio.move_on_after(params.report_deadline_slots * params.slot_ms / 2_000):
            try:
                await self._collect(audited, opinions)
            except (BackendError, GossipError, InferenceError) as error:
                self._node.log.info("audit ends early", rfc=audited.rfc_id.hex(), reason=str(error))
        has_failed = bool(opinions) and all(opinion.verdict.passed is False for opinion in opinions)
        shown = {"verdict": _word(opinions, has_failed), "opinions": [_shown(opinion) for opinion in opinions]}
        if has_failed:
            shown["evidence"] = str(await self._keep_evidence(audited, opinions))
            self._node.log.warning("answer failed its audit", rfc=audited.rfc_id.hex(), **shown)
        self._settle(audited, has_failed, shown)

    async def _collect(self, audited: Audited, opinions: list[Opinion]) -> None:
        """Ask until one agrees, or enough do not."""
        limits = find_limits(self._node.config.data_dir / "models", audited.card.model_id)
        for _ in range(TRIES):
            heard = frozenset({audited.ticket.payload.bid.payload.provider, *(one.provider for one in opinions)})
            opinion = await self._ask(audited, heard, limits)
            if opinion is None:
                continue
            opinions.append(opinion)
            if opinion.verdict.passed is not False or len(opinions) == OPINIONS:
                return

    async def _ask(self, audited: Audited, heard: frozenset[Address], limits: AuditLimits) -> Opinion | None:
        """A scorer that was not heard yet; None where the draw fell on one that was.

        Raises BackendError, GossipError or InferenceError.
        """
        request = ChatRequest(audited.card.name, audited.messages, len(audited.token_ids), Sampling())
        opened = await self._open(request, audited.card)
        ticket, terms = opened.matched.ticket, self._node.terms
        rfc_id, provider = opened.rfc.id(terms.domain), ticket.payload.bid.payload.provider
        if provider in heard:
            await opened.stream.aclose()
            self._finish(rfc_id, opened, None, failed=False, is_unused=True)
            return None
        body = QueryBody(messages=audited.messages, score=audited.token_ids)
        session: ClientSession | None = None
        failed = True
        try:
            async with open_session(opened.stream, ticket, body, opened.wallet.key, terms, now_ms) as session:
                async for _ in session.pieces():
                    pass  # the scores are in the session once it has ended
            failed = False
        finally:
            self._finish(rfc_id, opened, session, failed=failed)
        receipt = session.outcome.receipt
        if receipt is None:
            return None
        verdict = judge(unpack_scores(session.token_ids, len(audited.token_ids)), limits)
        return Opinion(provider, ticket, session.body, session.token_ids, receipt, verdict)

    async def _keep_evidence(self, audited: Audited, opinions: list[Opinion]) -> Any:
        """All that was signed, for whoever the user shows it to (0600: the prompt is in it)."""
        ticket_id = audited.ticket.id(self._node.terms.domain)
        path = self._node.config.data_dir / "audits" / f"{ticket_id.hex()}.json"
        document = {
            "answer": _evidence(audited.ticket, audited.receipt, audited.body, audited.token_ids),
            "opinions": [_evidence(one.ticket, one.receipt, one.body, one.scores) | _shown(one) for one in opinions],
        }
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await trio.to_thread.run_sync(write_atomic, path, json.dumps(document, indent=1).encode())
        return path


def _evidence(ticket: Signed[Ticket], receipt: Cosigned, body: bytes, ids: tuple[int, ...]) -> dict[str, Any]:
    return {
        "ticket": "0x" + encode(ticket).hex(),
        "receipt": "0x" + encode(receipt).hex(),
        "body": body.decode(),
        "token_ids": ids,
    }


def _shown(opinion: Opinion) -> dict[str, Any]:
    verdict = opinion.verdict
    return {
        "provider": "0x" + opinion.provider.hex(),
        "passed": verdict.passed,
        "tokens": verdict.tokens,
        "mean_gap": round(verdict.mean_gap, 4),
        "max_gap": round(verdict.max_gap, 3),
    }


def _word(opinions: list[Opinion], has_failed: bool) -> str:
    if has_failed:
        return "failed"
    return "passed" if any(opinion.verdict.passed for opinion in opinions) else "none"
