"""The public conformance data, replayed; and the replay itself, which must notice a difference."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consensus.tendermint.round import Line
from tests.conformance.replay import (
    Mismatch,
    lines,
    main,
    replay_member,
    replay_transition,
    replay_votes,
    replayer,
)

HERE = Path(__file__).parent
TRANSITIONS = HERE / "tendermint_round_transitions.jsonl"
VOTES = HERE / "tendermint_vote_keeper.jsonl"
MEMBERS = HERE / "tendermint_driver.jsonl"


def test_every_transition_agrees_and_most_lines_are_reached() -> None:
    reached = [replay_transition(data).line for _, data in lines(TRANSITIONS)]
    assert len(reached) == 380
    # the data has none of these; the table of transitions in consensus/tendermint has them all
    others = {Line.L16, Line.L26_INVALID, Line.L32_INVALID, Line.L56}
    assert set(reached) - {None} == set(Line) - others


def test_every_trace_of_tallies_agrees() -> None:
    assert len([replay_votes(data) for _, data in lines(VOTES)]) == 78


def test_every_trace_of_a_member_agrees() -> None:
    assert len([replay_member(data) for _, data in lines(MEMBERS)]) == 93


def test_the_command_replays_all_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(TRANSITIONS), str(VOTES), str(MEMBERS)]) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "380 lines agree",
        "78 lines agree",
        "93 lines agree",
    ]


def altered(path: Path, number: int, target: Path, *place: str | int, value: object) -> str:
    """A copy of ``path`` as ``target`` whose line ``number`` says ``value`` at ``place``."""
    texts = path.read_text(encoding="utf-8").splitlines()
    data: Any = json.loads(texts[number - 1])
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    texts[number - 1] = json.dumps(data)
    target.write_text("\n".join(texts), encoding="utf-8")
    return str(target)


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ((TRANSITIONS, 5, ("next", "step"), "precommit"), "line 5 "),
        ((TRANSITIONS, 5, ("output", "value"), "blue"), "line 5 "),
        ((TRANSITIONS, 5, ("input", "kind"), "unheard_of"), "line 5 "),
        ((VOTES, 3, ("steps", 2, "output"), {"kind": "polka_nil", "round": 0}), "step 2"),
        ((VOTES, 3, ("evidence",), []), "line 3 "),
        ((MEMBERS, 1, ("steps", 2, "output", "value"), "red"), "step 2: expected at height 0"),
        ((MEMBERS, 1, ("steps", 11, "output", "round"), 1), "step 11: "),
    ],
    ids=str,
)
def test_a_difference_is_found_and_named(
    difference: tuple[Path, int, tuple[str | int, ...], object],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, number, place, value = difference
    assert main([altered(path, number, tmp_path / "altered.jsonl", *place, value=value)]) == 1
    assert told in capsys.readouterr().err


def test_an_unknown_format_and_no_file_at_all_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"colour": "blue"}\n', encoding="utf-8")
    assert main([str(strange)]) == 1
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1 (?): the file holds nothing"),
        ("\n \n", "line 1 (?): the file holds nothing"),
        ("{", "line 1 (?): no JSON"),
        ('{"a": 1}\n{"b"', "line 1 (?): no known format has the keys ['a']"),
        ("[" * 100_000, "line 1 (?): no JSON"),
        ("[1]", "line 1 (?): a line is an object, not list"),
        ("null", "not NoneType"),
        ("\x80", "line 1 (?): no JSON"),
        ('{"state": 1, "input": 2, "next": 3, "self": "a"}', "line 1 (?): not of the format"),
        ('{"weights": {"a": 1}, "evidence": [], "steps": 7, "height": 1}', "line 1 (?): not of the format"),
        ('{"weights": {}, "eager_steps": 2, "steps": []}', "line 1 (?): a member's trace has no steps"),
        ('{"weights": {"a": 1}, "evidence": [], "steps": [{}], "height": 1, "id": "x"}', "line 1 (x): nothing known"),
    ],
    ids=range(12),
)
def test_what_is_no_data_is_one_clear_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no data.jsonl"
    path.write_text(text, encoding="latin-1")
    assert main([str(path)]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_broken_line_after_good_ones_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.jsonl"
    good = TRANSITIONS.read_text(encoding="utf-8").splitlines()[:2]
    path.write_text("\n".join([*good, '{"state"']), encoding="utf-8")
    assert main([str(path)]) == 1
    assert "line 3 (?): no JSON" in capsys.readouterr().err


def test_files_that_can_not_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing")]) == 1
    assert main([str(tmp_path)]) == 1
    assert "missing: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("path", [TRANSITIONS, VOTES, MEMBERS], ids=lambda path: path.stem)
def test_a_line_spoiled_anywhere_is_no_traceback(path: Path, tmp_path: Path) -> None:
    """Each value of a line in turn is something else: agreement or one clear line, and nothing else."""
    text = path.read_text(encoding="utf-8").splitlines()[0]
    single = tmp_path / "single.jsonl"
    single.write_text(text, encoding="utf-8")
    values: tuple[object, ...] = (None, 7, "x", [], {})
    for place in places(json.loads(text)):
        for value in values:
            assert main([altered(single, 1, tmp_path / "spoiled.jsonl", *place, value=value)]) in {0, 1}


def places(data: object, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """The way to each value of a document, at most three deep into its lists."""
    items: list[tuple[str | int, object]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data[:3]))
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, *above, key)


def test_the_format_is_told_by_the_keys() -> None:
    first = [next(lines(path))[1] for path in (TRANSITIONS, VOTES, MEMBERS)]
    assert [replayer(data) for data in first] == [replay_transition, replay_votes, replay_member]
    with pytest.raises(Mismatch):
        replay_transition({**first[0], "next": {**first[0]["next"], "round": 9}})
