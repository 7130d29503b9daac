"""Frames, files, arguments and dates: what a template is, and that its kept text is all of it."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from biddable import BiddableError, Message, Template
from biddable.template.frames import FRAMES
from encoding_tokenizers import byte_level, wrapped

TALK = [
    Message("system", "Be brief."),
    Message("user", "Two?"),
    Message("assistant", "Four."),
    Message("user", "Three?"),
]

RENDERED = {
    "plain": "System: Be brief.\nUser: Two?\nAssistant: Four.\n</s>User: Three?\nAssistant: ",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
    "<|im_start|>assistant\nFour.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nTwo? [/INST] Four. </s>[INST] Three? [/INST]",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nTwo?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nFour.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}

ODD_EDGES = (
    "\n  {%- if true %}  A{% endif %}\n  {{ messages[0].content }}\n"
    "{% if add_generation_prompt %}\n  go{% endif %}\n  \n"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(byte_level())


def theirs(tokenizer: Any, text: str, *, prompt: bool = True, **arguments: Any) -> str:
    """What plain transformers renders."""
    messages = [message.as_dict() for message in TALK]
    return str(
        tokenizer.apply_chat_template(
            messages, chat_template=text, add_generation_prompt=prompt, tokenize=False, **arguments
        )
    )


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("bos", [False, True])
def test_frames_are_what_they_are_known_for(name: str, bos: bool) -> None:
    tokenizer = wrapped(byte_level(), bos=bos)
    template = Template.load(name, tokenizer)
    rendered = template.render(TALK, add_generation_prompt=True)
    assert rendered == "<s>" * bos + RENDERED[name]
    assert theirs(tokenizer, template.text) == rendered


def test_a_tokenizer_without_a_template_gets_the_plain_frame(tokenizer: Any) -> None:
    assert Template.of(tokenizer) == Template.load("plain", tokenizer)


def test_of_several_named_templates_the_default_one_is_taken(tokenizer: Any) -> None:
    tokenizer.chat_template = {"tool_use": "no", "default": "{{ messages[0].content }}"}
    assert Template.of(tokenizer).render(TALK, add_generation_prompt=True) == "Be brief."


def test_several_named_templates_without_a_default_are_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = {"tool_use": "no", "rag": "{{ messages[0].content }}"}
    with pytest.raises(BiddableError, match="named tool_use, rag, and no default"):
        Template.load(None, tokenizer)


def test_a_file_is_read_and_a_missing_one_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ messages[0].content }}!", encoding="utf-8")
    template = Template.load(str(path), tokenizer)
    assert template.render(TALK, add_generation_prompt=False) == "Be brief.!"
    path.write_bytes(b"\xff\xfe")
    for name in (str(path), str(tmp_path / "none.jinja"), str(tmp_path)):
        with pytest.raises(BiddableError, match="cannot be read"):
            Template.load(name, tokenizer)
    with pytest.raises(BiddableError, match="no built-in frame"):
        Template.frame("alpaca")


@pytest.mark.parametrize(
    "value", [True, False, None, 3, 2.5, 'it\'s "so"\n', "ü", [1, "a"], {"a": [None, "b"]}]
)
def test_arguments_are_kept_in_the_text(tokenizer: Any, tmp_path: Path, value: Any) -> None:
    text = "{{ wanted|tojson if wanted is defined else 'not there' }}" + ODD_EDGES
    path = tmp_path / "mine.jinja"
    path.write_text(text, encoding="utf-8")
    template = Template.load(str(path), tokenizer, args={"wanted": value})
    rendered = template.render(TALK, add_generation_prompt=True)
    assert rendered == theirs(tokenizer, text, wanted=value)
    assert rendered == theirs(tokenizer, template.text)


@pytest.mark.parametrize("arguments", [{"a b": 1}, {"": 1}, {"a": object()}])
def test_an_argument_that_jinja_cannot_hold_is_refused(
    tokenizer: Any, arguments: dict[str, Any]
) -> None:
    with pytest.raises(BiddableError, match="template argument"):
        Template.load("chatml", tokenizer, args=arguments)


def test_the_date_is_frozen_in_the_kept_text(tokenizer: Any) -> None:
    text = (
        "{%- macro day() -%}{{ strftime_now('%d %B %Y') }}{%- endmacro -%}"
        "{%- set short = '%Y-%m-%d' -%}"
        "{{ day() }}|{{ strftime_now(short) if strftime_now is defined }}|{{ messages[0].content }}"
    )
    template = Template(text, today=date(2024, 7, 6))
    wanted = "06 July 2024|2024-07-06|Be brief."
    assert template.render(TALK, add_generation_prompt=False) == wanted
    assert theirs(tokenizer, template.text) == wanted
    assert Template(template.text).render(TALK, add_generation_prompt=False) == wanted


def test_a_date_in_a_form_made_up_while_rendering_is_refused() -> None:
    template = Template("{{ strftime_now('%' ~ messages[0].content) }}", today=date(2024, 7, 6))
    with pytest.raises(BiddableError, match="form"):
        template.render(TALK, add_generation_prompt=False)


def test_the_header_of_history_becomes_the_generation_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}\n"
        "{% if add_generation_prompt %}assistant:<think>\n{% endif %}\n"
    )
    template = Template.load(None, tokenizer, header="history")
    rendered = template.render(TALK, add_generation_prompt=True)
    assert rendered.endswith("user:Three?;assistant:")
    assert theirs(tokenizer, template.text) == rendered
    plain = template.render(TALK, add_generation_prompt=False)
    assert theirs(tokenizer, tokenizer.chat_template, prompt=False) == plain


def test_a_template_without_one_header_has_none_to_take(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
    with pytest.raises(BiddableError, match="no one header"):
        Template.load(None, tokenizer, header="history")


def test_contents_are_made_parts_for_a_template_that_reads_parts(tokenizer: Any) -> None:
    text = (
        "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}"
        "{{ part.text }}{{ eos_token }}{% endif %}{% endfor %}{% endfor %}"
    )
    tokenizer.chat_template = text
    template = Template.of(tokenizer)
    wanted = "Be brief.</s>Two?</s>Four.</s>Three?</s>"
    assert template.render(TALK, add_generation_prompt=False) == wanted
    assert theirs(tokenizer, template.text) == wanted


def test_odd_edges_of_a_template_survive_every_wrapping(tokenizer: Any) -> None:
    template = Template(ODD_EDGES).bound(tokenizer)
    for prompt in (True, False):
        rendered = template.render(TALK, add_generation_prompt=prompt)
        assert rendered == theirs(tokenizer, ODD_EDGES, prompt=prompt)


def test_thinking_reaches_a_template_under_each_of_its_names(tokenizer: Any) -> None:
    text = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    for name in ("reasoning_content", "thinking", "reasoning"):
        message = Message("assistant", "a", extra={name: "t", "absent": None})
        rendered = Template(text).render([message], add_generation_prompt=False)
        assert rendered == "tt"


def test_a_template_that_is_no_jinja_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BiddableError, match=re.escape("[template_refused]")):
        Template("{% if %}").render(TALK, add_generation_prompt=False)
