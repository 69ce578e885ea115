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

from inference.engine import ChatMessage, Prompt, with_system
from inference.exllamav2.folder import read_template
from inference.tools import ToolUse


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
        self._template = environment.from_string(read_template(folder))
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, conversation: Prompt) -> str:
        """The prompt, after our system message where there is none and the template takes one.

        Raises :class:`TemplateRefused` with the template's own words.
        """
        turns = with_system(conversation.messages)
        if turns != conversation.messages:
            with suppress(TemplateRefused):
                return self._render(turns, conversation.tools)
        return self._render(conversation.messages, conversation.tools)

    def _render(self, messages: tuple[ChatMessage, ...], use: ToolUse | None) -> str:
        turns = [_turn(message) for message in messages]
        tools = {} if use is None else {"tools": [tool.to_openai() for tool in use.tools]}
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **tools, **self._tokens)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise TemplateRefused(str(error)) from error


def _turn(message: ChatMessage) -> dict[str, Any]:
    """A turn as templates expect it: a call's arguments are an object, where they are one."""
    turn: dict[str, Any] = msgspec.to_builtins(message)
    for call in turn.get("tool_calls", ()):
        with suppress(msgspec.DecodeError):  # arguments that are no JSON stay the text that they are
            call["function"]["arguments"] = msgspec.json.decode(call["function"]["arguments"])
    return turn


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
