"""A model's own chat template, in a sandbox."""

import json
from pathlib import Path

import pytest

from inference.engine import ChatMessage, Prompt

pytest.importorskip("jinja2", reason="jinja2 comes with the exl2 extra")

from inference.exllamav2.folder import read_template
from inference.exllamav2.template import ChatTemplate, TemplateRefused
from inference.tool_tags import marks_calls
from inference.tools import FunctionCall, Tool, ToolCall, ToolUse

ASK = (ChatMessage("user", "Hi {{ 7 * 7 }}"),)
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def load(folder: Path, template: object) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return ChatTemplate(folder, "<s>", "</s>")


def test_text_of_a_message_is_never_a_template(tmp_path: Path) -> None:
    expected = "<system>You are a helpful assistant.<user>Hi {{ 7 * 7 }}<assistant>"
    assert load(tmp_path, PLAIN).render(Prompt(ASK)) == expected
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}" + PLAIN}]
    assert load(tmp_path, named).render(Prompt(ASK)) == "<s>" + expected
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }}{{ eos_token }}")
    assert load(tmp_path, PLAIN).render(Prompt(ASK)) == "2</s>"


def test_a_template_without_system_messages_gets_none(tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
    template = load(tmp_path, strict)
    assert template.render(Prompt(ASK)) == "<user>Hi {{ 7 * 7 }}<assistant>"
    with pytest.raises(TemplateRefused, match="no system role"):
        template.render(Prompt((ChatMessage("system", "Be rude."), *ASK)))


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ range(10**9) | list }}"],
)
def test_the_sandbox_holds(tmp_path: Path, attack: str) -> None:
    with pytest.raises(TemplateRefused):
        load(tmp_path, attack).render(Prompt(ASK))


def test_one_conversation_is_one_prompt_on_every_day(tmp_path: Path) -> None:
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    assert load(tmp_path, dated).render(Prompt(ASK)) == "26 Jul 2024"


HERMES = (
    "{% if tools %}{% for t in tools %}[{{ t | tojson }}]{% endfor %}<tool_call>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}"
)


def test_tools_and_calls_reach_the_template(tmp_path: Path) -> None:
    use = ToolUse((Tool("look", "Looks.", '{"type":"object"}'),))
    called = ChatMessage("assistant", "", (ToolCall("1", FunctionCall("look", '{"at": "x"}')),))
    odd = ChatMessage("assistant", "", (ToolCall("2", FunctionCall("look", "{at")),))
    answer = ChatMessage("tool", "a tree", tool_call_id="1")
    template = load(tmp_path, HERMES)
    expected = (
        '[{"type": "function", "function": {"name": "look", "description": "Looks.", '
        '"parameters": {"type": "object"}}}]'
        "<tool_call><system>You are a helpful assistant.<user>Hi {{ 7 * 7 }}<assistant>"
        '<tool_call>{"at": "x"}</tool_call>'
        '<assistant><tool_call>"{at"</tool_call><tool>a tree'
    )
    assert template.render(Prompt((*ASK, called, odd, answer), use)) == expected
    assert marks_calls(read_template(tmp_path))
    assert not marks_calls(PLAIN)
