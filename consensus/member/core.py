"""A member's core: the consensus driver, the ledger, the pool and the day's duties, as ``handle(input) -> effects``.

Deterministic and without I/O. It neither signs nor reads a clock: signatures, slots, timers and the chain come in as
inputs, so that a whole committee runs in one thread of a simulator, and a crashed member is restored by playing its
inputs again.
"""

from consensus.committee import Committee
from consensus.errors import CertificateInvalid, EvidenceInvalid
from consensus.market.batch import Selection, propose_selection
from consensus.market.errors import BatchInvalid, SettlementInvalid
from consensus.market.ledger_state import Ledger, rescue, rescued_as_told
from consensus.member import events
from consensus.member.ahead import Commitments
from consensus.member.events import Effect, Input
from consensus.member.following import Following
from consensus.member.height import MAX_ROUNDS_AHEAD, Height
from consensus.member.orders import Orders
from consensus.member.pool import SettlementPool
from consensus.member.relief import Relief
from consensus.member.secrets import Secrets
from consensus.member.verdicts import Verdicts
from consensus.member.votes import payload_of, proposal_of, proposal_payload, said_by, vote_of
from consensus.membership import RESCUE_ROUNDS, Term
from consensus.params import Terms
from consensus.tendermint import events as core_events
from consensus.tendermint.certificate import assemble_certificate
from consensus.tendermint.driver import Driver, step
from consensus.tendermint.evidence import accuse
from consensus.tendermint.timeouts import duration_ms
from consensus.tendermint.types import Certificate, Vote, VoteType
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.messages.base import Signed
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    DayOpening,
    HandOverFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    SettlementFrame,
    StatusFrame,
    batch_hash,
)
from gossip.messages.session import Settlement


class MemberCore:
    """One member's part in the committee."""

    def __init__(
        self,
        address: Address,
        terms: Terms,
        *,
        ledger: Ledger,
        following: Following,
        secrets: Secrets,
    ) -> None:
        self.ledger = self._decided_ledger = ledger
        self.height = self._next_height()
        self.pool = SettlementPool()
        self._address = address
        self._terms = terms
        self._following = following
        self._secrets = secrets
        self._driver = Driver.idle(address, ledger.height + 1)
        self._slot = 0
        self._commitments = Commitments(address, secrets)
        self._verdicts = Verdicts(terms.params)
        self.orders = Orders(address, terms.params)
        self._relief = Relief(address)
        self._selection: tuple[object, Selection] | None = None
        """What was begun last, and for which slot, opening, ledger and pool."""
        self._effects: list[Effect] = []

    def handle(self, event: Input) -> list[Effect]:
        """Take one input; what is to be done about it, in order."""
        self._take(event)
        effects, self._effects = self._effects, []
        return effects

    @property
    def slot(self) -> int:
        """The slot that has begun, as far as this member was told."""
        return self._slot

    @property
    def _committee(self) -> Committee:
        """Who decides the height in progress."""
        return self.ledger.committee

    @property
    def _is_member(self) -> bool:
        """Whether this one is among them; it may have been relieved, or wait to be drawn."""
        return self.ledger.committee.weight(self._address) > 0

    @property
    def _first_round(self) -> int:
        return RESCUE_ROUNDS * self.ledger.running.epoch if self.ledger.is_rescued else 0

    def _next_height(self) -> Height:
        return Height(self.ledger.height + 1, round=self._first_round)

    def status(self) -> StatusFrame:
        """Where this member stands, for the others."""
        return StatusFrame(self.height.number, self.height.round)

    def _take(self, event: Input) -> None:
        match event:
            case events.SlotBegan(slot):
                self._begin_slot(slot)
            case events.TimerElapsed(step_, height, round_):
                if height == self.height.number:
                    self._drive(core_events.TimeoutElapsed(step_, height, round_))
            case events.SettlementHeard() | events.SettlementsHeard() | events.OpinionHeard() | events.OrderHeard():
                self._take_filing(event)
            case events.CommitmentHeard(commitment):
                self._commitments.note(commitment, self.ledger, self._terms.params.day_of(self._slot))
            case events.StatusHeard(member, height, round_):
                self._help(member, height, round_)
            case events.OpeningMade(opening):
                self._propose_with(opening)
            case events.OpeningJudged(value, is_fair):
                for proposal in self.height.unjudged.pop(value, []):
                    self._judge(proposal, None if is_fair else "its day opening is not the chain's")
            case events.BatchAdopted(batch):
                self._adopted(batch)
            case events.HandOverHeard() | events.HandOverSigned() | events.Rescued():
                self._take_succession(event)
            case _ if self._is_member:
                self._take_message(event)

    def _take_succession(self, event: events.HandOverHeard | events.HandOverSigned | events.Rescued) -> None:
        match event:
            case events.HandOverHeard(vote, member):
                self._relief.note(vote, member, self.ledger)
            case events.HandOverSigned(vote):
                self._relief.note(vote, self._address, self.ledger)
                self._do(events.Tell(HandOverFrame(vote)))
            case events.Rescued(term):
                self._rescued(term)

    def _take_message(self, event: Input) -> None:
        """A signed message of consensus, another member's or this one's own."""
        match event:
            case events.ProposalHeard(frame):
                self._hear_proposal(frame)
            case events.ReproposalHeard(proposal):
                held = self.height.values.get(proposal.payload.batch_hash)
                if held is not None:
                    self._hear_proposal(ProposalFrame(proposal, *held))
            case events.PrevoteHeard(vote, member) | events.PrecommitHeard(vote, member):
                self._hear_vote(vote, member)
            case events.PolkaHeard(height, round_, value, members):
                self._hear_polka(Certificate(VoteType.PREVOTE, height, round_, value, frozenset(members)))
            case events.ProposalSigned(frame):
                self._own_proposal(frame)
            case events.PrevoteSigned(vote):
                self._own_vote(vote, PrevoteFrame(vote))
            case events.PrecommitSigned(vote):
                self._own_vote(vote, PrecommitFrame(vote))

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)

    # Slots and the pool.

    def _begin_slot(self, slot: int) -> None:
        """A slot has ended: settle what came in, open the new day, commit to the days ahead."""
        self._slot = max(self._slot, slot)
        ahead = self._commitments.say(self.ledger, self._terms.params.day_of(self._slot))
        self._effects += [*self._relief.say(self.ledger), *self._verdicts.say(), *self.orders.say(), *ahead]
        if self._is_member and self._is_due():
            self._start()
        early, self.height.early = self.height.early, None
        if early is not None:
            self._hear_proposal(early)
        # What was told during the slot that has just ended is on its way into its batch.
        for settlement in self.pool.own(before=self._slot - 1):
            self._do(events.Tell(SettlementFrame(settlement)))

    def _is_due(self) -> bool:
        """No reports, no batch; except that the first ended slot of a day opens it, and that a committee hands over
        when it can and shows itself when it has taken over."""
        closing = self._slot - 1
        if closing <= self.ledger.slot:
            return False
        if (
            self._terms.params.day_of(closing) > self.ledger.day
            or self._is_new()
            or self._verdicts.are_due(self.ledger, closing)
            or self.orders.fit(self.ledger, closing)
        ):
            return True
        return self._relief.certificate(self.ledger) is not None or self._sift(closing)

    def _is_new(self) -> bool:
        """Whether the running committee has taken over and not decided anything yet: until then nobody can claim."""
        return self.ledger.is_rescued or self.ledger.since == self.ledger.height > 0

    def _sift(self, closing: int) -> bool:
        """Whether a batch that closes ``closing`` would settle anything; drop what turns out to be for no batch."""
        if len(self.pool) == 0:
            return False
        chosen = self._select(closing, None)
        is_worth_it = chosen.fill(1) > 0
        self._drop_rejected(chosen)
        return is_worth_it

    def _drop_rejected(self, chosen: Selection) -> None:
        for refused in chosen.rejected:
            if not refused.retry:
                ticket_id = self._ticket_id(refused.settlement)
                if self.pool.forget([ticket_id]):
                    self._do(events.Dropped(ticket_id, refused.reason))

    def _select(self, slot: int, opening: DayOpening | None) -> Selection:
        """What this member would settle in a batch that closes ``slot``; begun once while nothing new has come."""
        hand_over = self._relief.certificate(self.ledger)
        state = slot, opening, hand_over, self.ledger.parent, self.ledger.running.epoch, self.pool.arrivals
        if self._selection is None or self._selection[0] != state:
            chosen = Selection(
                self.ledger,
                self._terms,
                slot=slot,
                opening=opening,
                pending=self.pool.waiting(),
                hand_over=hand_over,
                verified=self._following.verified,
            )
            self._selection = state, chosen
        return self._selection[1]

    def _ticket_id(self, settlement: Settlement) -> Digest:
        return self._following.verified.ticket_id(settlement)

    def _take_filing(
        self, event: events.SettlementHeard | events.SettlementsHeard | events.OpinionHeard | events.OrderHeard
    ) -> None:
        match event:
            case events.SettlementHeard(settlement, own):
                self._hear_settlement(settlement, own=own)
            case events.SettlementsHeard(settlements):
                for settlement in settlements:
                    self._hear_settlement(settlement, own=False)
            case events.OpinionHeard():
                self._effects += self._verdicts.take(event, self.ledger, self._slot)
            case events.OrderHeard():
                self._effects += self.orders.take(event, self.ledger, self._slot)

    def _hear_settlement(self, settlement: Settlement, *, own: bool) -> None:
        ticket_id = self._ticket_id(settlement)
        if not own and self.ledger.is_settled(settlement.rfc.payload):
            return
        try:
            is_new = self.pool.add(ticket_id, settlement, own=own, slot=self._slot)
        except SettlementInvalid as error:
            self._do(events.Dropped(ticket_id, str(error)))
            return
        if own and is_new:
            self._do(events.Tell(SettlementFrame(settlement)))

    # What others say.

    def _hear_proposal(self, frame: ProposalFrame) -> None:
        proposal = frame.proposal.payload
        if proposal.height != self.height.number:
            return
        if proposal.proposer != self._committee.proposer(proposal.height, proposal.round):
            return
        if frame.header.slot == self._slot:
            # The proposer's clock is a little ahead of this one: the slot is about to end here, too.
            self.height.early = frame
            return
        if proposal.round > self.height.round + MAX_ROUNDS_AHEAD:
            return
        if not self.height.keep_value(proposal.batch_hash, frame.header, frame.body, proposal.proposer):
            return
        self.height.keep(frame.proposal, proposal.proposer)
        self._start()
        reason = self._objection(frame.header, frame.body)
        if reason is None and frame.body.opening is not None:
            self.height.unjudged.setdefault(proposal.batch_hash, []).append(proposal)
            self._do(events.JudgeOpening(proposal.batch_hash, frame.body.opening))
        else:
            self._judge(proposal, reason)

    def _objection(self, header: BatchHeader, body: BatchBody) -> str | None:
        """Why a batch isn't valid(v), as far as this member can tell without the chain."""
        if header.slot >= self._slot:
            return f"slot {header.slot} has not ended"
        try:
            self._following(self.ledger, header, body)
        except BatchInvalid as error:
            return str(error)
        return None

    def _judge(self, proposal: Proposal, objection: str | None) -> None:
        if objection is not None:
            self._do(events.Refused(proposal.batch_hash, objection))
        self._drive(proposal_of(proposal, is_valid=objection is None))

    def _hear_vote(self, vote: Signed[Prevote] | Signed[Precommit], member: Address) -> None:
        if vote.payload.height != self.height.number or self._committee.weight(member) == 0:
            return
        self.height.keep(vote, member)
        # A single member's stray vote starts nothing; the driver keeps it until enough of them have voted.
        if not self.height.started and self._committee.is_third(sum(map(self._committee.weight, self.height.voters()))):
            self._start()
        self._drive(core_events.VoteIn(vote_of(vote.payload, member)))

    def _hear_polka(self, polka: Certificate) -> None:
        if polka.height == self.height.number:
            self._start()
            self._drive(core_events.CertificateIn(polka))

    def _help(self, member: Address, height: int, round_: int) -> None:
        """Give a member what it misses: the decision of its height, or what this member knows of the present one."""
        if height < self.height.number:
            self._do(events.SendDecision(member, height))
        elif height > self.height.number:
            self._do(events.CatchUp(height))
        elif self.height.started:
            polka = self.height.polka(self._committee)
            for frame in (*self.height.frames_for(round_), *([polka] if polka is not None else [])):
                self._do(events.Tell(frame, member))

    # What this member says itself.

    def _own_proposal(self, frame: ProposalFrame) -> None:
        proposal = frame.proposal.payload
        if proposal.height != self.height.number:
            return
        self.height.keep_value(proposal.batch_hash, frame.header, frame.body, self._address)
        self.height.keep(frame.proposal, self._address)
        self._say(frame)
        self._start()
        self._drive(proposal_of(proposal, is_valid=True))

    def _own_vote(self, vote: Signed[Prevote] | Signed[Precommit], frame: PrevoteFrame | PrecommitFrame) -> None:
        if vote.payload.height != self.height.number:
            return
        self.height.keep(vote, self._address)
        self._say(frame)
        self._start()
        self._drive(core_events.VoteIn(vote_of(vote.payload, self._address)))

    def _say(self, frame: ProposalFrame | PrevoteFrame | PrecommitFrame) -> None:
        if frame not in self.height.own_frames:
            self.height.own_frames.append(frame)
        self._do(events.Tell(frame))

    # The driver.

    def _start(self) -> None:
        if not self.height.started:
            self.height.started = True
            self._drive(core_events.Start(self.height.number, self._committee, self._first_round))

    def _drive(self, event: core_events.Input) -> None:
        """Run the driver on ``event`` and on everything that follows from it at once."""
        waiting = [event]
        while waiting:
            self._driver, effects = step(self._driver, waiting.pop(0))
            for effect in effects:
                answer = self._obey(effect)
                if answer is not None:
                    waiting.append(answer)

    def _obey(self, effect: core_events.Effect) -> core_events.Input | None:
        match effect:
            case core_events.ScheduleTimeout(step_, height, round_):
                self.height.round = max(self.height.round, round_)
                delay = duration_ms(step_, round_ - self._first_round, self._terms.params)
                self._do(events.SetTimer(step_, height, round_, delay))
            case core_events.GetValue(height, round_):
                return self._build(height, round_)
            case core_events.Propose():
                if effect.value in self.height.values:
                    self._do(events.SignProposal(proposal_payload(effect, self._address)))
            case core_events.CastVote():
                self._cast(effect)
            case core_events.Decided():
                self._decided(effect)
            case core_events.EquivocationFound(first, second):
                self._accuse(first, second)
        return None

    def _cast(self, cast: core_events.CastVote) -> None:
        payload = payload_of(cast, self._committee.root)
        self._do(events.SignPrevote(payload) if isinstance(payload, Prevote) else events.SignPrecommit(payload))

    def _build(self, height: int, round_: int) -> core_events.ValueReady | None:
        """A batch to propose; None where there is nothing, or where the day's opening must be made first."""
        if height != self.height.number or not self._is_due():
            return None
        day = self._terms.params.day_of(self._slot - 1)
        if day > self.ledger.day:
            self.height.wants_opening = height, round_
            self._do(events.MakeOpening(day))
            return None
        return self._batch(height, round_, None)

    def _propose_with(self, opening: DayOpening) -> None:
        wanted, self.height.wants_opening = self.height.wants_opening, None
        if wanted is not None and opening.day == self._terms.params.day_of(self._slot - 1):
            ready = self._batch(*wanted, opening)
            if ready is not None:
                self._drive(ready)

    def _batch(self, height: int, round_: int, opening: DayOpening | None) -> core_events.ValueReady | None:
        slot = self._slot - 1
        day = self._terms.params.day_of(slot)
        commitments, listings = self._commitments.fresh(self.ledger, day), self.orders.fit(self.ledger, slot)
        chosen = self._select(slot, opening)
        chosen.fill(self._terms.params.batch_settlements)
        self._drop_rejected(chosen)
        self._selection = None  # what is proposed now is used up
        is_empty = not chosen.settled and not listings and opening is None and chosen.hand_over is None
        if is_empty and not self._is_new() and not self._verdicts.are_due(self.ledger, slot):
            return None
        has_committed = self._address in self.ledger.commitments.get(day, {})
        reveal = self._secrets.of_slot(slot) if has_committed else ZERO_DIGEST
        header, body, after = propose_selection(
            chosen,
            proposer=self._address,
            reveal=reveal,
            commitments=commitments,
            opinions=self._verdicts.fit(self.ledger, slot),
            listings=listings,
        )
        self._following.note(self.ledger, header, after)
        value = batch_hash(header)
        self.height.keep_value(value, header, body, self._address)
        return core_events.ValueReady(height, round_, value)

    def _decided(self, decided: core_events.Decided) -> None:
        value = Digest(decided.value)
        held = self.height.precommits(decided.round, value)
        header, body = self.height.values[value]
        try:
            certificate = assemble_certificate(decided.height, decided.round, value, self._committee, held)
        except CertificateInvalid:
            # Counted as a unit, or flooded out: another member has the signatures, and sends the decision.
            return
        self._do(events.Certified(CertifiedBatch(header, certificate, body)))

    def _adopted(self, batch: CertifiedBatch) -> None:
        if batch.header.height != self.height.number:
            return
        pending = self.ledger.running if self.ledger.is_rescued and batch.body.rescue is None else None
        before = rescued_as_told(self._decided_ledger, batch.body)
        self.ledger = self._decided_ledger = self._following(before, batch.header, batch.body)
        self.pool.forget(outcome.ticket_id for outcome in self.ledger.outcomes)
        self._verdicts.prune(self.ledger, self._slot)
        self.orders.prune(self.ledger, self._slot)
        self.height = self._next_height()
        self._effects += self._relief.say(self.ledger)
        if pending is not None:  # the silent committee had decided this batch after all
            self._rescued(pending)

    def _rescued(self, term: Term) -> None:
        """Begin the height anew with the committee that the registry says; what was said before counts no more."""
        if term.epoch <= self.ledger.running.epoch:
            return
        self.ledger = rescue(self.ledger, term.committee)
        self.height = self._next_height()
        self._driver = Driver.idle(self._address, self.height.number)

    def _accuse(self, first: Vote | core_events.ProposalIn, second: Vote | core_events.ProposalIn) -> None:
        messages = [said_by(self.height, one) for one in (first, second)]
        if messages[0] is None or messages[1] is None:
            return
        try:
            evidence = accuse(messages[0], messages[1], self._committee, self._terms.domain)
        except EvidenceInvalid:
            return
        self._do(events.Accused(evidence))
