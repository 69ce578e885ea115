"""Teacher forcing with a llama.cpp server: one request a T, each taking up the cached prompt of the one before.

The server gives no logarithms of a prompt's own T, only of what it would say next: so it is asked for one T after the
prompt and after every T of the answer. A T takes about what it took to generate.

While what it has drawn is no whole character (an emoji's first bytes), the server holds back text and logarithms, and
a request for one T ends without any. What it draws is of no interest here: a bias makes it a T that is a whole
character each time. The logarithms are those from before the bias.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from inference.audit import TokenScore
from inference.errors import ScoresMissing

ALTERNATIVES = 64
"""The likeliest T that are looked through; the claimed one is less likely than all of them where it is not there."""

BIAS = 1_000.0
"""Added to a T's logit, so that no other is drawn."""

Call = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
"""Method, path and body to the server's JSON answer."""


class _Likely(msgspec.Struct, frozen=True):
    id: int
    logprob: float


class _Position(msgspec.Struct, frozen=True):
    top_logprobs: list[_Likely]


class _Said(msgspec.Struct, frozen=True):
    completion_probabilities: list[_Position]


class Scores:
    """An iterator over the scores of ``token_ids`` after ``prompt``; ``drawn`` is a T that is a whole character."""

    def __init__(self, prompt: list[int], token_ids: tuple[int, ...], drawn: int, call: Call) -> None:
        self._known = list(prompt)
        self._left = list(reversed(token_ids))
        self._drawn = drawn
        self._call = call

    def __aiter__(self) -> "Scores":
        return self

    async def __anext__(self) -> TokenScore:
        if not self._left:
            raise StopAsyncIteration
        body = {
            "prompt": self._known,
            "n_predict": 1,
            "temperature": 0.0,
            "top_k": 1,
            "logit_bias": [[self._drawn, BIAS]],
            "n_probs": ALTERNATIVES,
            "cache_prompt": True,
            "stream": False,
        }
        likely = _read(await self._call("POST", "/completion", body))
        token = self._left.pop()
        self._known.append(token)
        best = min(0.0, max(one.logprob for one in likely))
        least = min(one.logprob for one in likely)
        claimed = next((one.logprob for one in likely if one.id == token), least)
        return TokenScore(min(claimed, best), best)


def _read(answer: Any) -> list[_Likely]:
    try:
        likely = msgspec.convert(answer, _Said).completion_probabilities[0].top_logprobs
    except (msgspec.ValidationError, IndexError) as error:
        raise ScoresMissing(f"the engine gave no probabilities: {error}") from error
    if not likely:
        raise ScoresMissing("the engine gave no probabilities")
    return likely
