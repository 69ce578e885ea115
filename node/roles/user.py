"""The user agent: turns a chat request into pass, RFC, session and report, and hands the answer to the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MalformedMessage, TransportError
from gossip.messages import Signed, Unit, encode, sign
from gossip.messages.market import Rfc, Ticket
from gossip.messages.router import Matched, ReportFiling, RfcAsk
from gossip.messages.session import Cosigned, Report
from gossip.streams import FrameStream
from gossip.topics import SESSION
from inference.engine import ChatMessage, Piece
from inference.errors import SessionError
from inference.session.client import ClientSession, SessionOutcome, open_session
from inference.session.query import QueryBody
from inference.session.stream import Code
from node.api.backend import BackendError, ChatRequest, ModelCard
from node.context import Node, now_ms
from node.roles import refusals
from node.roles.access import ASK_S, Access, AccessRefused, Wallet, ask_router, send_ask, take_answer
from node.roles.audit import Audited, Auditor
from node.roles.public import PublicState
from node.roles.sessions import SessionLog

RFC_DEADLINE_MS = 20_000
"""How long an RFC may wait in its router's queue."""

TEMPLATE_T = 16
"""T that a chat template adds for each message, generously."""

PROVIDER_FAULTS = frozenset({Code.PROTOCOL_ERROR, Code.ENGINE_FAILED, Code.SESSION_TIMEOUT, Code.PROVIDER_VANISHED})
"""Ends of a session without a T that are reported as Fail (S44)."""

PASS_TRIES = 3
"""Passes that one request tries, at most."""

REPORT_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Opened:
    """An RFC that was matched and whose provider stream is open."""

    rfc: Signed[Rfc]
    matched: Matched
    wallet: Wallet
    stream: FrameStream


class UserAnswer:
    """An answer on its way: what :class:`node.api.backend.Answer` asks for."""

    def __init__(
        self, rfc_id: Digest, opened: Opened, session: ClientSession, pieces: AsyncIterator[Piece], first: str
    ) -> None:
        self.rfc_id = rfc_id
        self.provider: Address = opened.matched.ticket.payload.bid.payload.provider
        self._ticket = opened.matched.ticket.payload
        self._wallet = opened.wallet
        self._session = session
        self._pieces = pieces
        self._first = first

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
        """``stop`` or ``length``, None until the end."""
        return self._session.outcome.finish

    def headers(self) -> dict[str, str]:
        """What the gateway tells the client beside the answer."""
        return {
            "x-yellowstone-rfc": "0x" + self.rfc_id.hex(),
            "x-yellowstone-provider": "0x" + self.provider.hex(),
            "x-yellowstone-price-wei": str(self._ticket.bid.payload.price_wei),
            "x-yellowstone-pass-left": str(self._wallet.left),
        }

    async def pieces(self) -> AsyncIterator[str]:
        """The answer's text. Raises :class:`BackendError` where the session breaks."""
        if self._first:
            yield self._first
        try:
            async for piece in self._pieces:
                if piece.text:
                    yield piece.text
        except (SessionError, GossipError) as error:
            raise BackendError(
                502, "provider_failed", f"the provider broke off: {error}", kind="server_error"
            ) from error


class UserAgent:
    """One user's queries. Owns the filing of their reports."""

    def __init__(self, node: Node, public: PublicState, sessions: SessionLog) -> None:
        self._node = node
        self._public = public
        self._access = Access(node, public)
        self._sessions = sessions
        self._in_order = trio.Lock()
        self._auditor = Auditor(node, self._open, self._finish, self._settle_audit)
        self._report_in, self._report_out = trio.open_memory_channel[tuple[Address, ReportFiling]](1_024)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """File reports for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._auditor.run)
            task_status.started()
            async for router, filing in self._report_out:
                nursery.start_soon(self._file, router, filing)

    # What the gateway asks for.

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model that has a live bid."""
        return tuple(
            ModelCard(
                name=listing.name,
                model_id=listing.model_id,
                providers=listing.providers,
                lowest_price_wei=listing.lowest_price_wei,
            )
            for listing in self._public.book.models(now_ms())
        )

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[UserAnswer]:
        """Match, open the session and wait for the first token; leaving cancels what still runs.

        Raises :class:`BackendError` until then.
        """
        card = await self._find_model(request.model)
        opened = await self._open(request, card)
        rfc_id = opened.rfc.id(self._node.terms.domain)
        body = QueryBody(
            messages=request.messages,
            max_tokens=request.max_tokens,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=request.sampling.seed,
            stop=request.sampling.stop,
        )
        session: ClientSession | None = None
        failed = True
        try:
            async with open_session(
                opened.stream, opened.matched.ticket, body, opened.wallet.key, self._node.terms, now_ms
            ) as session:
                pieces = session.pieces()
                first = await anext(pieces, None)
                yield UserAnswer(rfc_id, opened, session, pieces, first.text if first else "")
            failed = False
        except (SessionError, GossipError) as error:
            raise refusals.session_error(error) from error
        finally:
            self._finish(rfc_id, opened, session, failed=failed, asked=(request, card))

    # From request to open stream.

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

    async def _open(self, request: ChatRequest, card: ModelCard) -> Opened:
        """Match and dial. A pass that turns out to be dead is replaced: the client need not know of passes."""
        for tries_left in reversed(range(PASS_TRIES)):
            try:
                return await self._try_open(request, card)
            except AccessRefused as error:
                if error.code not in refusals.PASS_IS_DEAD or not tries_left:
                    raise refusals.refusal_error(error) from error
                self._node.log.info("pass is dead", code=error.code, reason=error.detail)
        raise RuntimeError("the loop above returns or raises")

    async def _try_open(self, request: ChatRequest, card: ModelCard) -> Opened:
        """Raises :class:`BackendError` or :class:`AccessRefused`."""
        started = now_ms()
        wallet, rfc, asked = await self._send_rfc(request, card)
        opened = False
        try:
            matched = await self._match(rfc, wallet, asked)
            matched_ms = now_ms()
            stream = await self._dial(matched)
            opened = True
        finally:
            if not opened:
                self._access.give_back(wallet, request.max_tokens)
        self._sessions.begin(rfc, card, matched, matched_ms - started, now_ms() - started)
        return Opened(rfc, matched, wallet, stream)

    async def _send_rfc(self, request: ChatRequest, card: ModelCard) -> tuple[Wallet, Signed[Rfc], FrameStream]:
        """Gossip an RFC and put it to the router that issued the pass, in the order of the indexes: a router refuses
        one below the last that it saw."""
        async with self._in_order:
            try:
                wallet, index = await self._access.reserve(request.max_tokens)
            except GossipError as error:
                raise BackendError(503, "no_router", f"no router answers: {error}", kind="server_error") from error
            rfc = self._sign_rfc(request, card, wallet, index)
            router = wallet.granted.payload.issuer
            sent = False
            try:
                await self._node.network.publish(self._node.topics.rfc(card.model_id), encode(rfc))
                asked = await send_ask(self._node, self._public, router, RfcAsk(rfc), timeout=ASK_S)
                sent = True
            except GossipError as error:
                self._access.discard(wallet)
                raise AccessRefused("no_router", f"the home router is out of reach: {error}", 0) from error
            finally:
                if not sent:
                    self._access.give_back(wallet, request.max_tokens)
            return wallet, rfc, asked

    def _sign_rfc(self, request: ChatRequest, card: ModelCard, wallet: Wallet, index: int) -> Signed[Rfc]:
        rfc = Rfc(
            access_pass=wallet.granted,
            session_key=wallet.key.address,
            index=index,
            model_id=card.model_id,
            unit=Unit.TEXT_TOKEN,
            token_max=request.max_tokens,
            prompt_bound=self._prompt_bound(request.messages, card.model_id),
            deadline_ms=now_ms() + RFC_DEADLINE_MS,
        )
        return sign(rfc, wallet.key, self._node.terms.domain)

    def _prompt_bound(self, messages: tuple[ChatMessage, ...], model_id: Digest) -> int:
        """T that the prompt surely fits into, yet no more than the roomiest bid unless it can't fit at all.

        A token has at least one byte and, in text, seldom fewer than two; the provider counts exactly and refuses
        what breaks the bound.
        """
        size = sum(len(message.content.encode()) for message in messages)
        template = TEMPLATE_T * (len(messages) + 1)
        bids = self._public.book.all_live(now_ms()).bids
        roomiest = max((bid.payload.prompt_max for bid in bids if bid.payload.model_id == model_id), default=0)
        at_least = size // 8
        return max(at_least, min(size + template, roomiest))

    async def _match(self, rfc: Signed[Rfc], wallet: Wallet, asked: FrameStream) -> Matched:
        """The router's answer. Raises :class:`BackendError` or :class:`AccessRefused`."""
        router = wallet.granted.payload.issuer
        try:
            answer = await take_answer(self._node, router, asked, timeout=RFC_DEADLINE_MS / 1_000 + ASK_S)
            if not isinstance(answer, Matched):
                raise MalformedMessage("Matched", f"router answered with {type(answer).__name__}")
            self._check_matched(rfc, answer, router)
        except AccessRefused as error:
            if error.code in refusals.PASS_IS_DEAD:
                self._access.discard(wallet)
            raise
        except GossipError as error:
            self._access.discard(wallet)
            raise BackendError(
                503, "no_router", f"the home router does not answer: {error}", kind="server_error", retry_after=1
            ) from error
        return answer

    def _check_matched(self, rfc: Signed[Rfc], matched: Matched, router: Address) -> None:
        domain = self._node.terms.domain
        ticket, match = matched.ticket, matched.match
        rfc_id = rfc.id(domain)
        bid = ticket.payload.bid
        wrong = [
            name
            for name, holds in (
                ("the ticket's signer", ticket.signer(domain) == router),
                ("the match's signer", match.signer(domain) == router),
                ("the ticket's RFC", ticket.payload.rfc_id == rfc_id),
                ("the match's RFC", match.payload.rfc_id == rfc_id),
                ("the match's ticket", match.payload.ticket_id == ticket.id(domain)),
                ("the session key", ticket.payload.session_key == rfc.payload.session_key),
                ("the model", bid.payload.model_id == rfc.payload.model_id),
                ("TokenMax", ticket.payload.token_max == rfc.payload.token_max),
                ("the bid's signer", bid.signer(domain) == bid.payload.provider),
                ("the bid among the candidates", bid in match.payload.candidates),
                ("the provider's record", matched.provider.signer(domain) == bid.payload.provider),
            )
            if not holds
        ]
        if wrong:
            raise MalformedMessage("Matched", "does not fit the RFC: " + ", ".join(wrong))

    async def _dial(self, matched: Matched) -> FrameStream:
        record = matched.provider.payload
        try:
            if not self._node.network.is_connected(record.peer_id):
                await self._node.network.connect(record.multiaddrs, timeout=5)
            return await self._node.network.open_stream(record.peer_id, SESSION, timeout=5)
        except TransportError as error:
            raise BackendError(
                502, "provider_unreachable", f"the matched provider is unreachable: {error}", kind="server_error"
            ) from error

    # Afterwards.

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
        filing = ReportFiling(report.ticket_id, sign(report, key, self._node.terms.domain), receipt)
        try:
            self._report_in.send_nowait((ticket.payload.router, filing))
        except trio.WouldBlock:
            self._node.log.error("report queue is full; the voucher settles it", ticket=report.ticket_id.hex())

    # Audits.

    def _settle_audit(self, audited: Audited, has_failed: bool, shown: dict[str, Any]) -> None:
        """File the report that waited: Fail where the audit says so (S44)."""
        report = msgspec.structs.replace(audited.report, passed=audited.report.passed and not has_failed)
        self._sessions.note_audit(audited.rfc_id, shown, passed=report.passed)
        self._queue_report(audited.ticket, report, audited.session_key, audited.receipt)

    async def _file(self, router: Address, filing: ReportFiling) -> None:
        failures = 0
        give_up = now_ms() + self._node.terms.params.settle_window_slots * self._node.terms.params.slot_ms
        while now_ms() < give_up:
            try:
                await ask_router(self._node, self._public, router, filing, timeout=5)
            except AccessRefused as error:
                self._node.log.warning("report refused", code=error.code, reason=error.detail)
                return
            except GossipError as error:
                self._node.log.info("report waits", reason=str(error))
                await trio.sleep(REPORT_RETRY_S[min(failures, len(REPORT_RETRY_S) - 1)])
                failures += 1
                continue
            return
