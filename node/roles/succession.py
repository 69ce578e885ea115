"""Home routers that go and come back within a day: who may serve a user, and what is told so that nothing is lost or
spent twice (S36).

A router tells the next two in a user's ranking what is used of its passes, before it answers with a match. Once it has
been silent for :data:`GONE_MS`, the next in rank gives the rest anew and says which passes end with that. A router
serves only while it hears more than two thirds of the stake, and stops within :data:`LEASE_MS` once it doesn't: before
anybody may take over. One that comes back asks the others first what they gave in its place.
"""

from collections.abc import Callable

from consensus.market.allowances import Allowances
from contracts.typed_data import Address
from gossip.messages import Signed
from gossip.messages.committee import CaughtUpFrame, PassFrame, UsageFrame
from gossip.messages.market import PassIssued
from node.context import Node, now_ms
from node.roles.link import CommitteeLink
from node.roles.public import PublicState

LEASE_MS = 5_000
"""A member that was not heard for so long does not count: every member says its status each second."""

GONE_MS = 10_000
"""A router that was silent for so long has stopped serving, by its own lease: its passes may end."""

SUCCESSORS = 2
"""Routers next in a user's ranking that are told what is used of its passes."""

KEPT_ENDS = 4_096
"""Passes of a day remembered that ended others; the oldest go first."""


class Succession:
    """One router's part in it. ``heard`` says when a member was last heard, in Unix ms."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        link: CommitteeLink,
        allowances: Allowances,
        heard: Callable[[Address], int | None],
    ) -> None:
        self._node = node
        self._public = public
        self._link = link
        self._allowances = allowances
        self._heard = heard
        self._begun_ms = now_ms()
        self._ends: dict[Address, Signed[PassIssued]] = {}
        """By session key: the passes that ended others, of anybody."""
        self._caught_up: dict[Address, int] = {}
        """Members that have told what happened while this router was away, and when, in Unix ms."""

    # Who may serve.

    def why_not(self) -> str | None:
        """Why this router may not serve RFCs now; None where it may."""
        committee, now = self._public.committee, now_ms()
        own, total = committee.weight(self._node.address), committee.total
        heard = own + sum(
            member.stake
            for member in committee.members
            if member.address != self._node.address and self._last_heard(member.address) > now - LEASE_MS
        )
        if 3 * heard <= 2 * total:
            return "this router hears too little of the committee: what it matched could be settled by nobody"
        told = sum(committee.weight(member) for member in self._caught_up)
        if 3 * own <= 2 * total and 3 * told <= total:
            return "this router has just come back, and does not know yet what others gave in its place"
        return None

    def gone(self, day: int) -> frozenset[Address]:
        """The routers of ``day`` that have been silent for so long that they serve nobody; none where this router may
        not serve itself."""
        if self.why_not() is not None:
            return frozenset()
        now = now_ms()
        return frozenset(
            router
            for router in self._public.routers(day)
            if router != self._node.address and max(self._begun_ms, self._last_heard(router)) < now - GONE_MS
        )

    def _last_heard(self, member: Address) -> int:
        return max(self._heard(member) or 0, self._caught_up.get(member, 0))

    # What is told.

    def tell_usage(self, session_key: Address) -> None:
        """Tell the next in rank what is used of a pass of this router's."""
        used = self._allowances.used(session_key)
        for successor in self._allowances.successors(session_key, SUCCESSORS):
            self._link.send(successor, UsageFrame(session_key, self._day(), used))

    def hear_usage(self, router: Address, frame: UsageFrame) -> None:
        """A router says what is used of a pass of its own."""
        self._allowances.note_usage(router, frame.session_key, frame.used)

    def hear_pass(self, issued: PassIssued) -> None:
        """A pass as its issuer has just told it: nothing is used of it yet."""
        self._allowances.note_usage(issued.issuer, issued.access_pass.payload.session_key, 0)

    def note_ends(self, issued: Signed[PassIssued]) -> None:
        """Remember a pass that ended others, for when their router comes back."""
        if not issued.payload.ends:
            return
        self._ends[issued.payload.access_pass.payload.session_key] = issued
        while len(self._ends) > KEPT_ENDS:
            del self._ends[next(iter(self._ends))]

    def welcome(self, member: Address) -> None:
        """A member is linked: tell it what happened to its passes meanwhile, and what is used of those that it would
        take over."""
        for issued in self._ends.values():
            ended = [self._allowances.issuer_of(end.session_key) for end in issued.payload.ends]
            if member in ended:
                self._link.send(member, PassFrame(issued))
        self._link.send(member, CaughtUpFrame())
        for session_key in self._allowances.own_keys():
            if member in self._allowances.successors(session_key, SUCCESSORS):
                used = self._allowances.used(session_key)
                self._link.send(member, UsageFrame(session_key, self._day(), used))

    def hear_caught_up(self, member: Address) -> None:
        """A member has told all that it knows."""
        self._caught_up[member] = now_ms()

    def forget_before(self, day: int) -> None:
        """Drop earlier days."""
        self._ends = {key: held for key, held in self._ends.items() if held.payload.access_pass.payload.day >= day}

    def _day(self) -> int:
        return self._node.terms.params.day_of(self._node.slot())
