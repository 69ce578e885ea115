"""API keys and their shares: the file, the gate, and the gateway behind it."""

import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from typer.testing import CliRunner

from node.api.api_keys import add_key, hash_key, read_keys, revoke_key
from node.api.backend import Allowance, BackendError
from node.api.gateway import build_gateway
from node.api.openai_answers import error_headers
from node.api.shares import Gate
from node.cli_apikey import app
from node.config import write_node
from node.errors import ConfigInvalid, KeystoreExposed
from tests.node.api.scripted import MODEL, ScriptedBackend, serving
from tests.node.builders import node_file

CHAT = {"model": MODEL.name, "messages": [{"role": "user", "content": "hello"}]}


class Values(dict[str, bytes]):
    """A store in memory."""

    async def get_value(self, key: str) -> bytes | None:
        return self.get(key)

    async def put_value(self, key: str, value: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self[key] = value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway-keys.json"


def gate(path: Path, backend: ScriptedBackend, values: Values | None = None) -> Gate:
    return Gate(path, Values() if values is None else values, backend.allowance)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_a_key_is_shown_once_and_kept_as_a_hash(path: Path) -> None:
    assert read_keys(path) is None
    text = add_key(path, "ann", 7, percent=40)
    raw = path.read_text()
    assert text not in raw
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,) = read_keys(path) or ()
    assert (key.name, key.sha256, key.percent, key.tokens) == ("ann", hash_key(text), 40, None)
    assert (key.limit(1_001), key.limit(None)) == (400, None)
    add_key(path, "bob", 8, tokens=500)
    assert [key.limit(None) for key in read_keys(path) or ()] == [None, 500]
    revoke_key(path, "ann")
    revoke_key(path, "bob")
    assert read_keys(path) == (), "the file stays, and with it the wish for a key"


@pytest.mark.parametrize(
    ("name", "share", "value"),
    [
        ("ann", {}, "ann"),
        ("", {}, "''"),
        ("x" * 65, {}, "xxx"),
        ("new\nline", {}, "new"),
        ("bob", {"percent": 61}, "101"),
        ("bob", {"percent": 0}, "0"),
        ("bob", {"tokens": 0}, "0"),
        ("bob", {"percent": 1, "tokens": 1}, "both"),
    ],
)
def test_impossible_keys_are_named_and_change_nothing(path: Path, name: str, share: dict[str, int], value: str) -> None:
    add_key(path, "ann", 7, percent=40)
    before = path.read_bytes()
    with pytest.raises(ConfigInvalid, match=value):
        add_key(path, name, 8, **share)
    with pytest.raises(ConfigInvalid, match="nobody"):
        revoke_key(path, "nobody")
    assert path.read_bytes() == before


def test_a_file_that_others_read_is_refused(path: Path) -> None:
    add_key(path, "ann", 7)
    path.chmod(0o644)
    with pytest.raises(KeystoreExposed):
        read_keys(path)
    path.chmod(0o600)
    path.write_text('{"keys": [{"name": 7}]}')
    with pytest.raises(ConfigInvalid):
        read_keys(path)


async def test_a_share_is_set_aside_and_settled_and_outlives_a_restart(path: Path) -> None:
    backend, values = ScriptedBackend(), Values()
    text = add_key(path, "ann", 7, percent=10)
    first = gate(path, backend, values)
    key = first.admit(f"Bearer {text}")
    async with first.reserve(key, 600) as one:
        assert one.limit is not None
        assert (one.limit.limit_tokens, one.limit.remaining_tokens) == (1_000, 400)
        with pytest.raises(BackendError) as refused:
            async with first.reserve(key, 1_001):
                pass
        assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "key_allowance_used", 600)
        one.spent = 100
    again = gate(path, backend, values)
    async with again.reserve(key, 900):
        pass  # nothing was delivered
    async with again.reserve(key, 900) as all_of_it:
        all_of_it.spent = 5_000  # a count above TokenMax is never charged
    with pytest.raises(BackendError):
        async with again.reserve(key, 1):
            pass
    backend.allowed = Allowance(4, 600, 10_000, 10_000)
    async with again.reserve(key, 1_000):
        pass


async def test_what_others_of_a_key_hold_is_waited_for(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    held = gate(path, ScriptedBackend())
    key = held.admit(f"Bearer {add_key(path, 'ann', 7, tokens=1_000)}")
    spent = 0

    async def ask() -> None:
        nonlocal spent
        async with held.reserve(key, 600) as one:
            await trio.sleep(1)
            one.spent = 40
            spent += 40

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert spent == 400, "one after the other each got its 600 T"
    async with held.reserve(key, 600) as last:
        assert last.limit is not None
        assert last.limit.remaining_tokens == 0, "what came back was counted once"


async def test_what_is_held_for_too_long_is_no_used_up_day(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    held = gate(path, ScriptedBackend())
    key = held.admit(f"Bearer {add_key(path, 'ann', 7, tokens=1_000)}")
    async with held.reserve(key, 600) as one:
        with pytest.raises(BackendError) as caught:
            async with held.reserve(key, 401):
                pass
        refused = caught.value
        assert (refused.status, refused.code, refused.retry_after) == (429, "key_allowance_held", 1)
        headers = error_headers(refused)
        assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "400")
        assert "x-should-retry" not in headers, "a client may ask again by itself"
        one.spent = 600
    with pytest.raises(BackendError) as caught:
        async with held.reserve(key, 401):
            pass
    assert (caught.value.code, caught.value.retry_after) == ("key_allowance_used", 600)


async def test_a_client_that_leaves_while_its_share_is_written_has_it_back(path: Path) -> None:
    class Slow(Values):
        """Holds up the first write until it is let go."""

        def __init__(self) -> None:
            self.begun, self.go_on = trio.Event(), trio.Event()

        async def put_value(self, key: str, value: bytes) -> None:
            self.begun.set()
            await self.go_on.wait()
            await super().put_value(key, value)

    values = Slow()
    held = gate(path, ScriptedBackend(), values)
    key = held.admit(f"Bearer {add_key(path, 'ann', 7, tokens=1_000)}")

    async def ask() -> None:
        async with held.reserve(key, 1_000):
            await trio.sleep_forever()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await values.begun.wait()
            nursery.cancel_scope.cancel()
            values.go_on.set()
        async with held.reserve(key, 1_000):
            pass


async def test_a_percentage_of_an_unknown_allowance_is_refused(path: Path) -> None:
    backend = ScriptedBackend()
    backend.allowed = Allowance(3, 600)
    percent, tokens, free = (
        add_key(path, n, 7, **s) for n, s in (("a", {"percent": 5}), ("b", {"tokens": 9}), ("c", {}))
    )
    held = gate(path, backend)
    with pytest.raises(BackendError) as refused:
        async with held.reserve(held.admit(f"Bearer {percent}"), 1):
            pass
    assert (refused.value.status, refused.value.code) == (503, "allowance_unknown")
    async with held.reserve(held.admit(f"bearer {tokens}"), 9), held.reserve(held.admit(f"Bearer {free}"), 10**9):
        pass


async def test_the_gateway_asks_for_keys_once_there_are_any(path: Path) -> None:
    backend = ScriptedBackend()
    app_ = build_gateway(backend, gate=gate(path, backend), most_tokens=4_096)
    async with serving(app_) as served, httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as client:

        async def ask(headers: dict[str, str], **fields: Any) -> httpx.Response:
            return await client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=headers)

        assert (await ask({})).status_code == 200, "no file, no keys"
        text = add_key(path, "ann", 7, tokens=10)
        for headers in ({}, bearer("ysk-wrong"), {"authorization": text}):
            for response in (await ask(headers), await client.get("/v1/models", headers=headers)):
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert (await client.get("/v1/models", headers=bearer(text))).status_code == 200
        response = await ask(bearer(text), max_tokens=8)
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "10"
        assert response.headers["x-yellowstone-tokens-left"] == "2"
        # three T were delivered: seven are left
        sent = len(backend.requests)
        refused = await ask(bearer(text), max_tokens=8)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "600")
        assert refused.headers["x-ratelimit-remaining-tokens"] == "7"
        assert len(backend.requests) == sent, "nothing was asked of the network"
        streamed = await ask(bearer(text), max_tokens=7, stream=True)
        assert (streamed.status_code, streamed.headers["x-ratelimit-remaining-tokens"]) == (200, "0")
        backend.refusal = BackendError(503, "no_provider", "nobody")
        assert (await ask(bearer(text), max_tokens=4)).status_code == 503
        backend.refusal = None
        assert (await ask(bearer(text), max_tokens=4)).status_code == 200, "a refusal costs nothing"
        revoke_key(path, "ann")
        assert (await ask(bearer(text))).status_code == 401
        path.chmod(0o644)
        add = path.read_bytes() + b"\n"
        path.write_bytes(add)
        assert (await ask(bearer(text))).json()["error"]["code"] == "keys_unreadable"


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    write_node(config, node_file(tmp_path))
    run = CliRunner().invoke
    made = run(app, ["new", "ann", "--percent", "25", "-c", str(config)])
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("ysk-")
    listed = run(app, ["list", "-c", str(config)]).stdout
    assert "ann\t25 %" in listed
    assert made.stdout.strip() not in listed
    assert run(app, ["revoke", "ann", "-c", str(config)]).exit_code == 0
    assert isinstance(run(app, ["revoke", "ann", "-c", str(config)]).exception, ConfigInvalid)
