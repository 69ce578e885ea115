"""A scoring session's answer: a query with token ids to score is served like any other, a score for each T.

Ticket, vouchers, receipt and pay are those of every session; the T that count are the T that were scored. In the place
of token ids stand the packed scores, so that the receipt commits to them; the text is for people.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from inference.audit import TokenScore, pack_score, write_score
from inference.engine import Generation, Piece, Scorer


class AnswerSource(Protocol):
    """Where a session's answer comes from: an engine, or its second opinion."""

    def generate(self, request: Generation) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Stream an answer; leaving the context cancels what is still running."""


class SecondOpinion:
    """An :class:`AnswerSource` that scores ``token_ids`` instead of answering."""

    def __init__(self, scorer: Scorer, token_ids: tuple[int, ...]) -> None:
        self._scorer = scorer
        self._token_ids = token_ids

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """Stream the scores, each as the piece of the T that it is about."""
        async with self._scorer.score(request.messages, self._token_ids, request.tools) as scores:
            yield _ScorePieces(scores)


class _ScorePieces:
    def __init__(self, scores: AsyncIterator[TokenScore]) -> None:
        self._scores = scores
        self._ended = False

    def __aiter__(self) -> "_ScorePieces":
        return self

    async def __anext__(self) -> Piece:
        if self._ended:
            raise StopAsyncIteration
        try:
            score = await anext(self._scores)
        except StopAsyncIteration:
            self._ended = True
            return Piece("", (), "stop")
        return Piece(write_score(score), (pack_score(score),))
