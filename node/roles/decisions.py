"""When a large decision is sent to a member that is behind: megabytes that every member would send it each second."""

from collections import OrderedDict

from contracts.typed_data import Address

DECIDE_S = 3.0
"""So long a member that is one height behind is left to decide by itself, as it mostly does."""

AGAIN_S = 10.0
"""After so long what was sent counts as lost."""

REMEMBERED = 8
"""Large decisions that are known; older ones go to who asks at once."""


class LargeDecisions:
    """The last large batches that this member adopted, and to whom they were sent. Times are s of any clock."""

    def __init__(self) -> None:
        self._adopted: OrderedDict[int, float] = OrderedDict()
        self._sent: dict[tuple[Address, int], float] = {}

    def note(self, height: int, now_s: float) -> None:
        """A large batch of ``height`` was adopted."""
        self._adopted[height] = now_s
        while len(self._adopted) > REMEMBERED:
            gone, _ = self._adopted.popitem(last=False)
            self._sent = {place: at_s for place, at_s in self._sent.items() if place[1] != gone}

    def is_due(self, member: Address, height: int, now_s: float) -> bool:
        """Whether to send ``member`` the decision of ``height`` now; then it counts as sent. Small ones always are."""
        adopted_s = self._adopted.get(height)
        if adopted_s is None:
            return True
        sent_s = self._sent.get((member, height))
        if now_s < adopted_s + DECIDE_S or (sent_s is not None and now_s < sent_s + AGAIN_S):
            return False
        self._sent[member, height] = now_s
        return True
