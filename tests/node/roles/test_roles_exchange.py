"""Batches whose proposals only name their settlements: members that hold them, and one that must ask."""

from pathlib import Path
from typing import TypeVar

import pytest

from contracts.typed_data import Address
from gossip.errors import MessageError
from gossip.messages.committee import (
    ProposalFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
    decode_link_frame,
)
from tests.node.roles.harness import Running, Wire, open_lab

F = TypeVar("F")
COUNT = 40


def frames(wire: Wire, kind: type[F]) -> list[tuple[str, F]]:
    """Frames of a kind on any committee link, with the peer that they went to."""
    found: list[tuple[str, F]] = []
    for peer, data in wire.frames:
        try:
            frame = decode_link_frame(data)
        except MessageError:
            continue  # of another protocol
        if isinstance(frame, kind):
            found.append((peer, frame))
    return found


def deafen(member: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses every settlement that it is told before it asks for some."""
    exchange = member.member_parts()[0]._exchange
    hear = exchange.hear

    def lose(sender: Address, frame: SettlementsFrame) -> None:
        if frames(wire, WantFrame):
            hear(sender, frame)

    monkeypatch.setattr(exchange, "hear", lose)


async def test_a_proposal_names_what_members_hold_and_tells_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire()
    wire.watch(monkeypatch)
    monkeypatch.setattr("node.roles.member.MUCH", 10)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        proposer = lab.committee.proposer(1, 0)
        deaf = next(member for member in members if member.address != proposer)
        teller = next(member for member in members if member.address not in (proposer, deaf.address))
        deafen(deaf, wire, monkeypatch)
        world = lab.world()
        told = [world.settlement(session=f"session {number}") for number in range(COUNT)]
        for settlement in told:
            teller.member_parts()[0].file(settlement)
        await lab.settled_height(1)
        batch = await deaf.node.store.get_batch(1)
        assert batch is not None
        assert batch.body.settlements == tuple(told)
        assert not frames(wire, ProposalFrame), "none travelled whole"
        assert {len(frame.settlements) for _, frame in frames(wire, ShortProposalFrame)} == {COUNT}
        asked = [frame.places for _, frame in frames(wire, WantFrame)]
        assert asked[0] == tuple(range(COUNT)), "the deaf one asked for all, and nobody else for any"
        answers = [peer for peer, frame in frames(wire, SettlementsFrame) if len(frame.settlements) == COUNT]
        assert answers.count(deaf.node.network.peer_id) >= 2, "told once, and once more when it asked"
