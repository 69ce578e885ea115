"""T of an answer whose server names no token ids: the model's tokenizer over the text, as far as words are complete.

A token's neighbours decide how text is cut, so what stands behind the last gap waits until the next word has begun.
The count is that of the text as anyone with the tokenizer finds it, not of the ids that were drawn.
"""

import re
from collections.abc import Awaitable, Callable

Tokenize = Callable[[str], Awaitable[list[int]]]
"""Plain text to token ids, without a start token and without parsing control tokens."""

SETTLED_BYTES = 24
"""Less text than this waits for more: a call for each word would cost more than it tells."""

_GAP = re.compile(r"^(.*\S)(\s+\S*)$", re.DOTALL)


class TextCounter:
    """Turns arriving text into the ids of all of it."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._waiting = ""

    async def add(self, text: str) -> tuple[int, ...]:
        """The ids that are settled now; often none."""
        self._waiting += text
        found = _GAP.match(self._waiting)
        if found is None or len(found[1]) < SETTLED_BYTES:
            return ()
        self._waiting = found[2]
        return tuple(await self._tokenize(found[1]))

    async def rest(self) -> tuple[int, ...]:
        """The ids of what still waits, once no text follows."""
        waiting, self._waiting = self._waiting, ""
        return tuple(await self._tokenize(waiting)) if waiting else ()
