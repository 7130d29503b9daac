"""The mask to look at: each token as it is fed, trained ones marked, in a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from html import escape
from typing import TYPE_CHECKING

from rich.text import Text

from biddable.encoding.encode import Encoder, Example, make_encoder
from biddable.errors import place
from biddable.template.template import Template
from biddable.terminal import visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The longest run of tokens that may make up one character between them.
LONGEST_CHARACTER = 8

PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .3rem; }
.tokens { font-family: ui-monospace, monospace; font-size: .9rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.tokens span { border-radius: 2px; box-shadow: inset 0 0 0 1px rgba(128,128,128,.25); }
.trained { background: rgba(46,160,67,.28); text-decoration: underline 2px; font-weight: 600; }
.context { opacity: .8; }
.special { font-style: italic; border: 1px solid; padding: 0 .2em; }
.stop { outline: 3px double currentColor; outline-offset: 1px; }
"""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, or the few that make up one character together, as it is shown.

    Args:
        text: what it decodes to.
        ids: its token ids.
        weight: the highest of theirs.
        special: a control token.
        stop: a trained token at which the sampler stops.
    """

    text: str
    ids: tuple[int, ...]
    weight: float
    special: bool = False
    stop: bool = False


def tokens_of(
    example: Example, tokenizer: PreTrainedTokenizerFast, encoder: Encoder
) -> list[Token]:
    """The tokens of an example with their texts, which joined are the text of the whole."""
    control = set(encoder.rules.codec.control.values())
    shown = []
    for start, end, text in decoded(tokenizer, list(example.input_ids)):
        ids, weight = tuple(example.input_ids[start:end]), max(example.weights[start:end])
        special = len(ids) == 1 and ids[0] in control
        stop = weight > 0 and len(ids) == 1 and ids[0] in encoder.stops
        shown.append(Token(text, ids, weight, special, stop))
    return shown


def decoded(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]
) -> Iterator[tuple[int, int, str]]:
    """The text of each token as (start, end, text), read after the token before it.

    Tokens that hold a part of a character are taken together until it is whole.
    """

    def read(start: int, end: int) -> str:
        return str(
            tokenizer.decode(
                ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    before = start = 0
    for end in range(1, len(ids) + 1):
        known, text = read(before, start), read(before, end)
        whole = not text.endswith("\ufffd") or end - start >= LONGEST_CHARACTER
        if whole or end == len(ids):
            yield start, end, text.removeprefix(known)
            before, start = start, end


def example_text(example: Example, tokenizer: PreTrainedTokenizerFast, template: Template) -> Text:
    """An example for a terminal: trained tokens tinted and between [[ and ]], specials reversed."""
    shown = tokens_of(example, tokenizer, make_encoder(tokenizer, template))
    text = Text(f"{heading(example)}\n", "bold")
    trained = False
    for number, token in enumerate(shown):
        if (token.weight > 0) is not trained:
            trained = not trained
            text.append("[[" if trained else "]]", "bold green not reverse")
        text.append(marked(token.text), style_of(token, number))
        if token.stop:
            text.append(" (stop)", "bold green")
    if trained:
        text.append("]]", "bold green")
    return text


def style_of(token: Token, number: int) -> str:
    """A rich style; neighbours differ a little, so that one sees where a token ends."""
    if token.special:
        return "bold reverse green" if token.stop else "reverse dim"
    if token.weight > 0:
        return "underline green" if number % 2 else "underline bright_green"
    return "not bold" if number % 2 else "not bold dim"


def heading(example: Example) -> str:
    """Where an example comes from and how much of it is trained."""
    trained = sum(weight > 0 for weight in example.weights)
    where = place(example.file, example.line) or "example"
    return f"{where}: {len(example.input_ids):,} tokens, {trained:,} trained"


def marked(text: str) -> str:
    """A token's text with line breaks and tabs marked, and what would steer written out."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n\n")


def worst_first(examples: Iterable[Example], max_length: int, count: int) -> list[Example]:
    """The `count` to look at first: least trained, then nearest to the limit."""

    def rank(example: Example) -> tuple[float, float]:
        length = len(example.input_ids)
        share = sum(weight > 0 for weight in example.weights) / length
        return (round(share, 2), -length / max_length)

    return nsmallest(count, examples, key=rank)


def page(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    *,
    title: str = "What is trained",
    summary: Sequence[tuple[str, str]] = (),
) -> str:
    """One HTML page with the masks of some examples: no script, nothing loaded, all text escaped.

    Args:
        summary: names and values for the head of the page.
    """
    encoder = make_encoder(tokenizer, template)
    head = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in summary)
    articles = "".join(
        f"<article><h2>{escape(heading(example))}</h2><p class=tokens>"
        + "".join(map(token_html, tokens_of(example, tokenizer, encoder)))
        + "</p></article>\n"
        for example in examples
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none';"
        " style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><ul>{head}</ul>"
        '<p>Legend: <span class="context">context</span>, <span class="trained">trained</span>,'
        ' <span class="special">control token</span>,'
        ' <span class="trained special stop">stop token</span>.</p>\n'
        f"{articles}</body></html>\n"
    )


def token_html(token: Token) -> str:
    kinds = ["trained" if token.weight > 0 else "context"]
    kinds += ["special"] * token.special + ["stop"] * token.stop
    told = f"{' '.join(map(str, token.ids))}, weight {token.weight:g}"
    return f'<span class="{" ".join(kinds)}" title="{told}">{escape(marked(token.text))}</span>'
