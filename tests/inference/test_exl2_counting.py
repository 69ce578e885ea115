"""T of an ExLlamaV2 answer are the ids whose text came out, whatever its generator holds back or gives out."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from inference.engine import Piece
from inference.exllamav2.counting import UNFINISHED, Counting

EOS = 0
BYTES = [
    b"<eos>",
    b"The",
    b" capital",
    b" of",
    b" Paris",
    b"\xf0\x9f",
    b"\xa6\x9c",
    b"",
    b".",
    b" Pa",
    b"\xc3",
    b"\xa9",
]
PIECES = ["" if token == EOS else data.decode(errors="replace") for token, data in enumerate(BYTES)]


def decode(ids: Sequence[int]) -> str:
    return b"".join(BYTES[token] for token in ids if token != EOS).decode(errors="replace")


class Ids:
    """As much of a tensor of shape (1, n) as is asked for."""

    def __init__(self, *ids: int) -> None:
        self._ids = ids

    def reshape(self, size: int) -> "Ids":
        assert size == -1
        return self

    def tolist(self) -> list[int]:
        return list(self._ids)


def result(text: str = "", *ids: int, reason: str | None = None, held: tuple[int, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {"eos": reason is not None}
    if text:
        made["text"] = text
    if ids:
        made["token_ids"] = Ids(*ids)
    if reason is not None:
        made["eos_reason"] = reason
    if held:
        made["held"] = {"token_ids": Ids(*held)}
    return made


def take(*results: dict[str, Any], stop: tuple[str, ...] = ()) -> list[Piece]:
    counting = Counting(PIECES, decode, stop)
    return [piece for one in results if (piece := counting.take(one)) is not None]


def test_an_end_token_is_not_counted() -> None:
    said = take(result("The", 1), result(" capital", 2), result(reason="stop_token", held=(EOS,)))
    assert said == [Piece("The", (1,)), Piece(" capital", (2,)), Piece("", (), "stop")]


def test_text_held_for_a_stop_string_that_never_came_is_said() -> None:
    said = take(result("The", 1), result(), result(reason="stop_token", held=(9, EOS)), stop=(" Paris",))
    assert said == [Piece("The", (1,)), Piece(" Pa", (9,), "stop")]


def test_ids_of_a_stop_string_are_not_counted() -> None:
    assert take(result(" of", 3, 4, reason="stop_string")) == [Piece(" of", (3,), "stop")]
    assert take(result(" P", 4, reason="stop_string")) == [Piece(" P", (4,), "stop")], "a piece of an id is that id"
    assert take(result("", 4, reason="stop_string")) == [Piece("", (), "stop")]


def test_a_stop_string_in_the_last_token_stops_too() -> None:
    said = take(result(" of Paris", 3, 4, reason="max_new_tokens"), stop=(" Paris", "x"))
    assert said == [Piece(" of", (3,), "stop")]


def test_half_a_character_at_the_limit_is_not_counted() -> None:
    assert take(result(" of" + UNFINISHED, 3, 5, reason="max_new_tokens")) == [Piece(" of", (3,), "length")]
    assert take(result(UNFINISHED, 5, reason="max_new_tokens")) == [Piece("", (), "length")]


def test_a_character_completed_at_the_limit_is_whole() -> None:
    said = take(result(UNFINISHED * 2, 5, 6, reason="max_new_tokens"))
    assert said == [Piece("🦜", (5, 6), "length")]


def test_ids_without_text_wait_for_the_next() -> None:
    assert take(result("", 7), result("The", 1), result(reason="stop_token", held=(EOS,))) == [
        Piece("The", (7, 1)),
        Piece("", (), "stop"),
    ]
    assert take(result("", 7), result(reason="stop_token", held=(EOS,))) == [Piece("", (), "stop")]


@settings(max_examples=100)
@given(st.lists(st.integers(1, len(BYTES) - 1), max_size=12), st.sampled_from(["stop_token", "max_new_tokens"]))
def test_text_and_ids_agree_however_an_answer_ends(ids: list[int], reason: str) -> None:
    if reason == "stop_token":
        said = take(result(reason=reason, held=(*ids, EOS)))
    else:
        said = take(result("".join(PIECES[token] for token in ids), *ids, reason=reason))
    assert len(said) == 1
    assert not said[0].text.endswith(UNFINISHED)
    assert said[0].text == decode(said[0].token_ids)
    assert tuple(ids[: len(said[0].token_ids)]) == said[0].token_ids
