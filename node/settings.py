"""Read a TOML file into a frozen struct, with one clear error that names file and key."""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from node.errors import ConfigInvalid

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `\$(?P<place>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"Object (?P<what>contains unknown|missing required) field `(?P<name>[^`]*)`")


def read(path: Path) -> dict[str, Any]:
    """A file's TOML. Raises :class:`ConfigInvalid` where there is none."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigInvalid(path, "", "there is no such file") from error
    except OSError as error:
        raise ConfigInvalid(path, "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(path, "", f"is not TOML: {error}") from error


def convert(source: Path, document: Mapping[str, Any], kind: type[T], hook: Callable[[type, Any], Any]) -> T:
    """``document`` as a ``kind``. Raises :class:`ConfigInvalid` for unknown, missing and ill-typed keys."""
    try:
        return msgspec.convert(document, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        raise _explain(source, str(error)) from error


def override(source: Path, document: dict[str, Any], overrides: Mapping[str, str]) -> None:
    """Set dotted keys (``listen.control_port``, ``models.0.price_wei``) in ``document``.

    A value is read as TOML (``4``, ``true``, ``["user"]``) and, where it is none, as plain text.
    Raises :class:`ConfigInvalid` for a key that leads through something that isn't a table.
    """
    for dotted, text in overrides.items():
        *tables, last = dotted.split(".")
        target: Any = document
        for step in tables:
            target = _descend(source, dotted, target, step)
        if isinstance(target, dict) and last:
            target[last] = _parse(text)
        else:
            raise ConfigInvalid(source, dotted, "is no key that can be set")


def _descend(source: Path, dotted: str, target: Any, step: str) -> Any:
    if isinstance(target, dict) and not step.isdecimal():
        return target.setdefault(step, {})
    if isinstance(target, list) and step.isdecimal() and int(step) < len(target):
        return target[int(step)]
    raise ConfigInvalid(source, dotted, f"there is no {step!r} to set it in")


def _parse(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _explain(source: Path, message: str) -> ConfigInvalid:
    """msgspec says what and where in one sentence; the key is what an operator looks for."""
    found = _PLACE.match(message)
    reason, place = (found["reason"], found["place"] or "") if found else (message, "")
    key = place.lstrip(".")
    if field := _FIELD.match(reason):
        key = f"{key}.{field['name']}".lstrip(".")
        reason = "unknown key" if field["what"] == "contains unknown" else "is missing"
    return ConfigInvalid(source, key, reason)
