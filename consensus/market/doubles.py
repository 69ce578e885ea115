"""What a node watches for in passes and RFCs: two that exclude each other, and passes above UserMax.

Two passes for one session key, and one index used twice, are proven by the messages alone (:mod:`consensus.evidence`).
That a router has issued more to a user than UserMax only members can see, for they alone know for whom a pass is
(S34): that stays among them.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

from consensus.errors import EvidenceInvalid
from consensus.evidence import DoubleIndex, DoublePass, Evidence, accuse_index, accuse_pass
from contracts.typed_data import Address, Domain
from gossip.messages.base import Signed
from gossip.messages.market import AccessPass, PassIssued, Rfc

KEPT = 20_000
"""Passes, and RFCs, remembered; the oldest go first."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Doubles:
    """Remembers passes and RFCs whose signatures hold, and says where two exclude each other."""

    def __init__(self, domain: Domain, kept: int = KEPT) -> None:
        self._domain = domain
        self._kept = kept
        self._passes: OrderedDict[tuple[Address, Address, int], Signed[AccessPass]] = OrderedDict()
        """By issuer, session key and day."""
        self._rfcs: OrderedDict[tuple[Address, int], Signed[Rfc]] = OrderedDict()
        """By session key and index."""

    def note_rfc(self, rfc: Signed[Rfc]) -> tuple[Evidence, ...]:
        """Remember an RFC and its pass; the evidence that they complete."""
        asked = rfc.payload
        held = self._remember(self._rfcs, (asked.session_key, asked.index), rfc)
        found = (self._index(held, rfc), self.note_pass(asked.access_pass))
        return tuple(evidence for evidence in found if evidence is not None)

    def note_pass(self, access_pass: Signed[AccessPass]) -> DoublePass | None:
        """Remember a pass; the evidence that it completes."""
        given = access_pass.payload
        held = self._remember(self._passes, (given.issuer, given.session_key, given.day), access_pass)
        if held.payload == given:
            return None
        return accuse_pass(held, access_pass, self._domain)

    def _index(self, held: Signed[Rfc], rfc: Signed[Rfc]) -> DoubleIndex | None:
        """Two RFCs under two passes may share an index; the passes are then what is looked at."""
        if held.payload == rfc.payload:
            return None
        try:
            return accuse_index(held, rfc, self._domain)
        except EvidenceInvalid:
            return None

    def _remember(self, known: OrderedDict[K, V], place: K, message: V) -> V:
        """What was there before at ``place``, or else ``message``."""
        held = known.setdefault(place, message)
        while len(known) > self._kept:
            known.popitem(last=False)
        return held


class Issuance:
    """What each router has issued to each user on a day, in T, as its ``PassIssued`` messages say.

    The sum over *all* routers may honestly exceed UserMax, where a second router took over from a first that it could
    not hear; one router's own sum may not.
    """

    def __init__(self) -> None:
        self._issued: dict[tuple[int, Address, Address], dict[Address, int]] = {}

    def note(self, issued: PassIssued) -> None:
        """Take note of a pass whose signatures hold."""
        access_pass = issued.access_pass.payload
        place = access_pass.day, issued.issuer, issued.request.payload.user
        of_user = self._issued.setdefault(place, {})
        of_user[access_pass.session_key] = max(access_pass.allowance, of_user.get(access_pass.session_key, 0))

    def total(self, issuer: Address, user: Address, day: int) -> int:
        """T that ``issuer`` has issued to ``user`` for ``day``."""
        return sum(self._issued.get((day, issuer, user), {}).values())

    def forget_before(self, day: int) -> None:
        """Drop earlier days."""
        self._issued = {place: held for place, held in self._issued.items() if place[0] >= day}
