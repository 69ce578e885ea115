"""The user agent: turns a chat request into pass, RFC, session and report, and hands the answer to the gateway."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any

import msgspec
import trio

from consensus.market.listing import is_payable
from consensus.market.speed import compute_mean
from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.errors import GossipError
from gossip.messages import Signed, sign
from gossip.messages.market import Ticket
from gossip.messages.router import Matched, ReportFiling
from gossip.messages.session import Cosigned, Report
from inference.errors import SessionError
from inference.session.client import ClientSession, Recount, SessionOutcome, open_session
from inference.session.query import SEED_LIMIT, QueryBody
from inference.session.stream import Code
from node.api.backend import Allowance, BackendError, ChatRequest, ModelCard
from node.context import Node, now_ms
from node.roles import refusals
from node.roles.access import Access, Wallet
from node.roles.answer import Leg, UserAnswer, broke_off
from node.roles.asking import Asking, Opened
from node.roles.audit import Audited, Auditor
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState
from node.roles.reporting import Reporting
from node.roles.scoring import Filer
from node.roles.sessions import SessionLog
from node.roles.transcripts import Opener, Transcript, Transcripts
from node.roles.vocabularies import Vocabularies
from node.supervision import keep_running

PROVIDER_FAULTS = frozenset(
    {
        Code.PROTOCOL_ERROR,
        Code.ENGINE_FAILED,
        Code.ENGINE_CRASHED,
        Code.ENGINE_UNAVAILABLE,
        Code.SESSION_TIMEOUT,
        Code.PROVIDER_VANISHED,
    }
)
"""Ends of a session without a T that are reported as Fail (S44)."""

BROKEN_OFF_HERE = frozenset({Code.CANCELLED, Code.PROVIDER_VANISHED, Code.PROTOCOL_ERROR, Code.SESSION_TIMEOUT})
"""Ends of a session after which more T may have been sent than have come; after any other the provider said so last."""

PROVIDER_TRIES = 3
"""Providers that one request tries at most while none has given a T, and sessions that one answer may have."""

__all__ = ["UserAgent", "UserAnswer"]


def _is_pass(outcome: SessionOutcome) -> bool:
    """What was delivered before an answer broke off is a Pass, unless the provider said what was not true (S44)."""
    if outcome.interrupted == Code.PROTOCOL_ERROR:
        return False
    return outcome.tokens > 0 or outcome.interrupted not in PROVIDER_FAULTS


class _Legs:
    """The sessions of one answer, one after the other: entering another leaves none open, leaving closes the last."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._open.__aexit__(kind, error, traceback)

    async def enter(self, leg: AbstractAsyncContextManager[Leg]) -> Leg:
        return await self._open.enter_async_context(leg)

    async def leave(self) -> None:
        """The session has ended: report it."""
        await self._open.aclose()


class UserAgent:
    """One user's queries. :attr:`recount_of` gives a model's own counter, where this node has its tokenizer."""

    def __init__(self, node: Node, public: PublicState, sessions: SessionLog, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._access = Access(node, public, evidence)
        self._sessions = sessions
        self._asking = Asking(node, public, self._access, sessions, self._abandon)
        self._reporting = Reporting(node, public)
        self._vocabularies = Vocabularies(node, public)
        self._auditor = Auditor(node, self._asking.open, self._finish, self._settle_audit)
        self._transcripts = Transcripts()
        self._filer = Filer(node, public)
        self.opener = Opener(node, public, self._transcripts, patience=0, file=self._filer.file)
        """Opens what was picked of this user's sessions (S8)."""
        self.recount_of: Callable[[Digest], Recount | None] = lambda _: None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """File reports, and follow the own balance, for ever."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(keep_running, "balance", self._access.follow_balance, log=self._node.log))
            await nursery.start(self._reporting.run)
            await nursery.start(self._asking.run)
            nursery.start_soon(self._auditor.run)
            nursery.start_soon(self._filer.run)
            nursery.start_soon(self.opener.run)
            nursery.start_soon(self._vocabularies.run)
            task_status.started()

    # What the gateway asks for.

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model that has a live bid."""
        ledger, params = self._public.ledger, self._node.terms.params
        samples, day, cards = ledger.speed, params.day_of(self._node.slot()), []
        for listing in self._public.book.models(now_ms()):
            known = samples.get(listing.model_id, ())
            mean = compute_mean(known) if known else None
            is_listed = is_payable(ledger.listing, listing.model_id, day, params)
            offered = listing.name, listing.model_id, listing.providers, listing.lowest_price_wei
            cards.append(ModelCard(*offered, is_listed, mean))
        return tuple(cards)

    async def allowance(self) -> Allowance:
        """The day, and what is left of UserMax where this node can read its own balance."""
        limit = self._access.limit()
        known = (None, None) if limit is None else (limit.limit_tokens, limit.remaining_tokens)
        return Allowance(self._access.day(), self._access.reset_s(), *known)

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[UserAnswer]:
        """Match, open the session and wait for the first token; leaving cancels what still runs.

        A provider that turns out to be away or full is replaced by another; one that fails over the prompt itself is
        not, since the prompt would fail the next as well. Raises :class:`BackendError` until the first token. One that
        vanishes within the answer is followed by another, which goes on from what has arrived: all of them together
        give TokenMax at most, and each is paid for what it gave.
        """
        card = await self._find_model(request.model)
        legs = _Legs()

        async def go_on(answer: UserAnswer, error: SessionError | GossipError) -> Leg | None:
            return await self._go_on(legs, answer, error, request, card)

        async with legs:
            leg = await self._first_to_answer(legs, request, card)
            yield UserAnswer(leg, self._access.limit(), go_on)

    async def _go_on(
        self,
        legs: "_Legs",
        answer: UserAnswer,
        error: SessionError | GossipError,
        request: ChatRequest,
        card: ModelCard,
    ) -> Leg | None:
        """Another provider's leg after one that broke off; None where TokenMax is reached. Raises BackendError."""
        broken = refusals.break_error(error)
        if not broke_off(error) or answer.has_calls or len(answer.legs) >= PROVIDER_TRIES:
            raise broken from error
        await legs.leave()  # what the vanished one gave is reported now: it is owed that, whatever comes
        left = request.max_tokens - answer.tokens
        if left <= 0:
            return None
        self._node.log.info(
            "another provider goes on", rfc=answer.rfc_id.hex(), tokens=answer.tokens, reason=str(error)
        )
        rest = msgspec.structs.replace(request, max_tokens=left, prefix=answer.text)
        try:
            return await self._first_to_answer(legs, rest, card)
        except BackendError as refused:
            self._node.log.info("nobody goes on", code=refused.code, reason=refused.message)
            raise broken from error

    async def _first_to_answer(self, legs: "_Legs", request: ChatRequest, card: ModelCard) -> Leg:
        for tries_left in reversed(range(PROVIDER_TRIES)):
            try:
                return await legs.enter(self._ask_one(request, card))
            except BackendError as error:
                if error.code not in refusals.ANOTHER_MAY_SERVE or not tries_left:
                    raise
                self._node.log.info("asking another provider", code=error.code, reason=error.message)
        raise RuntimeError("the loop above returns or raises")

    @asynccontextmanager
    async def _ask_one(self, request: ChatRequest, card: ModelCard) -> AsyncIterator[Leg]:
        opened = await self._asking.open(request, card)
        rfc_id = opened.rfc.id(self._node.terms.domain)
        body = QueryBody(
            messages=request.messages,
            max_tokens=request.max_tokens,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=None if request.sampling.seed is None else request.sampling.seed % SEED_LIMIT,
            stop=request.sampling.stop,
            tools=request.tools,
            logprobs=request.logprobs,
            padded=self._node.config.user.padded,
            prefix=request.prefix or None,
        )
        provider = opened.matched.ticket.payload.bid.payload.provider
        session: ClientSession | None = None
        failed = True
        try:
            async with open_session(
                opened.stream,
                opened.matched.ticket,
                body,
                opened.wallet.key,
                self._node.terms,
                now_ms,
                recount=self.recount_of(card.model_id),
                vocabulary=None if request.tools else self._vocabularies.find(card.model_id, provider),
            ) as session:
                first = await anext(session.pieces(), None)
                yield Leg(rfc_id, opened, session, first)
            failed = False
        except (SessionError, GossipError) as error:
            raise refusals.session_error(error) from error
        finally:
            # A continuation is scored by nobody: its T follow another's.
            asked = None if request.prefix else (request, card)
            self._finish(rfc_id, opened, session, failed=failed, asked=asked)

    async def _find_model(self, name: str) -> ModelCard:
        cards = await self.models()
        found = [card for card in cards if name in (card.name, "0x" + card.model_id.hex())]
        if found:  # anybody may call a model of its own by another's name: the listed one is meant
            return min(found, key=lambda card: not card.is_listed)
        if not cards:  # so it is until a node that has just started has heard the first bid
            raise BackendError(503, "no_bids", "no provider's bid has reached this node yet", retry_after=1)
        known = ", ".join(card.name for card in cards)
        raise BackendError(
            404,
            "model_not_found",
            f"The model '{name}' does not exist or nobody serves it now (served: {known})",
            kind="invalid_request_error",
            param="model",
        )

    def _finish(
        self,
        rfc_id: Digest,
        opened: Opened,
        session: ClientSession | None,
        *,
        failed: bool,
        asked: tuple[ChatRequest, ModelCard] | None = None,
        is_unused: bool = False,
    ) -> None:
        """Note the outcome and queue the report (S30). What was delivered counts, even where the answer broke off.

        An answer to ``asked`` may be drawn for an audit, after which its report goes.
        """
        ticket = opened.matched.ticket
        ticket_id = ticket.id(self._node.terms.domain)
        outcome = session.outcome if session is not None else None
        tokens = outcome.tokens if outcome is not None else 0
        passed = is_unused or (outcome is not None and _is_pass(outcome))
        report = Report(
            ticket_id=ticket_id,
            session_key=opened.wallet.key.address,
            tokens=tokens,
            first_ms=outcome.first_ms if outcome is not None else 0,
            last_ms=outcome.last_ms if outcome is not None else 0,
            passed=passed,
        )
        charged = 1 if session is None or outcome is None else self._charged_at_most(outcome)
        reserved = ticket.payload.token_max
        self._access.give_back(opened.wallet, reserved, min(reserved, charged))
        # Whoever reads the pieces may have dealt with the failure inside the session.
        # A client may leave as soon as it has read the end.
        ended = outcome is not None and outcome.finish is not None
        broken = not ended and (failed or (outcome is not None and outcome.interrupted not in {None, Code.CANCELLED}))
        self._sessions.finish(rfc_id, outcome, passed=passed, broken=broken)
        receipt = outcome.receipt if outcome is not None else None
        if session is not None and self._node.terms.params.audit_slots:
            self._transcripts.keep(ticket_id, Transcript(session.body, session.token_ids, self._node.slot()))
        if asked is not None and session is not None and receipt is not None:
            request, card = asked
            audited = Audited(
                rfc_id=rfc_id,
                card=card,
                messages=request.messages,
                ticket=ticket,
                body=session.body,
                token_ids=session.token_ids,
                receipt=receipt,
                report=report,
                session_key=opened.wallet.key,
            )
            # a scorer is shown the messages alone: with tools the prompt was another
            if request.tools is None and self._auditor.take(audited, request.sampling):
                return
        self._queue_report(ticket, report, opened.wallet.key, receipt)

    def _charged_at_most(self, outcome: SessionOutcome) -> int:
        """T that a session takes off the allowance at most, as its router counts: what was signed for, and where the
        provider had not had its last word what may have been on its way."""
        signed = outcome.tokens if outcome.voucher is None else max(outcome.tokens, outcome.voucher.payload.tokens)
        if outcome.receipt is not None:
            return max(1, signed, outcome.receipt.receipt.tokens)
        if outcome.interrupted in BROKEN_OFF_HERE or outcome.interrupted is None:
            signed += self._node.terms.params.voucher_window
        return max(1, signed)

    def _abandon(self, matched: Matched, wallet: Wallet, passed: bool) -> None:
        """Report 0 T for a ticket that no session was opened with."""
        ticket_id = matched.ticket.id(self._node.terms.domain)
        report = Report(ticket_id, wallet.key.address, tokens=0, first_ms=0, last_ms=0, passed=passed)
        self._queue_report(matched.ticket, report, wallet.key, None)

    def _queue_report(self, ticket: Signed[Ticket], report: Report, key: Key, receipt: Cosigned | None) -> None:
        signed = sign(report, key, self._node.terms.domain)
        self._reporting.file(ticket.payload.router, ReportFiling(report.ticket_id, signed, receipt))

    # Audits.

    def _settle_audit(self, audited: Audited, has_failed: bool, shown: dict[str, Any]) -> None:
        """File the report that waited: Fail where the audit says so (S44)."""
        report = msgspec.structs.replace(audited.report, passed=audited.report.passed and not has_failed)
        self._sessions.note_audit(audited.rfc_id, shown, passed=report.passed)
        self._queue_report(audited.ticket, report, audited.session_key, audited.receipt)
