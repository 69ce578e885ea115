"""A node that finds nobody says so, with each address that it tried and why that failed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from node.roles import peers
from node.roles.peers import Peers
from node.roles.public import PublicState
from tests.node.roles.harness import Lab, open_lab, until

NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWA6i5LGhhSm4HehtWPCZ4f7hTpb6L1Meb7KCjoz3umcnY"


class Lines:
    """A log that is kept."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.said.append((level, event, fields))


async def said_by(lab: Lab, bootstrap: tuple[str, ...], wanted: str) -> tuple[str, dict[str, Any]]:
    """Level and fields of the first line of ``wanted`` that a node with these addresses logs."""
    lines: Any = Lines()
    async with lab.bare("one") as node, trio.open_nursery() as nursery:
        looking = Peers(replace(node, log=lines), PublicState(node, lab.genesis()), ("full",), bootstrap)
        await nursery.start(looking.run)
        await until(lambda: any(event == wanted for _, event, _ in lines.said), wanted)
        nursery.cancel_scope.cancel()
    return next((level, fields) for level, event, fields in lines.said if event == wanted)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DIAL_EVERY_S", 0.1)
    monkeypatch.setattr(peers, "LONELY_S", 0.5)


async def test_why_nobody_is_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        level, fields = await said_by(lab, (NOBODY,), "no peer")
    assert level == "warning"
    assert "/ip4/127.0.0.1/tcp/1" in fields["tried"][NOBODY]


async def test_a_node_with_nobody_to_look_for_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        assert (await said_by(lab, (), "ready"))[1]["peers"] == 0


async def test_a_node_is_ready_once_it_has_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("other") as other:
        assert (await said_by(lab, (NOBODY, other.network.multiaddrs[0]), "ready"))[1]["peers"] == 1
