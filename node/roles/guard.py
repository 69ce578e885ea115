"""Never sign twice for one place: what this member signed last, on disk before the signature leaves.

A place is (height, round, step). A restarted member repeats what it said there, and says nothing else.
"""

import json

from contracts.typed_data import Digest
from node.context import Node

_ORDER = {"PROPOSE": 0, "PREVOTE": 1, "PRECOMMIT": 2}
_KEY = "signed"


class SigningRecord:
    """The watermark of one key."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: tuple[int, int, int] = (0, -1, -1)
        self._digest = ""

    async def load(self) -> None:
        """Read the watermark of an earlier run."""
        stored = await self._node.store.get_value(_KEY)
        if stored is not None:
            height, round_, step, self._digest = json.loads(stored)
            self._last = height, round_, step

    async def allows(self, step: str, height: int, round_: int, value: Digest) -> bool:
        """Whether ``value`` may be signed; when True, the watermark is on disk."""
        place = height, round_, _ORDER[step]
        if place == self._last:
            return self._digest == value.hex()
        if place < self._last:
            self._node.log.warning("not signing below the watermark", place=place, last=self._last)
            return False
        await self._node.store.put_value(_KEY, json.dumps([*place, value.hex()]).encode())
        self._last, self._digest = place, value.hex()
        return True
