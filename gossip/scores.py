"""Who misbehaved how much: points that fade, and a ban above a threshold. Pure: time comes in as seconds.

The library's own scorer is a sketch (two of its inputs are never fed, its weights are zero and its thresholds minus
infinity), so this is the only score that counts here: invalid messages, broken protocol and whatever the application
finds fault with.
"""

from dataclasses import dataclass

_TRACKED = 4096
"""Peers remembered; the one least recently penalised is forgotten first."""


@dataclass(slots=True)
class _Record:
    points: float
    updated: float
    banned_until: float


class PeerScores:
    """Points per peer. ``half_life`` and ``ban`` are seconds."""

    def __init__(self, threshold: int, half_life: float, ban: float) -> None:
        self._threshold = threshold
        self._half_life = half_life
        self._ban = ban
        self._records: dict[str, _Record] = {}

    def penalise(self, peer: str, points: int, now: float) -> bool:
        """Add ``points``; True if ``peer`` is banned from now on, False if it isn't or already was."""
        record = self._records.pop(peer, None) or _Record(0.0, now, 0.0)
        record.points = self._faded(record, now) + points
        record.updated = now
        self._records[peer] = record
        while len(self._records) > _TRACKED:
            del self._records[next(iter(self._records))]
        if record.points < self._threshold or record.banned_until > now:
            return False
        record.banned_until = now + self._ban
        record.points = 0.0
        return True

    def points(self, peer: str, now: float) -> float:
        """What is left of the peer's points."""
        record = self._records.get(peer)
        return 0.0 if record is None else self._faded(record, now)

    def is_banned(self, peer: str, now: float) -> bool:
        """Whether ``peer`` is refused now."""
        record = self._records.get(peer)
        return record is not None and record.banned_until > now

    def _faded(self, record: _Record, now: float) -> float:
        return float(record.points * 0.5 ** ((now - record.updated) / self._half_life))
