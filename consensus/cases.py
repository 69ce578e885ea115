"""The offences that a node knows: one case each, bounded however many a faulty member signs.

An offender can make offences at will, so how many are kept is counted by the committee member who answers for them:
for an abused pass that is its issuer, since session keys cost nothing.
"""

from collections import Counter

import msgspec

from consensus.evidence import Equivocation, Evidence, Offence, OffenceKind
from contracts.typed_data import Address, Digest

KEPT_PER_MEMBER = 8
"""Cases of one kind against one member: the first convicts, the others are for the record."""

KEPT_ABUSES_PER_ISSUER = 256
"""Passes of one issuer that were abused, of the days that count."""

MAX_CASES = 2_048
"""Cases against members; and as many of abused passes."""


class Case(msgspec.Struct, frozen=True):
    """Evidence that was examined. ``first_seen_ms`` is Unix ms, by this node's clock."""

    evidence: Evidence
    offence: Offence
    first_seen_ms: int

    @property
    def equivocation(self) -> Equivocation | None:
        """The evidence, where it is of a kind that the registry punishes."""
        return self.evidence if isinstance(self.evidence, Equivocation) else None


class Cases:
    """Cases by offence, in the order in which they came."""

    def __init__(self) -> None:
        self._cases: dict[Digest, Case] = {}
        self._counts: Counter[tuple[OffenceKind, Address]] = Counter()
        self._abuses = 0
        self._held: set[Evidence] = set()
        self._issued_twice: set[tuple[Address, int]] = set()
        self._abused: set[tuple[Address, int]] = set()

    def __len__(self) -> int:
        return len(self._cases)

    def get(self, offence_id: Digest) -> Case | None:
        """The case of an offence, None for an unknown one."""
        return self._cases.get(offence_id)

    def all(self) -> tuple[Case, ...]:
        """Every case, oldest first."""
        return tuple(self._cases.values())

    def holds(self, evidence: Evidence) -> bool:
        """Whether exactly this evidence is here; it was examined then."""
        return evidence in self._held

    def has_room_for(self, offence: Offence, *, day: int) -> bool:
        """Whether a case is new and would be kept; ``day`` is today.

        A pass counts on its day alone, so the abuse of one of another day than today, give or take a day for clocks
        that differ, is not kept.
        """
        if offence.id in self._cases:
            return False
        taken = self._counts[offence.kind, offence.answerable]
        if offence.kind is OffenceKind.RFC_INDEX:
            return abs(offence.day - day) <= 1 and taken < KEPT_ABUSES_PER_ISSUER and self._abuses < MAX_CASES
        return taken < KEPT_PER_MEMBER and len(self._cases) - self._abuses < MAX_CASES

    def add(self, case: Case, *, day: int) -> bool:
        """Keep a case; False where it is known or there is no room, and then nothing changes."""
        if not self.has_room_for(case.offence, day=day):
            return False
        self._cases[case.offence.id] = case
        self._held.add(case.evidence)
        if case.offence.kind is OffenceKind.ACCESS_PASS:
            self._issued_twice.add((case.offence.offender, case.offence.day))
        if case.offence.kind is OffenceKind.RFC_INDEX:
            self._abused.add((case.offence.offender, case.offence.day))
        self._count(case.offence, 1)
        return True

    def forget_abuses_before(self, day: int) -> tuple[Digest, ...]:
        """Drop abused passes of days before ``day``; which. What members did is kept for good."""
        gone = [
            case
            for case in self._cases.values()
            if case.offence.kind is OffenceKind.RFC_INDEX and case.offence.day < day
        ]
        for case in gone:
            del self._cases[case.offence.id]
            self._held.remove(case.evidence)
            self._count(case.offence, -1)
            self._abused.discard((case.offence.offender, case.offence.day))
        return tuple(case.offence.id for case in gone)

    def equivocators(self) -> frozenset[Address]:
        """Members that signed two things for one place of a height."""
        return frozenset(case.offence.offender for case in self._cases.values() if case.equivocation)

    def has_issued_twice(self, router: Address, day: int) -> bool:
        """Whether ``router`` gave two passes to one session key for ``day``."""
        return (router, day) in self._issued_twice

    def has_abused(self, session_key: Address, day: int) -> bool:
        """Whether ``session_key`` used one index of its pass of ``day`` twice, which ended the pass."""
        return (session_key, day) in self._abused

    def _count(self, offence: Offence, by: int) -> None:
        place = offence.kind, offence.answerable
        self._counts[place] += by
        if not self._counts[place]:
            del self._counts[place]
        self._abuses += by if offence.kind is OffenceKind.RFC_INDEX else 0
