"""What outsiders can check: a plain full node's proof of a credit, and its log."""

import json
from pathlib import Path

import pytest

from consensus.market.ledger_state import state_root
from node.api.control import jsonable
from node.cli_verify import verify_file
from node.config import write_network
from node.errors import ProofRejected
from node.replay import Checks, replay
from node.store.reading import read_batches
from tests.node.roles.harness import PRICE, open_lab
from tests.node.roles.test_roles_committee import file


async def test_a_full_node_that_is_no_member_serves_what_outsiders_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        full = await lab.start("full", ("full",))
        await lab.knows(full)
        world = lab.world()
        first = world.settlement(provider="one", session="a", tokens=100)
        credited = first.ticket.payload.bid.payload.provider
        file(members[0], first)
        await lab.settled_height(1)
        file(members[0], world.settlement(provider="two", session="b", tokens=50))
        await lab.settled_height(2)

        status = full.parts.status
        proof = await status.proof(2, credited)
        assert proof is not None
        assert proof.cumulative_wei == 100 * PRICE
        assert len(proof.proof) == 1
        path, genesis = tmp_path / "proof.json", tmp_path / "network.toml"
        path.write_text(json.dumps(jsonable(proof)))
        write_network(genesis, lab.network)
        said: list[str] = []
        verify_file(path, network=genesis, committee_root=None, say=said.append)
        assert said[-1] == f"proven       0x{credited.hex()} was credited {100 * PRICE} wei up to this height"

        document = jsonable(proof) | {"cumulative_wei": 101 * PRICE}
        path.write_text(json.dumps(document))
        with pytest.raises(ProofRejected, match="merkle_proof"):
            verify_file(path, network=genesis, committee_root=None, say=said.append)

        assert await status.proof(3, credited) is None, "a height that nobody has certified"
        assert await status.proof(2, full.address) is None, "nobody owes a full node anything"

        # Its log, on its own disk, leads an auditor to the state that the node holds.
        ledger, store = full.parts.public.ledger, full.node.store.path
        await full.stop()
        with read_batches(store) as batches:
            end = replay(batches, lab.network, Checks())
        assert (end.height, end.state_root, end.total_credited) == (2, state_root(ledger), 150 * PRICE)
