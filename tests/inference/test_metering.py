"""Counting T and ms, and the transcript's commitment."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from inference.metering import TokenMeter, Transcript, compute_delivered, find_committed

ids = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def commit(body: bytes, *frames: list[int]) -> bytes:
    transcript = Transcript(body)
    for frame in frames:
        transcript.add(tuple(frame))
    return transcript.digest()


@given(body=st.binary(max_size=50), first=ids, second=ids)
def test_transcript_does_not_see_how_ids_were_framed(body: bytes, first: list[int], second: list[int]) -> None:
    assert commit(body, first, second) == commit(body, first + second) == commit(body, [], first, [], second)


@given(body=st.binary(max_size=50), tokens=ids, other=ids)
def test_transcript_binds_body_and_ids(body: bytes, tokens: list[int], other: list[int]) -> None:
    assert commit(body + b"x", tokens) != commit(body, tokens)
    assert (commit(body, tokens) == commit(body, other)) == (tokens == other)


@given(body=st.binary(max_size=50), tokens=ids, cut=st.integers(0, 20))
def test_what_a_commitment_is_about_is_found_again(body: bytes, tokens: list[int], cut: int) -> None:
    transcript, cut = Transcript(body), min(cut, len(tokens))
    transcript.add(tuple(tokens[:cut]))
    assert find_committed(body, tuple(tokens), transcript.digest()) == tuple(tokens[:cut])
    assert find_committed(body + b"x", tuple(tokens), transcript.digest()) is None
    going_on = transcript.copy()
    going_on.add(tuple(tokens[cut:]))
    assert (transcript.digest(), going_on.digest()) == (commit(body, tokens[:cut]), commit(body, tokens))


def test_transcript_is_as_specified() -> None:
    stated = b"yellowstone transcript 1\0" + hashlib.sha256(b"{}").digest() + bytes([0, 0, 0, 1, 0, 0, 1, 0])
    assert commit(b"{}", [1, 256]) == hashlib.sha256(stated).digest()


def test_meter_counts_from_the_query() -> None:
    meter = TokenMeter(1_000)
    assert (meter.tokens, meter.first_ms, meter.last_ms) == (0, 0, 0)
    meter = meter.after(1_000, 1)
    assert (meter.tokens, meter.first_ms, meter.last_ms) == (1, 0, 0)
    meter = meter.after(1_250, 3).after(1_300, 0)
    assert (meter.tokens, meter.first_ms, meter.last_ms) == (4, 0, 250)


@given(steps=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 5)), max_size=20))
def test_meter_never_runs_backwards(steps: list[tuple[int, int]]) -> None:
    meter = TokenMeter(5_000)
    for now_ms, tokens in steps:
        later = meter.after(now_ms, tokens)
        assert later.tokens == meter.tokens + tokens
        assert later.first_ms == meter.first_ms or meter.tokens == 0
        assert 0 <= later.first_ms <= later.last_ms
        meter = later


@given(user=st.integers(0, 99), provider=st.integers(0, 99), token_max=st.integers(0, 99))
def test_delivered_is_what_all_agree_to(user: int, provider: int, token_max: int) -> None:
    delivered = compute_delivered(user, provider, token_max)
    assert delivered in (user, provider, token_max)
    assert all(delivered <= limit for limit in (user, provider, token_max))
