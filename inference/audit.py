"""Second opinions on an answer by teacher forcing (S8, S46): scores, limits and the verdict. Pure.

A scorer is given the prompt and the answer's token ids, and says for each id how likely it finds it and how likely its
own best choice. For a greedy answer of the same model the two are one but for rounding; another model differs by whole
nats. Strings are never compared: two builds may differ in a tie and be honest.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

from inference.errors import AuditInvalid

SCORED_MIN = 16
"""Fewer T than this give no verdict."""

_Nats = Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class TokenScore(msgspec.Struct, frozen=True):
    """One T of an answer in a scorer's eyes: natural logarithms of probabilities, at most 0."""

    logprob: float
    """Of the T that was claimed; for one that is not among the most likely, an upper bound."""
    best: float
    """Of the likeliest T."""

    @property
    def gap(self) -> float:
        """How much less likely the claimed T is than the best, in nats; 0 where it is the best."""
        return max(0.0, self.best - self.logprob)


class AuditLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an honest answer of one model stays within; measured by ``yellowstone model calibrate``.

    The defaults lie between what was measured for another build of one model (mean 0.005, largest 0.37) and for
    another model (mean 13).
    """

    mean_gap: _Nats = 0.03
    max_gap: _Nats = 1.0


class Verdict(msgspec.Struct, frozen=True):
    """What a scorer's scores come to. ``passed`` is None where there are too few."""

    passed: bool | None
    tokens: int
    mean_gap: float
    max_gap: float


SAMPLED_GAP = 2.75
"""Mean gap, in nats, that a long answer at a temperature up to 1 stays within. Measured on 240 T of a small model: 0.1
to 0.7 at 0.7, 0.6 to 2.0 at 1, 3.7 to 4.4 at 1.5; T from nowhere 3.3 to 4.4, for a scorer sees the likeliest only."""

SAMPLED_SPREAD = 6.0
"""Nats that one T more may add to a sum: the fewer there are, the less their mean says."""


def judge_answer(scores: Sequence[TokenScore], temperature: float, limits: AuditLimits) -> Verdict:
    """As :func:`judge`, for answers of any length and temperature: what the network's second opinions go by (S8).

    Few T are judged by their largest gap alone, and sampled ones within wider limits, so that neither is a way round
    the opinion.
    """
    found = judge(scores, limits)
    if not scores:
        return found
    if temperature > 0:
        limit = (SAMPLED_GAP + SAMPLED_SPREAD / len(scores)) * max(1.0, temperature) ** 2
        return msgspec.structs.replace(found, passed=found.mean_gap <= limit)
    if len(scores) < SCORED_MIN:
        return msgspec.structs.replace(found, passed=found.max_gap <= limits.max_gap)
    return found


def judge_scoring(claimed: Sequence[TokenScore], own: Sequence[TokenScore], limits: AuditLimits) -> Verdict:
    """Whether another scorer's scores are what this one finds."""
    gaps = [abs(theirs.logprob - mine.logprob) for theirs, mine in zip(claimed, own, strict=True)]
    mean, largest = math.fsum(gaps) / max(1, len(gaps)), max(gaps, default=0.0)
    return Verdict(mean <= limits.mean_gap and largest <= limits.max_gap, len(gaps), mean, largest)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An engine's own answers scored by itself, kept beside the model's hashes; ``limits`` follow from it."""

    model_id: str
    """0x hex."""
    answers: int
    tokens: int
    mean_gap: _Nats
    max_gap: _Nats
    limits: AuditLimits


def judge(scores: Sequence[TokenScore], limits: AuditLimits) -> Verdict:
    """Whether a greedy answer with these scores is the model's own."""
    if not scores:
        return Verdict(None, 0, 0.0, 0.0)
    gaps = [score.gap for score in scores]
    mean, largest = math.fsum(gaps) / len(gaps), max(gaps)
    passed = mean <= limits.mean_gap and largest <= limits.max_gap
    return Verdict(passed if len(scores) >= SCORED_MIN else None, len(scores), mean, largest)


def calibrate(model_id: str, answers: Sequence[Sequence[TokenScore]]) -> Calibration:
    """Limits for a model from honest answers: four times the mean gap and twice the largest, at least the defaults.

    Raises :class:`AuditInvalid` for fewer T than a verdict needs.
    """
    gaps = [score.gap for scores in answers for score in scores]
    if len(gaps) < SCORED_MIN:
        raise AuditInvalid(f"{len(gaps)} T are too few to calibrate with")
    mean, largest, least = math.fsum(gaps) / len(gaps), max(gaps), AuditLimits()
    limits = AuditLimits(max(least.mean_gap, 4 * mean), max(least.max_gap, 2 * largest))
    return Calibration(model_id, len(answers), len(gaps), mean, largest, limits)


def pack_score(score: TokenScore) -> int:
    """A score as a number below 2³²: both logarithms in thousandths of a nat, sixteen bits each.

    Scoring sessions carry these where others carry token ids, so that the receipt's transcript commits to them.
    """
    return _thousandths(score.logprob) << 16 | _thousandths(score.best)


def unpack_score(packed: int) -> TokenScore:
    """The score that :func:`pack_score` packed. Raises :class:`AuditInvalid`."""
    logprob, best = packed >> 16, packed & 0xFFFF
    if not 0 <= packed < 1 << 32 or best > logprob:
        raise AuditInvalid(f"{packed} is not a score: the claimed T would be likelier than the best")
    return TokenScore(-logprob / 1_000, -best / 1_000)


def unpack_scores(packed: Sequence[int], tokens: int) -> tuple[TokenScore, ...]:
    """The scores of ``tokens`` T. Raises :class:`AuditInvalid`."""
    if len(packed) != tokens:
        raise AuditInvalid(f"{len(packed)} scores for {tokens} T")
    return tuple(unpack_score(one) for one in packed)


def write_score(score: TokenScore) -> str:
    """A score as a line for people."""
    return f"{score.logprob:.3f} {score.best:.3f}\n"


def _thousandths(logarithm: float) -> int:
    return min(0xFFFF, max(0, round(-1_000 * logarithm)))
