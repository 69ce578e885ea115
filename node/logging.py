"""The node's log: one JSON object a line, secrets and conversations never in it.

Other libraries' standard-library loggers end in the same lines, held down to what an operator needs.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

from contracts.errors import secret_parts

Level = Literal["debug", "info", "warning", "error"]

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"secret|passw|private|seed|mnemonic|authorization|bearer|api_?key|cookie|(^|_)token$|keystore"
    r"|^(prompt|prompts|message|messages|content|answer|result|body|query|text)$",
    re.IGNORECASE,
)
"""Keys whose values are dropped. A prompt or an answer is nobody's business but the user's (S13)."""

_hidden: dict[str, None] = {}
"""Texts that no line may hold: parts of the endpoints that this process was given."""

_QUIET = {
    "libp2p": logging.ERROR,
    "multiaddr": logging.ERROR,
    "hypercorn.access": logging.ERROR,
    "hypercorn.error": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "urllib3": logging.WARNING,
    "web3": logging.WARNING,
    "asyncio": logging.ERROR,
}
"""Libraries that log what concerns nobody, or log a peer's fault as if it were ours."""


def configure(level: Level = "info", path: Path | None = None, *, stream: TextIO | None = None) -> None:
    """Send all logs to ``path`` (appended, 0600), to ``stream``, or to stderr. May be called again."""
    renderer = structlog.processors.JSONRenderer(default=_show, ensure_ascii=False)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = _handler(path, stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [item for item in root.handlers if getattr(item, "is_node_log", False)]:
        root.removeHandler(old)
        old.close()
    handler.is_node_log = True  # type: ignore[attr-defined]  # marks ours, so that a second call replaces it
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def hide(url: str) -> None:
    """Keep from now on out of every line what of ``url`` may be a key, whoever writes the line."""
    _hidden.update(dict.fromkeys(secret_parts(url)))


def get_logger(name: str, **bound: Any) -> structlog.stdlib.BoundLogger:
    """A logger whose every line carries ``bound``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name, **bound)
    return logger


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: values under secret-looking keys are dropped, in nested mappings too.

    Hidden texts are cut out of all others, of a library's own lines and of tracebacks too.
    """
    return {key: _cut(value) if key == "event" else _redact_value(key, value) for key, value in event.items()}


def _redact_value(key: str, value: Any) -> Any:
    if _SECRET.search(key):
        return REDACTED
    if isinstance(value, dict):
        return {str(inner): _redact_value(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(key, item) for item in value]
    return _cut(value)


def _cut(value: Any) -> Any:
    """``value`` without hidden texts; what is shown by its text is searched in its text."""
    if not _hidden or value is None or isinstance(value, bool | int | float | bytes):
        return value
    text = shown = str(value)
    for secret in _hidden:
        text = text.replace(secret, "…")
    return value if text == shown else text


def _show(value: Any) -> str:
    """What JSON has no form for: bytes are addresses, hashes and ids."""
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _handler(path: Path | None, stream: TextIO | None) -> logging.Handler:
    if path is None:
        return logging.StreamHandler(stream or sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)
    return logging.FileHandler(path, encoding="utf-8")
