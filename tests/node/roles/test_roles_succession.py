"""Committees that follow one another, with real nodes: who joined decides, who left does not, and everybody is paid."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.market.ledger_state import state_root
from contracts.typed_data import Address
from node.api.control import jsonable
from node.chain import Epoch
from node.cli_verify import verify_file
from node.config import write_network
from node.errors import ProofRejected, ReplayFailed
from node.replay import Checks, replay
from node.store.reading import read_batches
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import SHORT, Lab, Running, ask, chat, open_lab, until

DAYS_OF_8_S = replace(SHORT, day_slots=20, settle_window_slots=40)
NEWCOMER = key("newcomer")


def is_paid(lab: Lab, provider: Running) -> bool:
    owed = provider.parts.public.ledger.credits.get(provider.address, 0)
    return bool(owed) and lab.chain.paid(provider.address) == owed


async def answered_and_paid(lab: Lab, user: Running, provider: Running) -> None:
    before = lab.chain.paid(provider.address)
    await ask(user, chat(max_tokens=8))
    await until(lambda: lab.chain.paid(provider.address) > before and is_paid(lab, provider), "the provider is paid")


async def drawn_in(lab: Lab, epoch: int) -> None:
    await until(
        lambda: all(one.parts.public.ledger.running.epoch >= epoch for one in lab.running.values()),
        f"epoch {epoch} everywhere",
    )


def check_proof(lab: Lab, folder: Path, proof: object) -> list[str]:
    """As an outsider who trusts the genesis committee alone."""
    path, genesis = folder / "proof.json", folder / "network.toml"
    path.write_text(json.dumps(jsonable(proof)))
    write_network(genesis, lab.network)
    said: list[str] = []
    verify_file(path, network=genesis, committee_root=None, say=said.append)
    return said


async def test_members_join_and_leave_and_a_lost_committee_is_rescued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch, DAYS_OF_8_S) as lab:
        members = await lab.start_committee()
        joining = await lab.start("newcomer", ("member",), NEWCOMER)
        provider = await lab.start_provider("provider")
        user = await lab.start_user("user", 100 * WEI)
        full = await lab.start("full", ("full",))
        await lab.market(providers=1)
        await answered_and_paid(lab, user, provider)

        # Join and leave: the next day's opening draws, the registry hears of it with the next claim.
        lab.chain.block += 1
        staked = [(address, stake) for address, stake in lab.chain.staked if address != members[0].address]
        lab.chain.staked = sorted([*staked, (NEWCOMER.address, 2_000 * WEI)])
        await drawn_in(lab, 2)
        assert lab.chain.opened[-1].number == 1
        await answered_and_paid(lab, user, provider)
        assert [epoch.members for epoch in lab.chain.opened[1:]] == [tuple(lab.chain.staked)]
        committee = full.parts.public.committee
        assert committee.weight(NEWCOMER.address) == 2_000 * WEI
        assert committee.weight(members[0].address) == 0

        # Whoever left may go; the one who joined is needed for the quorum and counts.
        await members[0].stop()
        await members[1].stop()
        height = full.height
        await answered_and_paid(lab, user, provider)
        await lab.settled_height(height + 1)

        # An outsider who trusts the genesis committee follows the hand-over to the one that signed.
        proof = await full.parts.status.proof(full.height, provider.address)
        assert proof is not None
        assert [entry.committee.epoch for entry in proof.hand_overs] == [1]
        assert any("which handed over to it" in line for line in check_proof(lab, tmp_path, proof))
        cut = replace(proof.hand_overs[0], signatures=proof.hand_overs[0].signatures[:2])
        with pytest.raises(ProofRejected, match="no quorum"):
            check_proof(lab, tmp_path, replace(proof, hand_overs=(cut,)))
        with pytest.raises(ProofRejected, match="no committee in the file is the one that is trusted"):
            check_proof(lab, tmp_path, replace(proof, hand_overs=()))

        # More than a third is lost. The registry is rescued; what nobody could settle is settled after that.
        await members[2].stop()
        stalled = full.height
        rescued: tuple[tuple[Address, int], ...] = tuple(sorted([(MEMBERS[3].address, WEI), (NEWCOMER.address, WEI)]))
        await until(lambda: full.node.slot() > full.parts.public.ledger.slot + 4, "a stall")
        assert full.height == stalled
        lab.chain.opened.append(Epoch(3, rescued, is_rescue=True))
        await drawn_in(lab, 3)
        await until(lambda: is_paid(lab, provider), "all is paid")
        assert full.height > stalled
        assert joining.parts.member is not None

        ledger, store = full.parts.public.ledger, full.node.store.path
        await full.stop()
        root = ledger.committees[-1].committee.root
        with read_batches(store) as batches:
            end = replay(batches, lab.network, Checks(rescues=(root,)))
        assert end.state_root == state_root(ledger)
        with read_batches(store) as batches, pytest.raises(ReplayFailed, match="rescue_unknown"):
            replay(batches, lab.network, Checks())
