"""Whole committees in memory: agreement under every order, and progress where the paper promises it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from consensus.tendermint import round as core
from consensus.tendermint.events import Input, ProposalIn, VoteIn
from consensus.tendermint.round import Line, RoundState, Transition, transition
from consensus.tendermint.round_events import RoundInput
from consensus.tendermint.types import Vote
from contracts.typed_data import Address
from tests.consensus.tendermint.network import Network, Outgoing, address, committee_of

seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("stakes", [(1,), (1, 1, 1, 1), (1,) * 7, (5, 3, 2, 2), (10**24, 1, 1, 1)], ids=str)
def test_all_decide_in_round_0_on_a_fast_network(stakes: tuple[int, ...]) -> None:
    network = Network(committee_of(*stakes), heights=3)
    network.start()
    network.run_in_order()
    network.check_safety()
    assert {(decided.height, decided.round) for decided in network.decided.values()} == {(1, 0), (2, 0), (3, 0)}
    assert len(network.decided) == 3 * len(stakes)


@pytest.mark.parametrize("size", [4, 7])
def test_a_dead_proposer_costs_a_round(size: int) -> None:
    committee = committee_of(*[1] * size)
    dead = committee.proposer(1, 0)
    network = Network(committee, silent=frozenset({dead}))
    network.start()
    network.run_in_order()
    network.check_safety()
    assert {decided.round for decided in network.decided.values()} == {1}
    assert len(network.decided) == size - 1
    assert all(dead not in decided.members for decided in network.decided.values())


@pytest.mark.parametrize(("size", "crashed"), [(4, 1), (7, 2)])
def test_less_than_a_third_crashed_is_outlived(size: int, crashed: int) -> None:
    committee = committee_of(*[1] * size)
    gone = frozenset(committee.proposer(1, round_) for round_ in range(crashed))
    network = Network(committee, silent=gone, heights=4)
    network.start()
    network.run_in_order()
    network.check_safety()
    assert len(network.decided) == 4 * (size - crashed)


def test_a_third_crashed_stops_but_forks_nothing() -> None:
    network = Network(committee_of(1, 1, 1), silent=frozenset({address(3)}))
    network.start()
    network.run_shuffled(seed=1, inputs=400)
    network.check_safety()
    assert not network.decided


@given(seed=seeds, size=st.sampled_from([4, 7]), hurry=st.sampled_from([0.02, 0.2, 0.6]))
@settings(max_examples=40, deadline=None)
def test_agreement_under_any_order(seed: int, size: int, hurry: float) -> None:
    network = Network(committee_of(*[1] * size), heights=2)
    network.start()
    network.run_shuffled(seed, 1_200, hurry, repeat=0.1)
    network.check_safety()


@given(seed=seeds, stakes=st.lists(st.integers(1, 9), min_size=3, max_size=6))
@settings(max_examples=40, deadline=None)
def test_agreement_with_any_stakes_and_losses(seed: int, stakes: list[int]) -> None:
    network = Network(committee_of(*stakes), heights=2)
    network.start()
    network.run_shuffled(seed, 1_000, hurry=0.15, lose=0.1, repeat=0.1)
    network.check_safety()


def equivocator(chance: random.Random) -> Outgoing:
    """Tells everybody something else, or two things, or nothing."""

    def send(sender: Address, message: Input) -> tuple[Input, ...]:
        match message:
            case VoteIn(vote):
                others = [Vote(vote.kind, vote.height, vote.round, value, sender) for value in (b"x", b"y", None)]
                return tuple(map(VoteIn, chance.sample([vote, *others], chance.choice([0, 1, 1, 1, 2]))))
            case ProposalIn():
                proposals = [message, *(structs.replace(message, value=value) for value in (b"x", b"y"))]
                return tuple(chance.sample(proposals, chance.choice([0, 1, 1, 2])))
        return (message,)

    return send


def with_equivocators(seed: int, size: int) -> Network:
    chance = random.Random(seed)
    faulty = chance.sample(range(1, size + 1), (size - 1) // 3)
    network = Network(committee_of(*[1] * size), outgoing={address(number): equivocator(chance) for number in faulty})
    network.start()
    return network


@given(seed=seeds, size=st.sampled_from([4, 7]))
@settings(max_examples=40, deadline=None)
def test_agreement_with_members_that_tell_everybody_something_else(seed: int, size: int) -> None:
    network = with_equivocators(seed, size)
    network.run_shuffled(seed, 1_000, hurry=0.1)
    network.check_safety()


@given(seed=seeds, size=st.sampled_from([4, 7]))
@settings(max_examples=40, deadline=None)
def test_progress_with_members_that_tell_everybody_something_else(seed: int, size: int) -> None:
    network = with_equivocators(seed, size)
    network.run_in_order()
    network.check_safety()
    assert network.is_done()


def test_equivocation_is_found() -> None:
    found = [found for seed in range(20) for found in with_equivocators_at_rest(seed).found]
    assert {type(one.first) for one in found} == {Vote, ProposalIn}


def with_equivocators_at_rest(seed: int) -> Network:
    network = with_equivocators(seed, 4)
    network.run_in_order()
    return network


def test_every_line_of_the_paper_is_reached_by_some_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[Line | None] = set()

    def recorded(state: RoundState, event: RoundInput) -> Transition:
        done = transition(state, event)
        reached.add(done.line)
        return done

    monkeypatch.setattr(core, "transition", recorded)
    for seed in range(60):
        network = with_equivocators(seed, 4)
        network.run_shuffled(seed, 600, hurry=0.15)
        network.check_safety()
    # here every value is valid, and nobody proposes a value again whose polka is older than another's lock
    others = {Line.L26_INVALID, Line.L32_INVALID, Line.L32_LOCKED}
    assert reached - {None} >= set(Line) - others
