"""The home router's matcher: RFCs off the queue by priority, a provider drawn, its liveness checked (S26 to S28)."""

from collections.abc import Callable, Collection

import trio

from consensus.market import pairs
from consensus.market.book import StandingBid
from consensus.market.desk import Desk
from consensus.market.errors import MarketError, MatchInvalid, RfcRefused
from consensus.market.ledger_state import account_of
from consensus.market.matching import build_match, draw
from consensus.market.queueing import Pace, Place, compute_places
from consensus.market.ranking import Band, KeepsOut, Ranking
from consensus.market.rests import Rests
from consensus.market.rivals import draw_rivals
from consensus.market.waiting import Waiting
from contracts.typed_data import Address, Digest
from gossip.messages import Signed, encode, sign
from gossip.messages.market import Ticket, Why
from gossip.messages.records import SlotReveal
from gossip.messages.router import Matched, Queued
from node.context import Node, now_ms
from node.roles.balances import Balances
from node.roles.challenges import Challenger
from node.roles.drawing import Bands, Drawing, Question
from node.roles.journal import DeskJournal
from node.roles.liveness import Liveness
from node.roles.public import PublicState
from node.roles.rankings import Rankings, seat_of
from node.roles.secrets import SlotSecrets

RETRY_S = 0.1
"""How long an RFC that found every provider busy waits before it is looked at again."""

WARM_EVERY_S = 2.0

HOLDERS_EVERY_S = 0.5
"""How often the balances of new providers are asked for; no match waits for the chain."""

CONCURRENT = 64
"""RFCs being matched at once."""


PLACES_EVERY_MS = 250
"""Everybody's place in the queue is computed so often at most, however many ask."""

PREPARE_PERCENT = 25
"""The next provider in the draw is asked once the one before has been silent for so much of the liveness deadline."""

PREPARED = 4
"""Providers asked for one RFC at once, at most."""


class Matcher:
    """Serves one desk's queue."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        desk: Desk,
        *,
        secrets: SlotSecrets,
        balances: Balances,
        journal: DeskJournal,
        challenger: Challenger,
    ) -> None:
        self._node = node
        self._public = public
        self._desk = desk
        self._secrets = secrets
        self._balances = balances
        self._journal = journal
        self._challenger = challenger
        self._liveness = Liveness(node)
        self._rests = Rests()
        self._pace = Pace()
        self.on_match: Callable[[Address], None] = lambda _: None
        """Called with the session key of every match, before its user is answered."""
        self._places: dict[Digest, Place] = {}
        self._placed_ms = 0
        self._matching = 0
        self._rankings = Rankings(node, public, desk, challenger)
        self._wake = trio.Event()
        self._answered: dict[Digest, trio.Event] = {}
        self._drawing: set[Digest] = set()
        """RFCs of which providers are being asked."""
        self._drew_in: set[int] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Match for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_warm)
            nursery.start_soon(self._watch_holders)
            nursery.start_soon(self._reveal)
            await nursery.start(self._challenger.run)
            task_status.started()
            while True:
                wake = self._wake = trio.Event()
                pause = RETRY_S if self._serve_queue(nursery) else 1.0
                self._announce_refused()
                with trio.move_on_after(pause):
                    await wake.wait()

    def hurry(self) -> None:
        """An RFC has come, or a slot has become free."""
        self._wake.set()

    async def answer(self, rfc_id: Digest) -> Matched | RfcRefused:
        """Wait for an admitted RFC's answer."""
        while not isinstance(outcome := self._desk.outcome(rfc_id), Matched | RfcRefused):
            if outcome is None:
                return RfcRefused("expired", "the router has forgotten this RFC")
            await self._answered.setdefault(rfc_id, trio.Event()).wait()
        self._answered.pop(rfc_id, None)
        return outcome

    def withdraw(self, rfc_id: Digest, session_key: Address) -> int | Matched:
        """As :meth:`Desk.withdraw`, and whoever waits for the RFC's answer has it."""
        withdrawn = self._desk.withdraw(rfc_id, session_key, is_drawn=rfc_id in self._drawing)
        self._announce(rfc_id)
        self.hurry()
        return withdrawn

    async def settled_within(self, rfc_id: Digest, seconds: float) -> bool:
        """Whether an admitted RFC has its answer, having waited so long for it at most."""
        with trio.move_on_after(seconds):
            await self.answer(rfc_id)
            return True
        return False

    def queued(self, rfc_id: Digest) -> Queued | None:
        """Where an RFC stands among those of its model; None where it does not wait, or its turn has come."""
        now = now_ms()
        if now >= self._placed_ms + PLACES_EVERY_MS:
            self._placed_ms = now
            self._places = compute_places(self._desk.queue(), now, self._node.terms.params.age_boost_ms)
        place, waiting = self._places.get(rfc_id), self._desk.outcome(rfc_id)
        if place is None or not isinstance(waiting, Waiting):
            return None
        model_id = waiting.rfc.payload.model_id
        bids = self._public.book.all_live(now).bids
        slots = sum(bid.payload.slots for bid in bids if bid.payload.model_id == model_id)
        expected = self._pace.expected_ms(model_id, place.position, slots)
        return Queued(rfc_id, place.position, place.waiting, expected)

    def filed(self, ticket_id: Digest) -> None:
        """A session is over: how long sessions take is what waiting times are told from."""
        self._pace.end(ticket_id, now_ms())

    def _announce(self, rfc_id: Digest) -> None:
        if (event := self._answered.pop(rfc_id, None)) is not None:
            event.set()

    def _announce_refused(self) -> None:
        """RFCs that the desk itself gave up: their deadline passed."""
        for rfc_id in [r for r in self._answered if isinstance(self._desk.outcome(r), RfcRefused)]:
            self._announce(rfc_id)

    def _serve_queue(self, nursery: trio.Nursery) -> bool:
        """Begin a match for every RFC that finds a free slot, by priority; whether others are left waiting.

        Nothing here awaits, so no RFC overtakes one that stands before it (S26).
        """
        full: dict[Digest, int] = {}
        left: list[Digest] = []
        while self._matching < CONCURRENT and (waiting := self._desk.next_waiting(now_ms())) is not None:
            rfc = waiting.rfc.payload
            try:
                # Where a prompt found no slot, one as large of the same model finds none either.
                if full.get(rfc.model_id, rfc.prompt_bound + 1) <= rfc.prompt_bound or not self._begin(
                    waiting, nursery
                ):
                    full[rfc.model_id] = min(rfc.prompt_bound, full.get(rfc.model_id, rfc.prompt_bound))
                    left.append(waiting.rfc_id)
            except RfcRefused as refused:
                self._desk.refuse(waiting.rfc_id, refused.code, refused.detail)
                self._announce(waiting.rfc_id)
            except MarketError as error:
                self._node.log.warning("no match now", rfc=waiting.rfc_id.hex(), reason=str(error))
                left.append(waiting.rfc_id)
        for rfc_id in left:
            self._desk.requeue(rfc_id)
        return bool(left)

    def _begin(self, waiting: Waiting, nursery: trio.Nursery) -> bool:
        """Draw for one RFC, hold the winner's slot and have it asked; False where no provider has a free slot."""
        slot = self._node.slot()
        ranking = self._ranking_for(waiting, slot)
        secret, bands = self._secrets.of_slot(slot), Bands(self._finder(waiting, ranking))
        drawing = Drawing(waiting, slot, self._public.ledger.beacon, secret, bands, ranking.rivals)
        winner = drawing.next()
        if winner is None:
            return False
        self._drew_in.add(slot)
        self._matching += 1
        self._drawing.add(waiting.rfc_id)
        nursery.start_soon(self._match, drawing, self._ask(winner, waiting.rfc_id, nursery), nursery)
        return True

    def _finder(self, waiting: Waiting, ranking: Ranking) -> Callable[[Collection[Digest]], Band]:
        """What finds an RFC's next band once the bids of those before it have failed.

        Raises :class:`RfcRefused` with pair_capped or pair_held where nobody would be paid for it.
        """
        prompt_bound, over_cap = waiting.rfc.payload.prompt_bound, self._over_cap(waiting, ranking)
        now = now_ms()
        rests = not self._rests.is_idle(now) and bool(
            ranking.draw(prompt_bound, self._keeps_out((), over_cap, now)).bids
        )
        resting_ms = now if rests else None  # where nobody else is left, nobody rests

        def find(failed: Collection[Digest]) -> Band:
            return ranking.draw(prompt_bound, self._keeps_out(failed, over_cap, resting_ms))

        return find

    def _keeps_out(
        self, failed: Collection[Digest], over_cap: Callable[[StandingBid], bool] | None, resting_ms: int | None
    ) -> KeepsOut | None:
        """Why a bid with a slot takes no part in an RFC's draw; None where nothing can keep any out."""
        if not failed and over_cap is None and resting_ms is None:
            return None

        def why(standing: StandingBid) -> Why | None:
            if standing.bid_id in failed:
                return Why.UNLIVE
            if over_cap is not None and over_cap(standing):
                return Why.PAIR_CAP
            if resting_ms is not None and self._rests.is_resting(seat_of(standing), resting_ms):
                return Why.RESTING
            return None

        return why

    async def _match(self, drawing: Drawing, asked: Question, nursery: trio.Nursery) -> None:
        rfc_id = drawing.waiting.rfc_id
        try:
            is_placed = await self._try(drawing, asked, nursery)
            self._drawing.discard(rfc_id)
            if not is_placed:
                await trio.sleep(RETRY_S)
                self._desk.requeue(rfc_id)
        except RfcRefused as refused:
            self._desk.refuse(rfc_id, refused.code, refused.detail)
        except MatchInvalid as error:
            self._node.log.info("match came too late", rfc=rfc_id.hex(), reason=str(error))
            self._desk.requeue(rfc_id)
        finally:
            self._drawing.discard(rfc_id)
            self._matching -= 1
            self.hurry()
            if isinstance(self._desk.outcome(rfc_id), Matched | RfcRefused):
                self._announce(rfc_id)

    def _ask(self, standing: StandingBid, rfc_id: Digest, nursery: trio.Nursery) -> Question:
        """Hold a slot, which letting go gives back, and put the question."""
        self._rankings.hold(standing)
        question = Question(standing)
        nursery.start_soon(self._decide, question, rfc_id)
        return question

    async def _decide(self, question: Question, rfc_id: Digest) -> None:
        is_live = await self._is_live(question.standing, rfc_id)
        if is_live:
            self._rests.serve(seat_of(question.standing))
        else:
            self._rests.fail(seat_of(question.standing), now_ms())
        question.decide(is_live=is_live)

    async def _try(self, drawing: Drawing, first: Question, nursery: trio.Nursery) -> bool:
        """Wait for the winner, then for those drawn after it; False where none is live and free.

        Whoever would be drawn next is asked as soon as the one before has been silent for a while, so that several
        dead ones cost little more than one deadline; the order stays that of the draws.
        """
        asked = [first]
        try:
            while asked:
                if await self._first_answer(drawing, asked, nursery):
                    # no checkpoint before the ticket is booked, or the slot could be sold twice
                    self._rankings.let_go(asked[0].standing)
                    ticket = self._place(drawing, asked.pop(0).standing)
                    await self._journal.note_match(drawing.waiting.rfc, ticket)
                    return True
                failed = asked.pop(0)
                self._rankings.let_go(failed.standing)
                drawing.unlive.append(failed.standing.bid_id)
                following = drawing.next()
                # A slot that was filled meanwhile was not unlive: the draw begins anew.
                if not asked and following is not None and self._rankings.has_slot(following):
                    asked.append(self._ask(following, drawing.waiting.rfc_id, nursery))
        finally:
            for question in asked:
                self._rankings.let_go(question.standing)
        return False

    async def _first_answer(self, drawing: Drawing, asked: list[Question], nursery: trio.Nursery) -> bool:
        """Whether the first of ``asked`` is live; while it is silent, those drawn after it are asked too."""
        patience = self._node.terms.params.liveness_ms * PREPARE_PERCENT / 100_000
        while not asked[0].decided.is_set():
            with trio.move_on_after(patience):
                await asked[0].decided.wait()
                break
            following = drawing.next_after(asked) if len(asked) < PREPARED else None
            if following is None or not self._rankings.has_slot(following):
                await asked[0].decided.wait()
            else:
                asked.append(self._ask(following, drawing.waiting.rfc_id, nursery))
        return asked[0].is_live is True

    def _ranking_for(self, waiting: Waiting, slot: int) -> Ranking:
        """What the RFC may be matched with. Raises :class:`RfcRefused` where waiting would not help."""
        rfc = waiting.rfc.payload
        params = self._node.terms.params
        if rfc.access_pass.payload.day != params.day_of(slot):
            raise RfcRefused("wrong_day", f"day {rfc.access_pass.payload.day} ended before a provider was free")
        account = account_of(self._public.ledger, self._node.terms, params.day_of(slot))
        if not self._public.book.is_offered(rfc.model_id, now_ms()):
            raise RfcRefused("unknown_model", f"nobody serves model 0x{rfc.model_id.hex()} now")
        ranking = self._rankings.of(rfc.model_id, slot, account)
        if ranking.bids and rfc.prompt_bound > ranking.prompt_max:
            detail = f"a prompt of {rfc.prompt_bound} T, at most {ranking.prompt_max} are accepted"
            raise RfcRefused("prompt_over_limit", detail)
        if ranking.bids and rfc.prompt_bound > ranking.payable_prompt_max:
            found = f"{len(ranking.bids)} within the price ceiling, {params.min_providers} are needed"
            raise RfcRefused("too_few_providers", f"too few independent providers of the model: {found} (S8)")
        if (lowest := ranking.lowest_price(rfc.prompt_bound)) is not None:
            self._desk.check_budget(waiting.rfc_id, lowest, account)
        return ranking

    def _over_cap(self, waiting: Waiting, ranking: Ranking) -> Callable[[StandingBid], bool] | None:
        """Whether a bid's provider would not be paid for the RFC's TokenMax out of its pass any more (S8).

        None where that is true of nobody. Raises :class:`RfcRefused` where it is true of all: with pair_held where one
        of them would be, once tickets that no batch has settled are, else with pair_capped.
        """
        params, rfc = self._node.terms.params, waiting.rfc.payload
        if not pairs.is_capped(params):
            return None
        access_pass = rfc.access_pass.payload
        cap = pairs.pair_cap(access_pass.allowance, params)
        if self._desk.allowances.used(rfc.session_key) <= cap:  # of all providers, the RFC's TokenMax included
            return None
        credited = self._public.ledger.pairs.get(access_pass.day, pairs.EMPTY)

        def with_credited(standing: StandingBid) -> int:
            return credited.get(pairs.pair_key(rfc.session_key, standing.bid.provider), 0) + rfc.token_max

        def over_cap(standing: StandingBid) -> bool:
            return with_credited(standing) + self._desk.promised_to(rfc.session_key, standing.bid.provider) > cap

        eligible = ranking.lowest_price(rfc.prompt_bound) is not None
        if eligible and all(over_cap(standing) for standing in ranking.eligible(rfc.prompt_bound)):
            is_held = any(with_credited(standing) <= cap for standing in ranking.eligible(rfc.prompt_bound))
            share = f"{params.pair_percent} % of the pass, {cap} T"
            detail = f"{rfc.token_max} T exceed what is left for any provider of {share} (S8)"
            raise RfcRefused("pair_held" if is_held else "pair_capped", detail)
        return over_cap

    async def _is_live(self, winner: StandingBid, rfc_id: Digest) -> bool:
        record = self._public.book.record(winner.bid.provider, now_ms())
        return record is not None and await self._liveness.check(record, rfc_id, winner.bid_id)

    def _place(self, drawing: Drawing, winner: StandingBid) -> Signed[Ticket]:
        key, domain = self._node.key, self._node.terms.domain
        record = self._public.book.record(winner.bid.provider, now_ms())
        if record is None:
            raise MatchInvalid("record_expired", winner.bid.provider)
        rfc_id = drawing.waiting.rfc_id
        params = self._node.terms.params
        account = account_of(self._public.ledger, self._node.terms, params.day_of(drawing.slot))
        drawn = draw(drawing.beacon, drawing.secret, rfc_id, len(drawing.unlive))
        rivals = draw_rivals(winner.bid.provider, drawing.rivals, drawn, params)
        opened = self._desk.open_ticket(
            rfc_id,
            winner.signed,
            slot=drawing.slot,
            now_ms=now_ms(),
            account=account,
            rivals=tuple(rival.signed for rival in rivals),
        )
        ticket = sign(opened, key, domain)
        match = build_match(
            ticket.payload,
            ticket.id(domain),
            beacon=drawing.beacon,
            secret=drawing.secret,
            band=drawing.band.bids,
            unlive=tuple(drawing.unlive),
            left_out=drawing.left_out(),
        )
        ticket_id = self._desk.place(Matched(sign(match, key, domain), ticket, record))
        self.on_match(ticket.payload.session_key)
        self._pace.begin(ticket_id, ticket.payload.bid.payload.model_id, now_ms())
        return ticket

    async def _keep_warm(self) -> None:
        """Stay connected to every provider with a bid."""
        while True:
            now = now_ms()
            live = self._public.book.all_live(now)
            records = [self._public.book.record(bid.payload.provider, now) for bid in live.bids]
            await self._liveness.warm([record for record in records if record is not None])
            await trio.sleep(WARM_EVERY_S)

    async def _watch_holders(self) -> None:
        """Know which bidders hold MOR (S43) before an RFC comes; an outage leaves what is known (S5)."""
        params = self._node.terms.params
        while True:
            bidders = {bid.payload.provider for bid in self._public.book.all_live(now_ms()).bids}
            try:
                account = account_of(self._public.ledger, self._node.terms, params.day_of(self._node.slot()))
                self._rankings.note_holders(await self._balances.holders(bidders, account.snapshot_block))
            except MarketError as error:
                self._node.log.warning("no balances for this day", reason=str(error))
            await trio.sleep(HOLDERS_EVERY_S)

    async def _reveal(self) -> None:
        """Tell the secret of each slot that a match was drawn in, once it has ended."""
        slot = self._node.slot()
        while True:
            slot = await self._node.next_slot(slot)
            for ended in sorted(drawn for drawn in self._drew_in if drawn < slot):
                self._drew_in.discard(ended)
                payload = SlotReveal(self._node.address, ended, self._secrets.of_slot(ended))
                reveal = sign(payload, self._node.key, self._node.terms.domain)
                self._public.add(reveal)
                await self._node.network.publish(self._node.topics.reveals, encode(reveal))
