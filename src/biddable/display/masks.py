"""The mask to look at: each token as it is fed, trained ones marked, in a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from biddable.display.pages import GOOD, render
from biddable.encoding.encode import Encoder, Example, make_encoder
from biddable.errors import place
from biddable.template.template import Template
from biddable.terminal import visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The longest run of tokens that may make up one character between them.
LONGEST_CHARACTER = 8


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


class Shown(NamedTuple):
    """A token in a page: its text, the names of its kinds, and its tooltip."""

    text: str
    kinds: str
    note: str


def tokens_of(
    example: Example, tokenizer: PreTrainedTokenizerFast, encoder: Encoder
) -> list[Token]:
    """The tokens of an example; their texts joined are the text of the example."""
    control = set(encoder.rules.codec.control.values())
    tokens = []
    for start, end, text in decoded(tokenizer, list(example.input_ids)):
        ids, weight = tuple(example.input_ids[start:end]), max(example.weights[start:end])
        special = len(ids) == 1 and ids[0] in control
        stop = weight > 0 and len(ids) == 1 and ids[0] in encoder.stops
        tokens.append(Token(text, ids, weight, special, stop))
    return tokens


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
        complete = not text.endswith("\ufffd") or end - start >= LONGEST_CHARACTER
        if complete or end == len(ids):
            yield start, end, text.removeprefix(known)
            before, start = start, end


def example_text(example: Example, tokenizer: PreTrainedTokenizerFast, template: Template) -> Text:
    """An example for a terminal: trained tokens tinted and between [[ and ]], specials reversed."""
    text = Text(f"{heading(example)}\n", "bold")
    mark = f"bold {GOOD.terminal}"
    trained = False
    for number, token in enumerate(
        tokens_of(example, tokenizer, make_encoder(tokenizer, template))
    ):
        if (token.weight > 0) is not trained:
            trained = not trained
            text.append("[[" if trained else "]]", f"{mark} not reverse")
        text.append(marked(token.text), _style(token, number))
        if token.stop:
            text.append(" (stop)", mark)
    if trained:
        text.append("]]", mark)
    return text


def _style(token: Token, number: int) -> str:
    """A rich style; neighbors differ a little, to show where a token ends."""
    if token.special:
        return f"bold reverse {GOOD.terminal}" if token.stop else "reverse dim"
    if token.weight > 0:
        return f"underline {'' if number % 2 else 'bright_'}{GOOD.terminal}"
    return "not bold" if number % 2 else "not bold dim"


def heading(example: Example) -> str:
    """Where an example comes from and how much of it is trained."""
    trained = sum(weight > 0 for weight in example.weights)
    where = place(example.file, example.line) or "example"
    return f"{where}: {len(example.input_ids):,} tokens, {trained:,} trained"


def marked(text: str) -> str:
    """A token's text with line breaks, tabs and control characters made visible."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n\n")


def page_token(token: Token, note: str) -> Shown:
    """A token as the pages show it."""
    kinds = ["trained" if token.weight > 0 else "context"]
    kinds += ["special"] * token.special + ["stop"] * token.stop
    return Shown(marked(token.text), " ".join(kinds), note)


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
    summary: Mapping[str, Any] = MappingProxyType({}),
    findings: Sequence[Mapping[str, Any]] = (),
) -> str:
    """One HTML page with the masks of examples: no script, nothing loaded, all text escaped.

    Args:
        summary: names and values for the head of the page.
        findings: each with `severity`, `text`, `code`, `places` and `fix`.
    """
    encoder = make_encoder(tokenizer, template)
    masks = [
        {
            "heading": heading(example),
            "tokens": [
                page_token(token, f"{' '.join(map(str, token.ids))}, weight {token.weight:g}")
                for token in tokens_of(example, tokenizer, encoder)
            ],
        }
        for example in examples
    ]
    return render(
        "display/masks.html", title=title, summary=summary, findings=findings, examples=masks
    )
