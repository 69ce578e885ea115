"""A model's own chat template, as a prompt. Runs in the worker; the sandbox is jinja2's.

``strftime_now`` is left undefined on purpose: templates then use a date of their own, and one conversation is one
prompt on every day and every machine.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import msgspec

from inference.engine import ChatMessage, with_system


class TemplateRefused(Exception):  # noqa: D101  raised and caught within the worker; the node gets RequestRefused
    pass


class ChatTemplate:
    """The template of a model's folder, which :func:`inference.exllamav2.folder.check_folder` found to be there."""

    def __init__(self, folder: Path, bos: str, eos: str) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(_read_template(folder))
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: tuple[ChatMessage, ...]) -> str:
        """The prompt, after our system message where there is none and the template takes one.

        Raises :class:`TemplateRefused` with the template's own words.
        """
        turns = with_system(messages)
        if turns != messages:
            with suppress(TemplateRefused):
                return self._render(turns)
        return self._render(messages)

    def _render(self, messages: tuple[ChatMessage, ...]) -> str:
        turns = msgspec.to_builtins(messages)
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise TemplateRefused(str(error)) from error


def _read_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = json.loads((folder / "tokenizer_config.json").read_bytes())["chat_template"]
    if isinstance(found, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default", next(iter(named.values())))
    return str(found)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
