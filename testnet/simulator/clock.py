"""Virtual time: what happens when, in ms, and in which order where it happens at once."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Agenda(Generic[T]):
    """Coming events by time. Events of one ms come in the order in which they were put in."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._coming: list[tuple[int, int, T]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._coming)

    def put(self, delay_ms: int, event: T) -> None:
        """Let ``event`` happen ``delay_ms`` from now; a negative delay counts as none."""
        heapq.heappush(self._coming, (self.now_ms + max(0, delay_ms), self._count, event))
        self._count += 1

    def take(self) -> T:
        """Go to the next event. Raises IndexError where nothing is coming."""
        self.now_ms, _, event = heapq.heappop(self._coming)
        return event
