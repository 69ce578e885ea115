"""RFCs that their askers have taken back, so that saying it twice, or before the RFC has come, comes to the same."""

from collections import Counter, OrderedDict

from contracts.typed_data import Address, Digest

MAX_WITHDRAWN = 20_000
"""Withdrawals of RFCs that were here which are remembered; the oldest go first."""

MAX_EARLY = 4_096
"""Withdrawals that came before their RFCs; so here."""

EARLY_PER_USER = 16
"""Those of one user: its next pushes out its own first, and nobody else's."""


class Withdrawals:
    """One router's. What is forgotten is an RFC that may be matched after all, as if nobody had said anything."""

    def __init__(self) -> None:
        self._costs: OrderedDict[tuple[Address, Digest], int] = OrderedDict()
        self._early: OrderedDict[tuple[Address, Digest], Address] = OrderedDict()
        """Session key and RFC id to user."""
        self._early_of: Counter[Address] = Counter()

    def note(self, session_key: Address, rfc_id: Digest, cost: int) -> None:
        """An RFC that was here was taken back, at ``cost`` T."""
        self._costs[session_key, rfc_id] = cost
        while len(self._costs) > MAX_WITHDRAWN:
            self._costs.popitem(last=False)

    def cost(self, session_key: Address, rfc_id: Digest) -> int | None:
        """T that a withdrawal cost; None where there was none, or it came before its RFC."""
        return self._costs.get((session_key, rfc_id))

    def note_early(self, user: Address, session_key: Address, rfc_id: Digest) -> None:
        """An RFC of ``user`` was taken back that hasn't come yet."""
        if (session_key, rfc_id) in self._early:
            return
        if self._early_of[user] >= EARLY_PER_USER:
            self._drop(next(place for place, of in self._early.items() if of == user))
        self._early[session_key, rfc_id] = user
        self._early_of[user] += 1
        while len(self._early) > MAX_EARLY:
            self._drop(next(iter(self._early)))

    def has_come(self, session_key: Address, rfc_id: Digest) -> bool:
        """Whether an RFC was taken back before it came."""
        return (session_key, rfc_id) in self._early

    def _drop(self, place: tuple[Address, Digest]) -> None:
        user = self._early.pop(place)
        self._early_of[user] -= 1
        if not self._early_of[user]:
            del self._early_of[user]
