"""``yellowstone evidence``: the control API's answer as people read it."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

_WHAT = {
    "proposal": "two proposals",
    "prevote": "two prevotes",
    "precommit": "two precommits",
    "access_pass": "two passes for one session key",
    "rfc_index": "one RFC index twice",
}


def lines_of(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Three lines a case: who and what, where and since when, and what came of it; one line where there is none."""
    lines = [line for case in cases for line in _lines_of(case)]
    return lines or ["no evidence against anybody"]


def _lines_of(case: Mapping[str, Any]) -> tuple[str, str, str]:
    seen = datetime.fromtimestamp(case["first_seen_ms"] / 1_000, UTC).isoformat(sep=" ", timespec="seconds")
    return (
        f"{case['offender']} signed {_WHAT.get(case['kind'], case['kind'])}",
        f"  {_place(case)}, first seen {seen}, offence {case['id']}",
        f"  {_fate(case)}",
    )


def _place(case: Mapping[str, Any]) -> str:
    if case["punishable"]:
        return f"at height {case['height']}, round {case['round']}"
    return f"on day {case['day']}, session key {case['session_key']}, pass by {case['issuer']}"


def _fate(case: Mapping[str, Any]) -> str:
    if not case["punishable"]:
        return "no stake to slash: the pass has ended" if case["kind"] == "rfc_index" else "not slashed on chain"
    if case["tx_hash"] is not None:
        return f"slashed by this node: {case['reward_wei']} wei finder's share, transaction {case['tx_hash']}"
    words = {True: "slashed", False: "not slashed", None: "not slashed yet, as far as this node knows"}
    return words[case["slashed"]] + (f" ({case['detail']})" if case["detail"] else "")
