"""The control API: its token, its routes, and the client that the command line uses."""

import enum
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from consensus.tendermint.types import Step
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages import Unit
from node.api.control import build_control, create_token, jsonable
from node.api.control_client import READY_FILE, TOKEN_FILE, ask
from node.errors import KeystoreExposed, NodeUnreachable, Unanswerable
from node.files import write_atomic
from node.store import Outcome
from tests.node.api.scripted import serving
from tests.node.builders import PROVIDER, batch

TOKEN = "a-token"
TICKET = Digest(b"\x07" * 32)


class ScriptedSource:
    """Knows one batch, one ticket, one session and one proof."""

    async def status(self) -> Any:
        return {"height": 3, "address": PROVIDER.address, "big": 2**100}

    async def book(self) -> Any:
        return []

    async def models(self) -> Any:
        return {"models": [], "proofs": None}

    async def batch(self, height: int) -> Any:
        return batch(height).header if height == 3 else None

    async def certified(self, height: int) -> Any:
        return {"height": height, "encoded": b"\x01"} if height == 3 else None

    async def ticket(self, ticket_id: Digest) -> Any:
        return Outcome(ticket_id, 3, PROVIDER.address, 5, 2**70, "") if ticket_id == TICKET else None

    async def sessions(self) -> Any:
        return [{"rfc_id": TICKET}]

    async def session(self, rfc_id: Digest) -> Any:
        return {"rfc_id": rfc_id} if rfc_id == TICKET else None

    async def rfcs(self) -> Any:
        return [{"rfc_id": TICKET}]

    async def explain_rfc(self, rfc_id: Digest) -> Any:
        return {"explanation": ("won",)} if rfc_id == TICKET else None

    async def claims(self) -> Any:
        return ()

    async def evidence(self) -> Any:
        return [{"offender": PROVIDER.address}]

    async def committee(self) -> Any:
        return None

    async def hand_overs(self, from_epoch: int) -> Any:
        return [{"epoch": from_epoch, "signatures": [TICKET]}]

    async def listing(self) -> Any:
        return {"listed": {TICKET: 1}}

    async def look_at(self, model_id: Digest) -> Any:
        return {"model_id": model_id}

    async def order(self, model_id: Digest, *, is_listed: bool) -> Any:
        if model_id != TICKET:
            raise Unanswerable("the order would change nothing: nothing_changes")
        return {"model_id": model_id, "is_listed": is_listed}

    async def signed(self) -> Any:
        return [{"height": 3, "step": Step.PREVOTE}]

    async def proof(self, height: int, provider: Address) -> Any:
        return {"proof": [TICKET]} if (height, provider) == (3, PROVIDER.address) else None

    async def explain_day(self, day: int | None) -> Any:
        if day == 9:
            raise Unanswerable("day 9 has not begun: today is day 4")
        return {"explanation": ("today",) if day is None else (f"day {day}",)}

    async def explain_allowance(self, user: Address) -> Any:
        return {"explanation": (user.hex(),)}

    async def explain_earnings(self, provider: Address) -> Any:
        return {"explanation": (provider.hex(), "earned")}

    async def metrics(self) -> str:
        return "yellowstone_height 3.0\n"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        serving(build_control(ScriptedSource(), TOKEN)) as served,
        httpx.AsyncClient(base_url=served.url, headers=headers, trust_env=False, timeout=20) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status", {"height": 3, "address": "0x" + PROVIDER.address.hex(), "big": 2**100}),
        ("/book", []),
        ("/claims", []),
        ("/evidence", [{"offender": "0x" + PROVIDER.address.hex()}]),
        ("/committee/log", [{"height": 3, "step": "prevote"}]),
        ("/sessions", [{"rfc_id": "0x" + TICKET.hex()}]),
        (f"/sessions/0x{TICKET.hex()}", {"rfc_id": "0x" + TICKET.hex()}),
        (f"/sessions/{TICKET.hex()}", {"rfc_id": "0x" + TICKET.hex()}),
        ("/batches/3/certified", {"height": 3, "encoded": "0x01"}),
        ("/committee/listing", {"listed": {"0x" + TICKET.hex(): 1}}),
        (f"/committee/listing/{TICKET.hex()}", {"model_id": "0x" + TICKET.hex()}),
        ("/explain/day", {"explanation": ["today"]}),
        ("/explain/day/4", {"explanation": ["day 4"]}),
        (f"/explain/allowance/0x{PROVIDER.address.hex()}", {"explanation": [PROVIDER.address.hex()]}),
        (f"/explain/earnings/0x{PROVIDER.address.hex()}", {"explanation": [PROVIDER.address.hex(), "earned"]}),
        (f"/proof/3/0x{PROVIDER.address.hex()}", {"proof": ["0x" + TICKET.hex()]}),
    ],
)
async def test_routes(client: httpx.AsyncClient, path: str, expected: Any) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.json() == expected


@pytest.mark.parametrize(("verb", "is_listed"), [("list", True), ("unlist", False)])
async def test_a_listing_order_is_given_by_post_alone(client: httpx.AsyncClient, verb: str, is_listed: bool) -> None:
    path = f"/committee/{verb}/0x{TICKET.hex()}"
    assert (await client.get(path)).status_code == 405
    assert (await client.post("/committee/listing")).status_code == 405
    assert (await client.post(path)).json() == {"model_id": "0x" + TICKET.hex(), "is_listed": is_listed}
    assert (await client.post(path, headers={"authorization": "Bearer another"})).status_code == 401
    other = await client.post(f"/committee/{verb}/0x{'08' * 32}")
    assert (other.status_code, other.json()["error"][:9]) == (404, "the order")
    assert (await client.post(f"/committee/{verb}/0x08")).status_code == 400


async def test_why_there_is_no_answer_is_told(client: httpx.AsyncClient) -> None:
    response = await client.get("/explain/day/9")
    assert (response.status_code, response.json()) == (404, {"error": "day 9 has not begun: today is day 4"})


async def test_structs_become_objects(client: httpx.AsyncClient) -> None:
    header = (await client.get("/batches/3")).json()
    assert header["height"] == 3
    assert header["proposer"] == "0x" + batch(3).header.proposer.hex()
    ticket = (await client.get(f"/tickets/0x{TICKET.hex()}")).json()
    assert (ticket["height"], ticket["credited_wei"]) == (3, 2**70)


async def test_metrics(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.text == "yellowstone_height 3.0\n"
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    "path",
    [
        "/batches/4",
        "/batches/4/certified",
        f"/tickets/{'00' * 32}",
        f"/sessions/{'00' * 32}",
        "/explain/day/9",
        "/nothing",
    ],
)
async def test_unknown_is_404(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/batches/x", "'x'"),
        ("/batches/-1", "'-1'"),
        (f"/batches/{'9' * 40}", "9999"),
        ("/tickets/0xzz", "0xzz"),
        ("/sessions/00", "'00'"),
        ("/proof/3/0x00", "0x00"),
    ],
)
async def test_bad_parameter_is_named(client: httpx.AsyncClient, path: str, value: str) -> None:
    response = await client.get(path)
    assert response.status_code == 400
    assert value in response.json()["error"]


@pytest.mark.parametrize("path", ["/status", "/metrics", "/nothing"])
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", TOKEN])
async def test_nothing_without_the_token(client: httpx.AsyncClient, path: str, given: str | None) -> None:
    client.headers.pop("authorization")
    response = await client.get(path, headers={} if given is None else {"authorization": given})
    assert response.status_code == 401
    assert TOKEN not in response.text


async def test_it_changes_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.post("/status")).status_code == 405


def test_token_file_is_private_and_new_each_time(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    first = create_token(path)
    second = create_token(path)
    assert first != second
    assert path.read_text().strip() == second
    assert path.stat().st_mode & 0o777 == 0o600


def test_jsonable() -> None:
    class Kind(enum.Enum):
        FIRST = 1

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: bytes

    value = {
        "unit": Unit.TEXT_TOKEN,
        "kind": Kind.FIRST,
        "amount": Uint256(5),
        "point": Point(1, b"\x02"),
        b"\x01": (None, True, 0.5),
    }
    assert jsonable(value) == {
        "unit": "text_token",
        "kind": "first",
        "amount": 5,
        "point": {"x": 1, "y": "0x02"},
        "0x01": [None, True, 0.5],
    }
    with pytest.raises(TypeError, match="object"):
        jsonable(object())


# The command line's client.


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    token = create_token(tmp_path / TOKEN_FILE)
    async with serving(build_control(ScriptedSource(), token)) as served:
        write_atomic(tmp_path / READY_FILE, json.dumps({"control_url": served.url}).encode())
        yield tmp_path


async def test_the_client_finds_a_node_by_its_folder(data_dir: Path) -> None:
    answer = await trio.to_thread.run_sync(ask, data_dir, "/status")
    assert answer["height"] == 3


async def test_the_client_says_what_the_node_says(data_dir: Path) -> None:
    with pytest.raises(Unanswerable, match=r"/batches/4: nothing is known of it"):
        await trio.to_thread.run_sync(ask, data_dir, "/batches/4")


async def test_an_exposed_token_is_refused(data_dir: Path) -> None:
    (data_dir / TOKEN_FILE).chmod(0o644)
    with pytest.raises(KeystoreExposed, match="chmod 600"):
        await trio.to_thread.run_sync(ask, data_dir, "/status")


def test_no_node_there(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="does not run"):
        ask(tmp_path, "/status")


def test_a_node_that_is_gone(tmp_path: Path) -> None:
    create_token(tmp_path / TOKEN_FILE)
    write_atomic(tmp_path / READY_FILE, b'{"control_url": "http://127.0.0.1:1"}')
    with pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:1"):
        ask(tmp_path, "/status")
