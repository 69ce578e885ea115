"""The log: one JSON object a line, nothing secret, nobody else's chatter."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from contracts.signing import Key
from node import logging as node_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in node_logging._QUIET}
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_json_object_a_line() -> None:
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    node_logging.get_logger("test", role="member").info("batch adopted", height=3, hash=b"\x01\x02", why="two\nlines")
    (line,) = lines(stream)
    assert line["event"] == "batch adopted"
    assert (line["height"], line["hash"], line["role"], line["logger"]) == (3, "0x0102", "member", "test")
    assert line["level"] == "info"
    assert "timestamp" in line


@pytest.mark.parametrize(
    "key",
    [
        "password", "secret", "private_key", "node_seed", "mnemonic", "Authorization", "api_key", "apikey",
        "control_token", "token", "prompt", "content", "answer", "messages",
    ],
)  # fmt: skip
def test_secrets_and_conversations_are_dropped(key: str) -> None:
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    node_logging.get_logger("test").info("event", **{key: "hunter2"}, nested={key: "hunter2", "n": 1})
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["nested"] == {key: node_logging.REDACTED, "n": 1}


@pytest.mark.parametrize("key", ["tokens", "token_max", "ticket", "height", "reason", "prompt_tokens"])
def test_what_operators_need_stays(key: str) -> None:
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    node_logging.get_logger("test").info("event", **{key: 7})
    assert lines(stream)[0][key] == 7


def test_a_logged_key_shows_only_its_address() -> None:
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    key = Key.generate()
    node_logging.get_logger("test").info("event", signer=key)
    assert key.reveal().hex() not in stream.getvalue()
    assert key.address.hex() in stream.getvalue()


def test_level_is_obeyed() -> None:
    stream = io.StringIO()
    node_logging.configure("warning", stream=stream)
    log = node_logging.get_logger("test")
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_other_libraries_end_in_the_same_lines_and_are_held_down() -> None:
    stream = io.StringIO()
    node_logging.configure("debug", stream=stream)
    logging.getLogger("httpx").info("HTTP Request: POST http://127.0.0.1/")
    logging.getLogger("some.library").warning("odd: %s", 5, extra={"password": "hunter2"})
    assert [line["event"] for line in lines(stream)] == ["odd: 5"]


def test_exceptions_are_in_the_line() -> None:
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        node_logging.get_logger("test").exception("failed")
    (line,) = lines(stream)
    assert "ValueError: broken" in line["exception"]


def test_file_is_private_and_appended(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "node.log"
    for event in ("one", "two"):
        node_logging.configure("info", path)
        node_logging.get_logger("test").info(event)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_an_endpoint_carries_is_cut_out_of_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a library's own lines, of values in lists and mappings, and of tracebacks."""
    monkeypatch.setattr(node_logging, "_hidden", {})
    url = "https://alice:hunter2@rpc.example:8545/v2/k3yk3y?token=t0k3n"
    node_logging.hide(url)
    stream = io.StringIO()
    node_logging.configure("info", stream=stream)
    log = node_logging.get_logger("test")
    log.warning("waiting for the chain", reason=f"GET {url} failed", tried={"a": [url]}, error=OSError(url))
    logging.getLogger("urllib3.connectionpool").warning("Retrying after %r: %s", "reset", "/v2/k3yk3y?token=t0k3n")
    try:
        raise ValueError(url)
    except ValueError:
        log.exception("failed")
    assert len(lines(stream)) == 3
    text = stream.getvalue()
    assert not [word for word in ("alice", "hunter2", "k3yk3y", "t0k3n") if word in text]
    assert text.count("rpc.example:8545") >= 4, "which endpoint it was stays readable"
    log.info("counts", height=3, ok=True, hash=b"\x01")
    assert lines(stream)[-1]["height"] == 3
