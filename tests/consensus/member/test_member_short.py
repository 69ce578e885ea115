"""Short proposals: what comes together is the proposal that was made, and nobody gets more than there is."""

from random import Random

import pytest

from consensus.member import short as short_module
from consensus.member.short import MAX_ASKED, MAX_OPEN, SHORT_FROM, Answers, ShortProposals, check_short, shorten
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Signature, Uint256
from gossip.errors import MalformedMessage
from gossip.messages.base import Signed, encode
from gossip.messages.committee import (
    MAX_TOLD,
    BatchBody,
    BatchHeader,
    Proposal,
    ProposalFrame,
    ShortProposalFrame,
    WantFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.session import Settlement
from tests.consensus.builders import World

MAKER, ASKER = Address(b"\x01" * 20), Address(b"\x02" * 20)


def proposal(settlements: tuple[Settlement, ...], height: int = 1) -> ProposalFrame:
    body = BatchBody(None, (), settlements)
    zero, nothing = ZERO_DIGEST, Uint256(0)
    header = BatchHeader(height, 1, 0, zero, body.root, zero, nothing, nothing, zero, zero, zero, zero, ZERO_ADDRESS)
    made = Proposal(height, 0, 0, batch_hash(header), MAKER)
    return ProposalFrame(Signed(made, Signature(bytes(65))), header, body)


def shortened(frame: ProposalFrame) -> ShortProposalFrame:
    short = shorten(frame)
    assert isinstance(short, ShortProposalFrame)
    again = decode_link_frame(encode(short))
    assert isinstance(again, ShortProposalFrame)
    return again


def settlements(count: int) -> tuple[Settlement, ...]:
    world = World()
    return tuple(world.settlement() for _ in range(count))


def test_a_small_batch_travels_whole() -> None:
    frame = proposal(settlements(SHORT_FROM - 1))
    assert shorten(frame) is frame


def test_who_holds_all_needs_to_ask_nothing() -> None:
    frame = proposal(settlements(SHORT_FROM))
    held = {one.digest: one for one in frame.body.settlements}
    whole = ShortProposals(held.get).begin(MAKER, shortened(frame))
    assert whole == frame
    assert isinstance(whole, ProposalFrame)
    assert whole.body.root == frame.header.body_root


def test_what_is_missing_is_asked_for_and_comes_in_any_order() -> None:
    seed = 7
    frame = proposal(settlements(SHORT_FROM + 40))
    all_of = frame.body.settlements
    held = {one.digest: one for one in all_of[::3]}
    proposals = ShortProposals(held.get)
    want = proposals.begin(MAKER, shortened(frame))
    assert isinstance(want, WantFrame)
    assert want.places == tuple(place for place in range(len(all_of)) if place % 3)
    assert proposals.begin(MAKER, shortened(frame)) == want, "said again, asked again"
    told = [one for answer in Answers().answer(ASKER, want, frame.body) for one in answer.settlements]
    assert told == [all_of[place] for place in want.places]
    Random(seed).shuffle(told)  # an order, not a secret
    for settlement in told[:-1]:
        assert not list(proposals.take(settlement)), f"seed {seed}"
    assert not list(proposals.take(World().settlement(session="another")))
    assert list(proposals.take(told[-1])) == [(MAKER, frame)], f"seed {seed}"
    assert not list(proposals.take(told[-1])), "once"


def test_a_settlement_is_named_once() -> None:
    """One name thousands of times is a small frame, and a body that no log takes."""
    (settlement,) = settlements(1)
    frame = proposal((settlement,) * 9_000)
    short = shorten(frame)
    assert isinstance(short, ShortProposalFrame)
    with pytest.raises(MalformedMessage, match="names a settlement twice"):
        check_short(MAKER, short, World().domain)


def test_what_is_larger_than_a_batch_may_be_is_not_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = proposal(settlements(SHORT_FROM))
    held = {one.digest: one for one in frame.body.settlements}
    monkeypatch.setattr(short_module, "MAX_BODY_BYTES", frame.body.size - 1)
    with pytest.raises(MalformedMessage, match=rf"its body has {frame.body.size} bytes"):
        ShortProposals(held.get).begin(MAKER, shortened(frame))
    waiting = ShortProposals(lambda _: None)
    assert isinstance(waiting.begin(MAKER, shortened(frame)), WantFrame)
    assert not [found for one in frame.body.settlements for found in waiting.take(one)]
    monkeypatch.setattr(short_module, "MAX_BODY_BYTES", frame.body.size)
    assert ShortProposals(held.get).begin(MAKER, shortened(frame)) == frame


def test_only_the_newest_of_a_member_are_put_together() -> None:
    frames = [proposal(settlements(SHORT_FROM), height) for height in range(1, MAX_OPEN + 2)]
    proposals = ShortProposals(lambda _: None)
    for frame in frames:
        proposals.begin(MAKER, shortened(frame))
    whole = [found for one in frames[0].body.settlements for _, found in proposals.take(one)]
    assert whole == frames[1:]
    proposals.begin(MAKER, shortened(frames[0]))
    proposals.clear()
    assert not [found for one in frames[0].body.settlements for found in proposals.take(one)]


def test_an_answer_has_an_end() -> None:
    frame = proposal(settlements(SHORT_FROM + MAX_TOLD))
    count = len(frame.body.settlements)
    answers = Answers()
    wild = WantFrame(Digest(frame.proposal.payload.batch_hash), (*range(count), 0, 0, 9_999))
    for _ in range(MAX_ASKED):
        told = list(answers.answer(ASKER, wild, frame.body))
        assert [len(one.settlements) for one in told] == [MAX_TOLD, SHORT_FROM]
    assert not list(answers.answer(ASKER, wild, frame.body))
    assert list(answers.answer(MAKER, wild, frame.body)), "another member has its own share"
    answers.clear()
    assert list(answers.answer(ASKER, wild, frame.body))
