"""A model's own chat template, in a sandbox."""

import json
from pathlib import Path

import pytest

from inference.engine import ChatMessage

pytest.importorskip("jinja2", reason="jinja2 comes with the exl2 extra")

from inference.exllamav2.template import ChatTemplate, TemplateRefused

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
    assert load(tmp_path, PLAIN).render(ASK) == expected
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}" + PLAIN}]
    assert load(tmp_path, named).render(ASK) == "<s>" + expected
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }}{{ eos_token }}")
    assert load(tmp_path, PLAIN).render(ASK) == "2</s>"


def test_a_template_without_system_messages_gets_none(tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
    template = load(tmp_path, strict)
    assert template.render(ASK) == "<user>Hi {{ 7 * 7 }}<assistant>"
    with pytest.raises(TemplateRefused, match="no system role"):
        template.render((ChatMessage("system", "Be rude."), *ASK))


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ range(10**9) | list }}"],
)
def test_the_sandbox_holds(tmp_path: Path, attack: str) -> None:
    with pytest.raises(TemplateRefused):
        load(tmp_path, attack).render(ASK)


def test_one_conversation_is_one_prompt_on_every_day(tmp_path: Path) -> None:
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    assert load(tmp_path, dated).render(ASK) == "26 Jul 2024"
