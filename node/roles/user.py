"""The user agent: turns a chat request into pass, RFC, session and report, and hands the answer to the gateway."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import trio

from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError
from gossip.messages import Signed, sign
from gossip.messages.market import Ticket
from gossip.messages.router import ReportFiling
from gossip.messages.session import Cosigned, Report
from inference.engine import Piece
from inference.errors import SessionError
from inference.session.client import ClientSession, Recount, SessionOutcome, open_session
from inference.session.query import SEED_LIMIT, QueryBody
from inference.session.stream import Code
from node.api.backend import Allowance, BackendError, ChatRequest, ModelCard, QueuePlace
from node.context import Node, now_ms
from node.roles import refusals
from node.roles.access import Access
from node.roles.asking import Asking, Opened
from node.roles.audit import Audited, Auditor
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState
from node.roles.reporting import Reporting
from node.roles.sessions import SessionLog
from node.roles.vocabularies import Vocabularies

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

PROVIDER_TRIES = 3
"""Providers that one request tries, at most, while none has given a T."""


class UserAnswer:
    """An answer on its way: what :class:`node.api.backend.Answer` asks for."""

    def __init__(
        self, rfc_id: Digest, opened: Opened, session: ClientSession, first: Piece | None, tokens_left: int | None
    ) -> None:
        self.rfc_id = rfc_id
        self.provider: Address = opened.matched.ticket.payload.bid.payload.provider
        self._ticket = opened.matched.ticket.payload
        self._wallet = opened.wallet
        self._opened = opened
        self._session = session
        self._first = first
        self._tokens_left = tokens_left

    @property
    def outcome(self) -> SessionOutcome:
        """T, times and receipt, once the pieces have ended."""
        return self._session.outcome

    @property
    def tokens(self) -> int:
        """T delivered so far."""
        return self._session.outcome.tokens

    @property
    def prompt_tokens(self) -> int:
        """T of the prompt, 0 until the end."""
        return self._session.outcome.prompt_tokens

    @property
    def finish(self) -> str | None:
        """``stop``, ``length`` or ``tool_calls``, None until the end."""
        return self._session.outcome.finish

    def headers(self) -> dict[str, str]:
        """What the gateway tells the client beside the answer."""
        headers = {
            "x-yellowstone-rfc": "0x" + self.rfc_id.hex(),
            "x-yellowstone-provider": "0x" + self.provider.hex(),
            "x-yellowstone-price-wei": str(self._ticket.bid.payload.price_wei),
            "x-yellowstone-pass-left": str(self._wallet.left),
        }
        if (queued := self._opened.queued) is not None:
            headers |= QueuePlace(queued.position, queued.waiting, queued.expected_ms).headers()
            headers["x-yellowstone-queue-waited-ms"] = str(self._opened.match_ms)
        if self._tokens_left is not None:
            headers["x-yellowstone-tokens-left"] = str(self._tokens_left)
        return headers

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer. Raises :class:`BackendError` where the session breaks."""
        if self._first is not None:
            yield self._first
        try:
            async for piece in self._session.pieces():
                yield piece
        except (SessionError, GossipError) as error:
            raise refusals.break_error(error) from error


class UserAgent:
    """One user's queries. :attr:`recount_of` gives a model's own counter, where this node has its tokenizer."""

    def __init__(self, node: Node, public: PublicState, sessions: SessionLog, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._access = Access(node, public, evidence)
        self._sessions = sessions
        self._asking = Asking(node, public, self._access, sessions)
        self._reporting = Reporting(node, public)
        self._vocabularies = Vocabularies(node, public)
        self._auditor = Auditor(node, self._asking.open, self._finish, self._settle_audit)
        self.recount_of: Callable[[Digest], Recount | None] = lambda _: None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """File reports, and follow the own balance, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._access.follow_balance)
            await nursery.start(self._reporting.run)
            nursery.start_soon(self._auditor.run)
            nursery.start_soon(self._vocabularies.run)
            task_status.started()

    # What the gateway asks for.

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model that has a live bid."""
        samples = self._public.ledger.speed
        cards = []
        for listing in self._public.book.models(now_ms()):
            known = samples.get(listing.model_id, ())
            mean = sum(sample.us_per_t for sample in known) // len(known) if known else None
            cards.append(ModelCard(listing.name, listing.model_id, listing.providers, listing.lowest_price_wei, mean))
        return tuple(cards)

    async def allowance(self) -> Allowance:
        """The day, and what is left of UserMax where this node can read its own balance."""
        most = self._access.user_max()
        left = None if most is None else max(0, most - self._access.used())
        return Allowance(self._access.day(), self._access.reset_s(), most, left)

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[UserAnswer]:
        """Match, open the session and wait for the first token; leaving cancels what still runs.

        A provider that turns out to be away or full is replaced by another; one that fails over the prompt itself is
        not, since the prompt would fail the next as well. Raises :class:`BackendError` until the first token.
        """
        card = await self._find_model(request.model)
        async with AsyncExitStack() as stack:
            yield await self._first_to_answer(stack, request, card)

    async def _first_to_answer(self, stack: AsyncExitStack, request: ChatRequest, card: ModelCard) -> UserAnswer:
        for tries_left in reversed(range(PROVIDER_TRIES)):
            try:
                return await stack.enter_async_context(self._ask_one(request, card))
            except BackendError as error:
                if error.code not in refusals.ANOTHER_MAY_SERVE or not tries_left:
                    raise
                self._node.log.info("asking another provider", code=error.code, reason=error.message)
        raise RuntimeError("the loop above returns or raises")

    @asynccontextmanager
    async def _ask_one(self, request: ChatRequest, card: ModelCard) -> AsyncIterator[UserAnswer]:
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
                left = (await self.allowance()).remaining_tokens
                yield UserAnswer(rfc_id, opened, session, first, left)
            failed = False
        except (SessionError, GossipError) as error:
            raise refusals.session_error(error) from error
        finally:
            self._finish(rfc_id, opened, session, failed=failed, asked=(request, card))

    async def _find_model(self, name: str) -> ModelCard:
        cards = await self.models()
        for card in cards:
            if name in (card.name, "0x" + card.model_id.hex()):
                return card
        known = ", ".join(card.name for card in cards) or "none at the moment"
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
        passed = is_unused or (outcome is not None and (tokens > 0 or outcome.interrupted not in PROVIDER_FAULTS))
        report = Report(
            ticket_id=ticket_id,
            session_key=opened.wallet.key.address,
            tokens=tokens,
            first_ms=outcome.first_ms if outcome is not None else 0,
            last_ms=outcome.last_ms if outcome is not None else 0,
            passed=passed,
        )
        self._access.give_back(opened.wallet, ticket.payload.token_max - tokens)
        # Whoever reads the pieces may have dealt with the failure inside the session.
        broken = failed or (outcome is not None and outcome.interrupted not in {None, Code.CANCELLED})
        self._sessions.finish(rfc_id, outcome, passed=passed, broken=broken)
        receipt = outcome.receipt if outcome is not None else None
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
            if self._auditor.take(audited, request.sampling):
                return
        self._queue_report(ticket, report, opened.wallet.key, receipt)

    def _queue_report(self, ticket: Signed[Ticket], report: Report, key: Key, receipt: Cosigned | None) -> None:
        signed = sign(report, key, self._node.terms.domain)
        self._reporting.file(ticket.payload.router, ReportFiling(report.ticket_id, signed, receipt))

    # Audits.

    def _settle_audit(self, audited: Audited, has_failed: bool, shown: dict[str, Any]) -> None:
        """File the report that waited: Fail where the audit says so (S44)."""
        report = msgspec.structs.replace(audited.report, passed=audited.report.passed and not has_failed)
        self._sessions.note_audit(audited.rfc_id, shown, passed=report.passed)
        self._queue_report(audited.ticket, report, audited.session_key, audited.receipt)
