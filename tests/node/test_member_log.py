"""Inputs of a core survive in the log as what they were."""

from pathlib import Path

import pytest

from consensus.member.events import (
    BatchAdopted,
    Input,
    OpeningMade,
    PrecommitHeard,
    PrevoteHeard,
    ProposalSigned,
    SlotBegan,
    TimerElapsed,
)
from consensus.tendermint.types import Step
from contracts.typed_data import Digest, Uint256
from gossip.messages import sign
from gossip.messages.committee import DayOpening, Precommit, Prevote, Proposal, ProposalFrame
from node.errors import WalUnreadable
from node.member_log import MemberLog
from node.wal import open_wal
from tests.node.builders import DOMAIN, MEMBERS, ZERO, batch

KEY = MEMBERS[0]
VALUE = Digest(b"\x01" * 32)
BATCH = batch(3)
INPUTS: list[Input] = [
    SlotBegan(9),
    OpeningMade(DayOpening(1, 7, Uint256(10**30), Uint256(2**256 - 1))),
    ProposalSigned(ProposalFrame(sign(Proposal(3, 0, 0, VALUE, KEY.address), KEY, DOMAIN), BATCH.header, BATCH.body)),
    PrevoteHeard(sign(Prevote(3, 0, 0, VALUE), KEY, DOMAIN), KEY.address),
    PrecommitHeard(sign(Precommit(3, 0, VALUE, ZERO), KEY, DOMAIN), KEY.address),
    TimerElapsed(Step.PREVOTE, 3, 0),
    BatchAdopted(BATCH),
]


async def test_inputs_are_replayed_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "inputs.wal"
    async with open_wal(path) as wal:
        log = MemberLog[Input](wal, Input)
        await log.reset(3)
        for entry in INPUTS:
            log.append(entry)
        await log.flush()
    async with open_wal(path) as wal:
        log = MemberLog[Input](wal, Input)
        assert log.height == 3
        assert list(log.replay()) == INPUTS
        await log.reset(4)
        assert list(log.replay()) == []


async def test_an_entry_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "inputs.wal"
    async with open_wal(path) as wal:
        log = MemberLog[Input](wal, Input)
        log.append(INPUTS[0])
        wal.append(b"\x92\xcd\xff\xff\x01")  # a tag that no input has
        await log.flush()
    async with open_wal(path) as wal:
        replay = MemberLog[Input](wal, Input).replay()
        assert next(replay) == INPUTS[0]
        with pytest.raises(WalUnreadable, match="another version") as caught:
            next(replay)
        assert caught.value.number == 1
