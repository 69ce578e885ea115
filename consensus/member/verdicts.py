"""Second opinions on their way into a batch, at one member."""

from consensus.market.errors import OpinionInvalid
from consensus.market.ledger_state import Ledger
from consensus.market.maturing import has_work
from consensus.market.opinions import check_opinion
from consensus.member.events import Effect, OpinionDropped, OpinionHeard, Tell
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed
from gossip.messages.committee import OpinionFrame
from gossip.messages.opinions import Opinion

MAX_HELD = 4_096
"""Opinions held at most; past that the oldest go, and their scorers file them again."""


class Verdicts:
    """Opinions whose signatures hold, one of a scorer on a ticket."""

    def __init__(self, params: NetworkParams) -> None:
        self._params = params
        self._held: dict[tuple[Digest, Address], Signed[Opinion]] = {}
        self._own: set[tuple[Digest, Address]] = set()

    def take(self, heard: OpinionHeard, ledger: Ledger, slot: int) -> list[Effect]:
        """Take one that was heard; ``own`` ones, filed with this member, are told to the committee until they count."""
        signed = heard.opinion
        place = signed.payload.ticket_id, signed.payload.scorer
        if place in self._held:
            return []
        try:
            self._check(signed, ledger, slot)
        except OpinionInvalid as error:
            return [OpinionDropped(signed.payload.ticket_id, str(error))]
        self._held[place] = signed
        while len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]
        if not heard.own:
            return []
        self._own.add(place)
        return [Tell(OpinionFrame(signed))]

    def say(self) -> list[Effect]:
        """Those that were filed with this member and are in no batch yet, for who missed them."""
        return [Tell(OpinionFrame(held)) for place, held in self._held.items() if place in self._own]

    def are_due(self, ledger: Ledger, closing: int) -> bool:
        """Whether a batch that closes ``closing`` would pick or mature something, or a scorer has spoken."""
        credited = sum(made.credited_wei for made in ledger.outcomes)
        is_new_day = self._params.day_of(closing) > ledger.day
        is_due = has_work(ledger.audits, credited, closing, self._params, is_new_day=is_new_day)
        return is_due or bool(self.fit(ledger, closing))

    def fit(self, ledger: Ledger, slot: int) -> tuple[Signed[Opinion], ...]:
        """Those that a batch closing ``slot`` would take, each by itself."""
        return tuple(held for held in self._held.values() if self._fits(held, ledger, slot))

    def prune(self, ledger: Ledger, slot: int) -> None:
        """Forget what has been told or decided."""
        self._held = {place: held for place, held in self._held.items() if self._may_fit(held, ledger, slot)}
        self._own &= self._held.keys()

    def _check(self, signed: Signed[Opinion], ledger: Ledger, slot: int) -> None:
        try:
            opinion = signed.payload
            check_opinion(ledger.audits.pick(opinion.ticket_id), opinion, slot, self._params)
        except OpinionInvalid as error:
            if not error.retry:
                raise

    def _may_fit(self, signed: Signed[Opinion], ledger: Ledger, slot: int) -> bool:
        try:
            self._check(signed, ledger, slot)
        except OpinionInvalid:
            return False
        return True

    def _fits(self, signed: Signed[Opinion], ledger: Ledger, slot: int) -> bool:
        try:
            opinion = signed.payload
            check_opinion(ledger.audits.pick(opinion.ticket_id), opinion, slot, self._params)
        except OpinionInvalid:
            return False
        return True
