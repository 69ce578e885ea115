"""How far apart an answer's frames go while a process streams many answers: what a T costs is mostly its frame.

A frame and the voucher that it calls for cost a provider a few hundred µs whether there is one T in it or twenty. So
answers share a number of frames a second, and a frame holds all T that have come since the one before. With up to
:data:`FULL_ANSWERS` answers they go so far apart that nothing waits at 50 T/s; beyond, the T themselves take more of
the core, and what is left for frames shrinks. Time comes in as seconds of any steady clock.
"""

FRAMES_PER_S = 4_000.0
"""Frames that one process sends in a second, of all answers: more than 64 of them need at 50 T/s."""

FULL_ANSWERS = 64
"""Answers among which so many frames are shared; among twice as many it is half of them, for there are twice the T."""

LONGEST_GAP_S = 0.5
"""A reader waits no longer for the next words than that, unless :data:`FRAMES_PER_S` would be exceeded; at 50 T/s it is
25 T, which fits into a voucher window of 32."""

SLACK_S = 0.05
"""How far an answer may run ahead of its pace: T come in little bursts, which need not be evened out."""

READ_AHEAD_S = 0.02
"""So long before a frame is due, what the engine has said meanwhile is read: waking up for each T costs more."""


class FramePace:
    """What the answers of one process share."""

    def __init__(self, frames_per_s: float = FRAMES_PER_S) -> None:
        self._frames_per_s = frames_per_s
        self.answers = 0
        """Answers that have begun and not ended."""

    @property
    def gap_s(self) -> float:
        """Seconds between two frames of one answer, on average at least."""
        return compute_gap_s(self.answers, self._frames_per_s)


def compute_gap_s(answers: float, frames_per_s: float = FRAMES_PER_S) -> float:
    """Seconds between two frames of one of ``answers`` at once."""
    shared = answers / frames_per_s
    return max(shared, min(LONGEST_GAP_S, shared * answers / FULL_ANSWERS))


class AnswerPace:
    """One answer's share; counted from its first T until :meth:`end`. Its first frame is always due."""

    def __init__(self, pace: FramePace) -> None:
        self._pace = pace
        self._next = float("-inf")
        self._counts = False

    @property
    def due(self) -> float:
        """When the next frame may go."""
        return self._next - SLACK_S

    def sent(self, now: float) -> None:
        """A frame goes at ``now``."""
        if not self._counts:
            self._counts = True
            self._pace.answers += 1
        self._next = max(now, self._next) + self._pace.gap_s

    def end(self) -> None:
        """No more frames come. Idempotent."""
        if self._counts:
            self._counts = False
            self._pace.answers -= 1
