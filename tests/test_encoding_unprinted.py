"""Tool schemas and names that a template does not print are told, by marks and not by words."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from biddable import Conversation, Message, Template
from biddable.dataset.encode_all import encode_all
from encoding_tokenizers import byte_level, wrapped

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ NAME }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = TURNS.replace("{{ NAME }}", "")
NAMES = TURNS.replace("{{ NAME }}", "{{ ' ' + m.name if m.name else '' }}")
WHOLE = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + PLAIN
ONLY_NAMES = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + PLAIN
TYPED = (
    "{% for t in tools or [] %}{% set f = t.function %}{{ f.name }}: {{ f.description }} "
    "{% for k, p in f.parameters.properties.items() %}{{ k }}"
    "{% if k not in f.parameters.required %}?{% endif %} {{ p.enum | join('|') }}{% endfor %}"
    "{% endfor %}" + PLAIN
)
TOOL = {
    "type": "function",
    "function": {
        "name": "stock",
        "description": "Stock of an item",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string", "enum": ["tea", "salt"]}},
            "required": ["item"],
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(byte_level())


def codes(tokenizer: Any, text: str, conversation: Conversation) -> list[tuple[str, str]]:
    encoded = encode_all([conversation] * 3, tokenizer, Template(text), max_length=999)
    assert len(encoded.examples) == 3
    assert all("3 rows" in finding.message for finding in encoded.findings)
    return [(f.code, f.severity) for f in encoded.findings]


def with_tools(answer: str = "The stock of an item: tea, salt.") -> Conversation:
    return Conversation([Message("user", "?"), Message("assistant", answer)], tools=[TOOL])


@pytest.mark.parametrize("template", [WHOLE, TYPED])
def test_schemas_that_are_printed_are_proven_in_any_form(tokenizer: Any, template: str) -> None:
    assert codes(tokenizer, template, with_tools()) == []


@pytest.mark.parametrize("template", [PLAIN, ONLY_NAMES, TYPED.replace("{{ k }}", "")])
def test_schemas_that_are_not_printed_are_one_warning(tokenizer: Any, template: str) -> None:
    """Although the answer holds the same words."""
    conversation = with_tools("stock: Stock of an item, item, tea|salt")
    assert codes(tokenizer, template, conversation) == [("tools_not_printed", "warning")]


@pytest.mark.parametrize(("role", "severity"), [("user", "warning"), ("tool", "note")])
def test_names_that_are_not_printed_are_one_finding(
    tokenizer: Any, role: str, severity: str
) -> None:
    turns = [Message(role, "I am ann.", None, {"name": "ann"}), Message("assistant", "Hi ann.")]
    assert codes(tokenizer, PLAIN, Conversation(turns)) == [("name_not_printed", severity)]
    assert codes(tokenizer, NAMES, Conversation(turns)) == []
