"""From a chat request to an open provider stream: pass, RFC, match, dial."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MalformedMessage, TransportError
from gossip.messages import Signed, Unit, sign
from gossip.messages.market import Rfc
from gossip.messages.router import Matched, Queued, RfcAsk
from gossip.streams import FrameStream
from gossip.topics import SESSION
from inference.session.query import compute_prompt_bytes
from node.api.backend import BackendError, ChatRequest, ModelCard
from node.context import Node, now_ms
from node.roles import refusals
from node.roles.access import ASK_S, Access, AccessRefused, AllowanceHeld, Wallet, send_ask, take_answer
from node.roles.public import PublicState
from node.roles.sessions import SessionLog
from node.roles.withdrawing import Withdrawing

RFC_DEADLINE_MS = 20_000
"""How long an RFC may wait in its router's queue."""

GO_ON_DEADLINE_MS = 5_000
"""The same for the rest of an answer that broke off: its client is reading."""

HELD_PAUSE_S = 0.25
"""After so long is a router asked again that holds for others what an RFC wants, by one request of a user at a time."""

LEAST_RFC_S = 2.0
"""An RFC that is put again with no more time than this would come back as expired: its client hears why it waited."""

TEMPLATE_T = 16
"""T that a chat template adds for each message, generously."""

PASS_TRIES = 3
"""Passes that one request tries, at most."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An RFC that was matched and whose provider stream is open."""

    rfc: Signed[Rfc]
    matched: Matched
    wallet: Wallet
    stream: FrameStream
    queued: Queued | None = None
    """Where the RFC stood in its router's queue when it was first told; None where it did not wait."""
    match_ms: int = 0
    """From the request to the match."""


Abandon = Callable[[Matched, Wallet, bool], None]
"""Files a report of 0 T for a ticket that no session was opened with: Fail where its provider is at fault, else Pass.
A ticket that nobody files for costs a voucher window's T."""


class Asking:
    """Puts RFCs to routers and opens streams to the providers that they name; ``abandon`` takes those out of reach."""

    def __init__(self, node: Node, public: PublicState, access: Access, sessions: SessionLog, abandon: Abandon) -> None:
        self._node = node
        self._abandon = abandon
        self._public = public
        self._access = access
        self._sessions = sessions
        self._in_order = trio.Lock()
        self._withdrawing = Withdrawing(
            node,
            public,
            access,
            check=lambda rfc, matched: self._check_matched(rfc, matched, rfc.payload.access_pass.payload.issuer),
            abandon=lambda matched, wallet: abandon(matched, wallet, True),
        )
        self.run = self._withdrawing.run
        """Takes back for ever the RFCs whose clients leave."""
        self._asking_again = trio.Lock()

    async def open(self, request: ChatRequest, card: ModelCard) -> Opened:
        """Match and dial. A pass that turns out to be dead is replaced: the client need not know of passes.

        What others hold of allowance or budget at the moment is waited for, as long as the RFC may wait altogether.
        """
        patience_s = (GO_ON_DEADLINE_MS if request.prefix else RFC_DEADLINE_MS) / 1_000
        began = trio.current_time()
        ends = began + patience_s
        tries_left = PASS_TRIES
        while True:
            try:
                return await self._try_open(request, card, patience_s)
            except AccessRefused as error:
                if error.code in refusals.HELD:
                    await self._wait_for_held(error, began, ends - LEAST_RFC_S)
                    patience_s = ends - trio.current_time()
                    if patience_s > LEAST_RFC_S:
                        continue
                tries_left -= 1
                if error.code not in refusals.PASS_IS_DEAD or not tries_left:
                    raise refusals.refusal_error(error, self._access.reset_s(), self._access.limit()) from error
                self._node.log.info("pass is dead", code=error.code, reason=error.detail)

    async def _wait_for_held(self, held: AccessRefused, began: float, ends: float) -> None:
        """Until some of what is held may be free, or until ``ends``, on trio's clock.

        The longer ago a request ``began``, the less often it asks a router: each time is another RFC that others hear.
        """
        with trio.move_on_at(ends):
            if isinstance(held, AllowanceHeld):
                await held.freed.wait()
            else:  # a report is on its way to the router, or waits for its batch there
                await trio.sleep((trio.current_time() - began) / 4)
                async with self._asking_again:
                    await trio.sleep(HELD_PAUSE_S)

    async def _try_open(self, request: ChatRequest, card: ModelCard, patience_s: float) -> Opened:
        """Raises :class:`BackendError` or :class:`AccessRefused`."""
        started = now_ms()
        wallet, rfc, asked = await self._send_rfc(request, card, patience_s)
        queued: list[Queued] = []
        matched: Matched | None = None
        stream: FrameStream | None = None
        is_unreachable = is_refused = False
        try:
            matched = await self._match(rfc, wallet, asked, queued)
            matched_ms = now_ms()
            stream = await self._dial(matched)
        except BackendError:
            is_unreachable = matched is not None
            raise
        except AccessRefused:
            is_refused = True
            raise
        finally:
            if matched is None and not is_refused:
                self._withdrawing.leave(rfc, wallet)
            elif matched is None:
                self._access.give_back(wallet, request.max_tokens, 0)
            elif stream is None:
                self._access.give_back(wallet, request.max_tokens, 1)
                self._abandon(matched, wallet, not is_unreachable)
        self._sessions.begin(rfc, card, matched, matched_ms - started, now_ms() - started)
        return Opened(rfc, matched, wallet, stream, queued[0] if queued else None, matched_ms - started)

    async def _send_rfc(
        self, request: ChatRequest, card: ModelCard, patience_s: float
    ) -> tuple[Wallet, Signed[Rfc], FrameStream]:
        """Put an RFC to the router that issued the pass, which tells the others, in the order of the indexes: a router
        refuses one below the last that it saw."""
        async with self._in_order:
            try:
                wallet, index = await self._access.reserve(request.max_tokens)
            except GossipError as error:
                raise BackendError(503, "no_router", f"no router answers: {error}", retry_after=1) from error
            rfc = self._sign_rfc(request, card, wallet, index, patience_s)
            router = wallet.granted.payload.issuer
            sent = False
            try:
                asked = await send_ask(self._node, self._public, router, RfcAsk(rfc), timeout=ASK_S)
                sent = True
            except GossipError as error:
                self._access.discard(wallet)
                raise AccessRefused("no_router", f"the home router is out of reach: {error}", 0) from error
            finally:
                if not sent:  # not to the end, as far as this side knows
                    self._withdrawing.leave(rfc, wallet)
            return wallet, rfc, asked

    def _sign_rfc(
        self, request: ChatRequest, card: ModelCard, wallet: Wallet, index: int, patience_s: float
    ) -> Signed[Rfc]:
        rfc = Rfc(
            access_pass=wallet.granted,
            session_key=wallet.key.address,
            index=index,
            model_id=card.model_id,
            unit=Unit.TEXT_TOKEN,
            token_max=request.max_tokens,
            prompt_bound=self._prompt_bound(request, card.model_id),
            deadline_ms=now_ms() + int(patience_s * 1_000),
        )
        return sign(rfc, wallet.key, self._node.terms.domain)

    def _prompt_bound(self, request: ChatRequest, model_id: Digest) -> int:
        """T that the prompt surely fits into, yet no more than the roomiest bid unless it can't fit at all.

        A token has at least one byte and, in text, seldom fewer than two; the provider counts exactly and refuses
        what breaks the bound.
        """
        size = compute_prompt_bytes(request.messages, request.tools) + len(request.prefix.encode())
        template = TEMPLATE_T * (len(request.messages) + 1)
        bids = self._public.book.all_live(now_ms()).bids
        roomiest = max((bid.payload.prompt_max for bid in bids if bid.payload.model_id == model_id), default=0)
        at_least = size // 8
        return max(at_least, min(size + template, roomiest))

    async def _match(self, rfc: Signed[Rfc], wallet: Wallet, asked: FrameStream, queued: list[Queued]) -> Matched:
        """The router's answer; ``queued`` takes what it says of the queue meanwhile.

        Raises :class:`BackendError` or :class:`AccessRefused`.
        """
        router = wallet.granted.payload.issuer
        try:
            patience = RFC_DEADLINE_MS / 1_000 + ASK_S
            hear = partial(self._note_place, rfc, queued)
            answer = await take_answer(self._node, router, asked, timeout=patience, on_queued=hear)
            if not isinstance(answer, Matched):
                raise MalformedMessage("Matched", f"router answered with {type(answer).__name__}")
            self._check_matched(rfc, answer, router)
        except AccessRefused as error:
            error.queued = queued[-1] if queued else None
            if error.code in refusals.PASS_IS_DEAD:
                self._access.discard(wallet)
            raise
        except GossipError as error:
            self._access.discard(wallet)
            raise BackendError(
                503, "no_router", f"the home router does not answer: {error}", kind="server_error", retry_after=1
            ) from error
        return answer

    def _note_place(self, rfc: Signed[Rfc], queued: list[Queued], place: Queued) -> None:
        if place.rfc_id != rfc.id(self._node.terms.domain):
            raise MalformedMessage("Queued", f"of RFC {place.rfc_id.hex()}, another than was asked")
        queued[1:] = [place] if queued else []
        if not queued:
            queued.append(place)
        self._node.log.info(
            "RFC waits",
            rfc=place.rfc_id.hex(),
            position=place.position,
            of=place.waiting,
            expected_ms=place.expected_ms,
        )

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
