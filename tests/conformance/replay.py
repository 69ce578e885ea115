"""Replay conformance files: ``python -m tests.conformance.replay FILE…``; status 1 at the first mismatch.

A file that can't be read, is empty, or holds what is in none of the three formats is one clear line, too.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from consensus.committee import Committee, Member
from consensus.errors import ConsensusError
from consensus.tendermint import round as core
from consensus.tendermint.driver import Driver, step
from consensus.tendermint.events import (
    CastVote,
    CertificateIn,
    Decided,
    Effect,
    GetValue,
    Input,
    ProposalIn,
    Propose,
    ScheduleTimeout,
    Start,
    TimeoutElapsed,
    ValueReady,
    VoteIn,
)
from consensus.tendermint.round import RoundState, Transition
from consensus.tendermint.round_events import (
    Commit,
    FreshProposal,
    NewRound,
    PolkaAny,
    PolkaNil,
    PrecommitAny,
    ProposalWithCommit,
    ProposalWithEarlierPolka,
    ProposalWithPolka,
    ProposeValue,
    Rejected,
    RoundInput,
    RoundOutput,
    RoundSkip,
    SkipRound,
    Timeout,
)
from consensus.tendermint.types import Certificate, Step, ValueId, Vote, VoteType
from consensus.tendermint.votes import Threshold, VoteKeeper
from contracts.typed_data import Address

Json = dict[str, Any]

Output = tuple[object, ...]
"""An output in the words of the data, comparable."""

Outputs = dict[int, list[tuple[int, Output]]]
"""Outputs by height, each with the step that it belongs to."""

STEPS = {step.name.lower(): step for step in Step}
KINDS = {kind.name.lower(): kind for kind in VoteType}


class Mismatch(Exception):
    """The core does otherwise than the data says. ``step`` counts from 0, None where a line is one step."""

    def __init__(self, step: int | None, expected: object, actual: object) -> None:
        where = "" if step is None else f"step {step}: "
        super().__init__(f"{where}expected {expected}, got {actual}")


class BadLine(Exception):
    """What is wrong with line ``number``, from 1; ``name`` is what the line calls itself."""

    def __init__(self, number: int, reason: str, name: str = "?") -> None:
        super().__init__(f"line {number} ({name}): {reason}")


def to_value(name: str | None) -> ValueId | None:
    return None if name is None else name.encode()


def to_member(name: str) -> Address:
    return Address(name.encode())


def to_vote(data: Json) -> Vote:
    return Vote(KINDS[data["type"]], data["height"], data["round"], to_value(data["value"]), to_member(data["from"]))


def to_committee(weights: dict[str, int]) -> Committee:
    if not weights:
        raise ValueError("a committee has no members")
    return Committee.of(1, [Member(to_member(name), weight) for name, weight in weights.items()])


def shifted_rotation(committee: Committee, height: int, round_: int) -> Address:
    """The data's proposer rule: sorted(members)[(round + 1) % n]."""
    return committee.members[(round_ + 1) % len(committee.members)].address


# Round transitions


def replay_transition(data: Json) -> Transition:
    """One transition; the answer tells which line of the paper acted. Raises :class:`Mismatch`."""
    member = to_member(data["self"])
    done = core.transition(to_state(data["state"], member), to_event(data["input"]))
    expected_state, expected_output = to_state(data["next"], member), describe_expected(data["output"])
    if done.state != expected_state:
        raise Mismatch(None, expected_state, done.state)
    if describe(done.output) != expected_output:
        raise Mismatch(None, expected_output, describe(done.output))
    return done


def to_state(data: Json, member: Address) -> RoundState:
    return RoundState(
        member=member,
        height=data["height"],
        round=data["round"],
        step=STEPS[data["step"]],
        locked_round=data["locked_round"],
        locked_value=to_value(data["locked_value"]),
        valid_round=data["valid_round"],
        valid_value=to_value(data["valid_value"]),
    )


def to_event(data: Json) -> RoundInput:
    value = to_value(data.get("value")) or b""
    kinds: dict[str, Callable[[], RoundInput]] = {
        "new_round": lambda: NewRound(data["round"], is_proposer=False),
        "new_round_proposer": lambda: NewRound(data["round"], is_proposer=True),
        "propose_value": lambda: ProposeValue(value),
        "proposal": lambda: FreshProposal(value, is_valid=True),
        "proposal_invalid": lambda: FreshProposal(value, is_valid=False),
        "proposal_and_polka_previous_and_valid": lambda: ProposalWithEarlierPolka(value, data["valid_round"], True),
        # here the data does not tell the valid round; the vote is nil either way
        "proposal_and_polka_and_invalid": lambda: FreshProposal(value, is_valid=False),
        "proposal_and_polka_and_valid": lambda: ProposalWithPolka(value),
        "polka_any": PolkaAny,
        "polka_nil": PolkaNil,
        "precommit_any": PrecommitAny,
        "proposal_and_commit_and_valid": lambda: ProposalWithCommit(data["round"], value),
        "round_skip": lambda: RoundSkip(data["round"]),
        "timeout_propose": lambda: Timeout(Step.PROPOSE, data["height"], data["round"]),
        "timeout_prevote": lambda: Timeout(Step.PREVOTE, data["height"], data["round"]),
        "timeout_precommit": lambda: Timeout(Step.PRECOMMIT, data["height"], data["round"]),
    }
    return kinds[data["kind"]]()


def describe(output: RoundOutput | Effect | None) -> Output | None:
    """An output in the words of the data."""
    match output:
        case None:
            return None
        case Rejected():
            return ("rejected",)
        case Vote():
            return ("vote", output.height, output.kind, output.round, output.value)
        case CastVote():
            return describe(output.vote)
        case Propose():
            return ("proposal", output.height, output.round, output.value, output.valid_round)
        case GetValue():
            return ("get_value", output.height, output.round)
        case ScheduleTimeout():
            return ("schedule_timeout", output.step, output.round)
        case Commit() | Decided():
            return ("decided", output.round, output.value)
        case SkipRound():
            return ("skip_round", output.round)
        case _:
            return (type(output).__name__,)


def describe_expected(data: Json | None) -> Output | None:
    if data is None:
        return None
    kind, value = data["kind"], to_value(data.get("value"))
    match kind:
        case "vote":
            return (kind, data["height"], KINDS[data["type"]], data["round"], value)
        case "proposal":
            return (kind, data["height"], data["round"], value, data["valid_round"])
        case "get_value":
            return (kind, data["height"], data["round"])
        case "schedule_timeout":
            return (kind, STEPS[data["timeout"]], data["round"])
        case "decided":
            return (kind, data["round"], value)
        case "skip_round":
            return (kind, data["round"])
        case "rejected":
            return (kind,)
        case unknown:
            raise ValueError(f"unknown output kind {unknown!r}")


# Vote keeper


def replay_votes(data: Json) -> VoteKeeper:
    """One trace of tallies. Raises :class:`Mismatch`."""
    keeper = VoteKeeper(data["height"], to_committee(data["weights"]))
    skipped: set[int] = set()
    for number, entry in enumerate(data["steps"]):
        keeper, reached = keeper.add(to_vote(entry["vote"]), entry["current_round"])
        expected = entry["output"]
        if expected is not None and expected["kind"] == "skip":
            repeated = expected["round"] in skipped
            skipped.add(expected["round"])
            expected = None if repeated else expected
        if describe_threshold(reached) != expected:
            raise Mismatch(number, expected, describe_threshold(reached))
    evidence = {frozenset(votes[:count]) for votes in keeper.evidence for count in range(2, len(votes) + 1)}
    expected_evidence = {frozenset(map(to_vote, votes)) for votes in data["evidence"]}
    if evidence != expected_evidence:
        raise Mismatch(len(data["steps"]), expected_evidence, evidence)
    return keeper


def describe_threshold(threshold: Threshold | None) -> Json | None:
    if threshold is None:
        return None
    named = {} if threshold.value is None else {"value": threshold.value.decode()}
    return {"kind": threshold.kind.value, "round": threshold.round, **named}


# Driver


def replay_member(data: Json) -> Driver:
    """One member's trace. Raises :class:`Mismatch` at the first height that differs.

    The specification spreads over micro-steps what the core does at once, and the steps that are compared may end
    before these: what the core puts out upon the last input may therefore go beyond the data. Nothing may be missing.
    """
    steps = data["steps"][: data["eager_steps"]]
    if not steps:
        raise ValueError("a member's trace has no steps")
    committee = to_committee(data["weights"])
    driver = Driver.idle(to_member(data["self"]), steps[0]["state"]["height"], shifted_rotation)
    expected: Outputs = {}
    actual: Outputs = {}
    ahead: list[Output] = []
    before = steps[0]["state"]
    for number, entry in enumerate(steps):
        for output in _compared(describe_expected(entry["output"])):
            expected.setdefault(entry["state"]["height"], []).append((number, output))
        for event in to_inputs(entry, before, committee, driver):
            driver, effects = step(driver, event)
            ahead = [output for effect in effects for output in _compared(describe(effect))]
            actual.setdefault(driver.next_height - 1, []).extend((number, output) for output in ahead)
        before = entry["state"]
    for height in sorted(expected.keys() | actual.keys()):
        due, done = (_until_decided(outputs.get(height, [])) for outputs in (expected, actual))
        missing, surplus = due.keys() - done.keys(), done.keys() - due.keys() - set(ahead)
        if missing or surplus:
            first = min((*(due[output] for output in missing), *(done[output] for output in surplus)))
            raise Mismatch(first, f"at height {height} {set(due)}", set(done))
    return driver


def to_inputs(entry: Json, before: Json, committee: Committee, driver: Driver) -> Iterator[Input]:
    """What arrives at the driver in a step; nothing for the specification's micro-steps within a height."""
    data, height = entry["input"], entry["state"]["height"]
    for vote in data.get("preloaded_votes", []):
        yield VoteIn(to_vote(vote))
    match data["kind"]:
        case "start":
            yield Start(height, committee)
        case "pending" if entry["state"]["step"] != "none" and height >= driver.next_height:
            yield Start(height, committee)  # a height that begins in a later round, or decided
        case "proposal":
            value = data["value"]
            sender = to_member(data["from"])
            valid = value != "invalid"
            yield ProposalIn(data["height"], data["round"], value.encode(), data["valid_round"], sender, valid)
        case "vote":
            yield VoteIn(to_vote(data))
        case "certificate":
            votes = [to_vote(vote) for vote in data["votes"]]
            first, members = votes[0], frozenset(vote.member for vote in votes)
            certificate = Certificate(first.kind, first.height, first.round, first.value or b"", members)
            yield CertificateIn(certificate)
        case "timeout":
            yield TimeoutElapsed(STEPS[data["timeout"]], before["height"], before["round"])
        case "propose_value":
            yield ValueReady(before["height"], before["round"], data["value"].encode())


def _compared(output: Output | None) -> Iterator[Output]:
    if output is not None and output[0] in ("vote", "proposal", "decided"):
        yield output


def _until_decided(outputs: list[tuple[int, Output]]) -> dict[Output, int]:
    """Up to the first decision, each with the first step that it was put out in."""
    upto = next((number for number, (_, output) in enumerate(outputs) if output[0] == "decided"), len(outputs))
    return {output: number for number, output in reversed(outputs[: upto + 1])}


# Files


def replayer(data: object) -> Callable[[Json], object]:
    """The replay that fits a line, told by its keys. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError(f"a line is an object, not {type(data).__name__}")
    if {"state", "input", "next"} <= data.keys():
        return replay_transition
    if {"weights", "evidence", "steps"} <= data.keys():
        return replay_votes
    if {"weights", "eager_steps", "steps"} <= data.keys():
        return replay_member
    raise ValueError(f"no known format has the keys {sorted(data)}")


def lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The file's lines with their numbers, from 1. Raises :class:`BadLine`, and OSError."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield number, json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise BadLine(number, f"no JSON: {error}") from error


def replay_file(path: Path) -> int:
    """Replay a file; how many lines agree. Raises :class:`BadLine`, and OSError."""
    count = 0
    for number, data in lines(path):
        try:
            replayer(data)(data)
        except (Mismatch, ConsensusError, ValueError) as error:
            raise BadLine(number, str(error), _name(data)) from error
        except KeyError as error:
            raise BadLine(number, f"nothing known, or nothing there, is called {error}", _name(data)) from error
        except (TypeError, AttributeError, IndexError, RecursionError) as error:
            raise BadLine(number, f"not of the format that its keys tell: {error}", _name(data)) from error
        count += 1
    if not count:
        raise BadLine(1, "the file holds nothing to replay")
    return count


def _name(data: object) -> str:
    return str(data.get("id", data.get("source", "?"))) if isinstance(data, dict) else "?"


def main(paths: list[str]) -> int:
    """Replay ``paths``; 0 where all agrees, 1 at the first mismatch, 2 without a file."""
    if not paths:
        print("usage: python -m tests.conformance.replay FILE…", file=sys.stderr)
        return 2
    for path in map(Path, paths):
        try:
            print(f"{path}: {replay_file(path)} lines agree")
        except BadLine as error:
            print(f"{path}, {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"{path}: {error.strerror or error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
