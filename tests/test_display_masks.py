"""The mask to look at shows every token once, marks what is trained, and trusts no text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from biddable import Conversation, Example, Message, Template, encode
from biddable.display.masks import example_text, page, tokens_of, worst_first
from biddable.encoding.encode import make_encoder
from encoding_tokenizers import byte_level, wrapped

CHATML = Template.frame("chatml")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(byte_level())


def example(tokenizer: Any, question: str, answer: str) -> Example:
    talked = [Message("user", question), Message("assistant", answer)]
    return encode(Conversation(talked, "f.jsonl", 3), tokenizer, CHATML)[0]


@pytest.mark.parametrize("text", ["Four.", "e\u0301 🙂 日本\n\n x", "<|im_end|>", "  a "])
def test_the_tokens_shown_are_all_the_text(tokenizer: Any, text: str) -> None:
    encoded = example(tokenizer, text, text)
    shown = tokens_of(encoded, tokenizer, make_encoder(tokenizer, CHATML))
    assert "".join(token.text for token in shown) == tokenizer.decode(encoded.input_ids)
    assert [i for token in shown for i in token.ids] == list(encoded.input_ids)
    assert [token.text for token in shown if token.stop] == ["<|im_end|>"]


def test_a_terminal_without_color_shows_what_is_trained(tokenizer: Any) -> None:
    out = StringIO()
    console = Console(file=out, no_color=True, width=200)
    console.print(example_text(example(tokenizer, "Two?", "Four."), tokenizer, CHATML))
    text = out.getvalue()
    assert "f.jsonl:3: " in text
    assert "[[Four.<|im_end|> (stop)]]" in text


def test_nothing_in_a_text_steers_the_terminal(tokenizer: Any) -> None:
    out = StringIO()
    encoded = example(tokenizer, "a\x1b[31m\x07\u202eb", "[bold]c[/bold]")
    Console(file=out, no_color=True, width=200).print(example_text(encoded, tokenizer, CHATML))
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", out.getvalue())
    assert "\\x1b" in out.getvalue()
    assert "[bold]c[/bold]" in out.getvalue()


class Reader(HTMLParser):
    """Collects tags, their attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_every_text_and_loads_nothing() -> None:
    tokenizer = wrapped(byte_level())
    # One token that is a tag by itself; the others would be torn apart by the marks around them.
    tokenizer.add_tokens(["<script>alert(1)</script>"])
    bad = '<script>alert(1)</script><img src="https://x.example/a" onerror=x>&amp;"\''
    encoded = example(tokenizer, bad, bad)
    reader = Reader()
    finding = dict.fromkeys(("severity", "text", "code", "places", "fix"), bad)
    text = page([encoded], tokenizer, CHATML, title=bad, summary={bad: bad}, findings=[finding])
    reader.feed(text)
    assert not {tag for tag, _ in reader.tags} & {"script", "img", "link", "iframe", "a"}
    assert not any(name.startswith("on") or name == "src" for _, a in reader.tags for name in a)
    assert "default-src 'none'" in text
    assert reader.text.count(bad) == 11


def test_the_page_marks_tokens_without_colour(tokenizer: Any) -> None:
    reader = Reader()
    reader.feed(page([example(tokenizer, "Two?", "Four.")], tokenizer, CHATML))
    spans = [attributes["class"] or "" for tag, attributes in reader.tags if tag == "span"][4:]
    encoded = example(tokenizer, "Two?", "Four.")
    assert sum("trained" in kinds for kinds in spans) == sum(w > 0 for w in encoded.weights)
    assert sum("stop" in kinds for kinds in spans) == 1
    assert sum("special" in kinds for kinds in spans) == 4


def test_the_worst_examples_come_first(tokenizer: Any) -> None:
    rows = [
        example(tokenizer, "Two?", "Four. " * 9),
        example(tokenizer, "Two? " * 60, "Four."),
        example(tokenizer, "Two?", "Four. " * 90),
    ]
    assert worst_first(rows, 999, 1) == [rows[1]]
