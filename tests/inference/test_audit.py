"""Scores, limits, verdicts; scoring sessions; calibration."""

import math
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from contracts.typed_data import Digest
from inference.audit import (
    SCORED_MIN,
    AuditLimits,
    TokenScore,
    calibrate,
    judge,
    judge_answer,
    judge_scoring,
    pack_score,
    unpack_score,
    unpack_scores,
    write_score,
)
from inference.calibration import calibration_path, find_limits, keep_calibration, measure
from inference.engine import ChatMessage, Scorer
from inference.errors import AuditInvalid, ModelError
from inference.metering import Transcript
from inference.session.client import open_session
from inference.session.query import QueryBody, encode_body
from inference.synthetic import SyntheticEngine
from tests.inference.market import BODY, SESSION, TERMS, ProviderSide, make_ticket, ticking

SURE = TokenScore(0.0, 0.0)


@pytest.mark.parametrize(
    ("tokens", "gap", "temperature", "passed"),
    [
        (64, 0.01, 0.0, True),
        (64, 0.05, 0.0, False),
        (3, 0.37, 0.0, True),
        (3, 12.0, 0.0, False),
        (40, 1.96, 1.0, True),
        (40, 0.73, 0.7, True),
        (40, 3.31, 1.0, False),
        (40, 4.41, 1.5, True),
        (8, 3.16, 1.0, True),
        (8, 4.19, 1.0, False),
        (1, 7.14, 0.7, True),
        (1, 9.3, 0.7, False),
        (0, 0.0, 0.0, None),
    ],
)
def test_no_answer_is_too_short_or_too_random_for_an_opinion(
    tokens: int, gap: float, temperature: float, passed: bool | None
) -> None:
    scores = [TokenScore(-1.0 - gap, -1.0)] * tokens
    assert judge_answer(scores, temperature, AuditLimits()).passed is passed


def test_a_scoring_session_is_judged_by_its_scores() -> None:
    own = [TokenScore(-0.5, -0.1)] * 20
    assert judge_scoring(own, own, AuditLimits()).passed is True
    lied = [*own[:-1], TokenScore(-3.0, -0.1)]
    assert judge_scoring(lied, own, AuditLimits()).passed is False


@given(best=st.floats(-200, 0), gap=st.floats(0, 200))
def test_a_packed_score_is_true_to_a_thousandth(best: float, gap: float) -> None:
    score = TokenScore(best - gap, best)
    packed = pack_score(score)
    assert 0 <= packed < 1 << 32
    found = unpack_score(packed)
    if score.logprob > -65:
        assert abs(found.gap - score.gap) <= 0.00101
    assert found.gap <= 65.535
    assert len(write_score(found).encode()) >= 1


@given(packed=st.integers(0, (1 << 32) - 1))
def test_unpacking_takes_scores_alone(packed: int) -> None:
    try:
        score = unpack_score(packed)
    except AuditInvalid as error:
        assert str(packed) in str(error)  # noqa: PT017  # either outcome is right, for its own packed
        assert packed >> 16 < packed & 0xFFFF
    else:
        assert score.logprob <= score.best <= 0
        assert pack_score(score) == packed


def test_as_many_scores_as_tokens() -> None:
    assert unpack_scores([0, 5 << 16], 2) == (SURE, TokenScore(-0.005, 0.0))
    for packed, tokens in (([0], 2), ([0, 0], 1), ([1], 1), ([1 << 32], 1), ([-1], 1)):
        with pytest.raises(AuditInvalid):
            unpack_scores(packed, tokens)


def test_verdicts() -> None:
    limits = AuditLimits()
    near, far = TokenScore(-0.5, -0.2), TokenScore(-9.0, -0.2)
    assert judge([SURE] * 64, limits).passed is True
    assert judge([SURE] * 63 + [near], limits).passed is True
    assert judge([SURE] * 63 + [far], limits).passed is False, "one T that is far off"
    assert judge([near] * 64, limits).passed is False, "many that are a little off"
    assert judge([far] * (SCORED_MIN - 1), limits).passed is None
    assert judge([far] * SCORED_MIN, limits).passed is False
    assert judge([], limits).passed is None
    verdict = judge([SURE, far], limits)
    assert (verdict.tokens, round(verdict.mean_gap, 6), round(verdict.max_gap, 6)) == (2, 4.4, 8.8)


def test_calibration_is_never_stricter_than_what_honest_builds_need() -> None:
    found = calibrate("0x00", [[SURE] * 20, [SURE] * 20])
    assert (found.limits, found.tokens, found.answers) == (AuditLimits(), 40, 2)
    rough = calibrate("0x00", [[TokenScore(-0.9, 0.0)] * 20])
    assert math.isclose(rough.limits.mean_gap, 3.6)
    assert math.isclose(rough.limits.max_gap, 1.8)
    assert judge([TokenScore(-0.9, 0.0)] * 20, rough.limits).passed is True
    with pytest.raises(AuditInvalid, match="15 T are too few"):
        calibrate("0x00", [[SURE] * 15])


async def test_an_engine_calibrates_itself_and_the_store_keeps_it(tmp_path: Path) -> None:
    engine = SyntheticEngine(answer_tokens=40)
    found = await measure(engine)
    assert (found.tokens, found.mean_gap, found.max_gap) == (8 * 40, 0.0, 0.0)
    assert find_limits(tmp_path, engine.model_id) == AuditLimits()
    changed = msgspec.structs.replace(found, limits=AuditLimits(0.5, 2.0))
    path = keep_calibration(tmp_path, changed)
    assert path == calibration_path(tmp_path, engine.model_id)
    assert find_limits(tmp_path, engine.model_id) == AuditLimits(0.5, 2.0)
    other = Digest(b"x" * 32)
    path.rename(calibration_path(tmp_path, other))
    with pytest.raises(ModelError, match="is of model"):
        find_limits(tmp_path, other)
    calibration_path(tmp_path, other).write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        find_limits(tmp_path, other)


async def test_the_synthetic_engine_scores_exactly() -> None:
    engine = SyntheticEngine(answer_tokens=4, context=40)
    assert isinstance(engine, Scorer)
    async with engine.score((ChatMessage("user", "x"),), (0, 1, 7, 3)) as scores:
        assert [score.gap async for score in scores] == [0.0, 0.0, 100.0, 0.0]
    assert engine.running == 0


# Scoring sessions.


async def score(side: ProviderSide, ids: tuple[int, ...], *, token_max: int = 64) -> tuple[object, tuple[int, ...]]:
    """The session's code (None: it went well) and the packed scores."""
    body = QueryBody(messages=BODY.messages, score=ids)
    ticket = make_ticket(side.engine, token_max=token_max)
    async with trio.open_nursery() as nursery:
        stream = side.connect(nursery)
        with trio.fail_after(30):
            async with open_session(stream, ticket, body, SESSION, TERMS, ticking()) as session:
                try:
                    async for _ in session.pieces():
                        pass
                except Exception as error:  # noqa: BLE001  # the code is what is tested
                    return getattr(error, "code", error), ()
    receipt = session.outcome.receipt
    assert receipt is not None
    transcript = Transcript(encode_body(body))
    transcript.add(session.token_ids)
    assert receipt.receipt.transcript == transcript.digest(), "both signed the scores"
    assert session.outcome.tokens == len(ids) == side.vouchers[-1]
    return None, session.token_ids


async def test_a_scoring_session_is_paid_and_signed_like_any_other(side: ProviderSide) -> None:
    code, packed = await score(side, tuple(range(30)))
    assert code is None
    assert judge(unpack_scores(packed, 30), AuditLimits()).passed is True
    side.used.clear()
    code, packed = await score(side, (*range(10), 99, *range(11, 30)))
    verdict = judge(unpack_scores(packed, 30), AuditLimits())
    assert (code, verdict.passed, verdict.max_gap) == (None, False, 65.535)


async def test_scores_beyond_token_max_or_of_an_engine_without_them_are_refused(side: ProviderSide) -> None:
    code, _ = await score(side, tuple(range(30)), token_max=29)
    assert code == "bad_query"
    assert not side.used, "a refusal costs the ticket nothing"

    class Mute(SyntheticEngine):
        score = None  # type: ignore[assignment]  # an engine without the method

    code, _ = await score(ProviderSide(Mute()), (1, 2))
    assert code == "bad_query"
