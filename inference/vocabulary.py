"""What each token id says, so that a user can check T without a tokenizer of its own (S30). Pure.

A provider claims token ids and text. Whoever knows the bytes of every id can see whether the ids say that text, and,
from the tokenizer's merges, whether the same text was cut into needlessly many. Where the bytes come from is
:mod:`inference.vocabulary_files`.
"""

import itertools
from codecs import getincrementaldecoder
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

AHEAD_CHARS = 256
"""Characters that ids may say before, or beyond, the text that came: half characters, and what a stop string cut."""

SURPLUS_T, SURPLUS_SHARE = 4, 16
"""Ids beyond the tokenizer's own count that are believed: so many, and one in so many. A sampled answer, and a
tokenizer's rules that are not known here, are off by a few; a provider that cuts words into letters is off by far."""

WORD_T = 64
"""Ids of a word that are looked at together: some scripts have no spaces."""

_DECODER = getincrementaldecoder("utf-8")


class Merges(Protocol):
    """Which ids a tokenizer joins."""

    def find(self, left: int, right: int) -> tuple[int, int] | None:
        """The rank of joining two neighbours, lower first, and the id that comes of it; None where they stay two."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer's ids. ``pieces`` are their bytes, None for those that say nothing (control tokens)."""

    pieces: tuple[bytes | None, ...]
    merges: Merges = field(repr=False)

    def count(self, ids: Iterable[int]) -> int:
        """T of what ``ids`` say, as the tokenizer would cut it; ids that say nothing are none.

        Words are looked at one by one, because merges do not cross the space before a word.
        """
        words: list[list[int]] = [[]]
        before = b" "
        for one in ids:
            piece = self.pieces[one]
            if not piece:
                continue
            starts = piece[:1] == b"\n" or (piece[:1].isspace() and not before[-1:].isspace())
            if starts or len(words[-1]) == WORD_T:
                words.append([])
            words[-1].append(one)
            before = piece
        return sum(len(self._joined(word)) for word in words)

    def _joined(self, word: list[int]) -> list[int]:
        """The word after every merge that applies, lowest rank first."""
        while True:
            found = [(self.merges.find(*pair), at) for at, pair in enumerate(itertools.pairwise(word))]
            possible = [(merge, at) for merge, at in found if merge is not None]
            if not possible:
                return word
            (_, joined), at = min(possible)
            word = [*word[:at], joined, *word[at + 2 :]]


class TextCheck:
    """Compares one answer's ids with its text as they come. Nothing is kept but what does not yet agree."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = _DECODER(errors="replace")
        self._meant = ""
        """What ids said and no text has yet."""
        self._said = ""
        """What text said and no ids have yet."""
        self._ids: list[int] = []
        self._has_begun = False

    def take(self, text: str, token_ids: tuple[int, ...]) -> str | None:
        """Take the next of both; why they cannot belong together, or None."""
        pieces = self._vocabulary.pieces
        if wrong := [one for one in token_ids if one >= len(pieces)]:
            return f"{wrong[0]} is no id of a vocabulary of {len(pieces)}"
        self._ids += token_ids
        self._meant += self._decoder.decode(b"".join(pieces[one] or b"" for one in token_ids))
        self._said += text
        if not self._has_begun and self._said and self._meant:
            self._has_begun = True
            if self._meant[0] == " " != self._said[0]:  # tokenizers that put a space before the first word
                self._meant = self._meant[1:]
        common = min(len(self._said), len(self._meant))
        if self._said[:common] != self._meant[:common]:
            return "the token ids say other text than was sent"
        self._said, self._meant = self._said[common:], self._meant[common:]
        if len(self._meant) > AHEAD_CHARS:
            return f"the token ids say {len(self._meant)} characters more than was sent"
        return None

    def count(self) -> int:
        """T by the user's count: the ids that say something, or the tokenizer's own count where they are far more."""
        claimed = sum(1 for one in self._ids if self._vocabulary.pieces[one])
        counted = self._vocabulary.count(self._ids)
        return claimed if claimed <= counted + counted // SURPLUS_SHARE + SURPLUS_T else counted
