"""Text to token ids, with the template's control tokens kept apart from text that looks alike.

The tokenizer is copied once with every control token renamed to one private-use character. A
control token that the template wrote is replaced by its character; the same letters in a message
are then ordinary text, since the copy knows no token of that name. All else is the tokenizer's own:
its normalizer, its pre-tokenizer, the white space that its tokens take in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tokenizers import Tokenizer

from biddable.data.rows import checked_text
from biddable.errors import BiddableError

# Where the private-use characters that stand for control tokens may begin; the first place with
# none of the text's own characters is taken.
BASES = (0x100000, 0x104000, 0x108000, 0x10C000, 0xF0000, 0xF4000, 0xF8000, 0xFC000)
SPAN_OF_BASE = 0x3FFE


@dataclass(frozen=True, slots=True)
class Codec:
    """A tokenizer that keeps control tokens and text apart.

    Args:
        source: the tokenizer's JSON.
        control: control tokens, text to id, in the order of the characters that stand for them.
        pattern: matches any control token, the longest first.
        adds_prefix: it puts a space before a text, so an answer must not be encoded on its own.
    """

    source: str
    control: dict[str, int]
    pattern: re.Pattern[str]
    adds_prefix: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A text and the [start, end) ranges of it that are the template's control tokens."""

    text: str
    owned: tuple[tuple[int, int], ...] = ()

    def cut(self, start: int, end: int) -> Piece:
        inside = [(a - start, b - start) for a, b in self.owned if a >= start and b <= end]
        return Piece(self.text[start:end], tuple(inside))

    def __add__(self, other: Piece) -> Piece:
        moved = [(a + len(self.text), b + len(self.text)) for a, b in other.owned]
        return Piece(self.text + other.text, (*self.owned, *moved))


def make_codec(source: str) -> Codec:
    """Reads a tokenizer's JSON."""
    added = json.loads(source)["added_tokens"]
    control = {token["content"]: token["id"] for token in added if token["special"]}
    codec = Codec(source, control, any_of(control), adds_prefix=False)
    anchor, word = ids(codec, Piece("\n")), ids(codec, Piece("x"))
    prefix = ids(codec, Piece("\nx"))[len(anchor) :] != word
    return replace(codec, adds_prefix=prefix)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@lru_cache(maxsize=8)
def renamed(source: str, names: tuple[tuple[str, str], ...]) -> Tokenizer:
    """The tokenizer with its control tokens under other names and nothing added around a text."""
    described = json.loads(source)
    new = dict(names)
    for token in described["added_tokens"]:
        if token["content"] in new:
            token["content"] = new[token["content"]]
            token["normalized"] = False
    model = described["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {new.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[new.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
    described["post_processor"] = described["truncation"] = described["padding"] = None
    return Tokenizer.from_str(json.dumps(described))


def encode_batch(codec: Codec, pieces: Sequence[Piece]) -> list[list[int]]:
    """Token ids of each piece, with no token around it."""
    try:
        base = free_base(pieces)
    except BiddableError:
        if len(pieces) == 1:
            raise
        # Together they use up what each alone does not.
        return [ids(codec, piece) for piece in pieces]
    names = {text: chr(base + place) for place, text in enumerate(codec.control)}
    tokenizer = renamed(codec.source, tuple(names.items()))
    texts = [with_names(piece, names) for piece in pieces]
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def ids(codec: Codec, piece: Piece) -> list[int]:
    return encode_batch(codec, [piece])[0]


def with_names(piece: Piece, names: dict[str, str]) -> str:
    parts, at = [], 0
    for start, end in piece.owned:
        parts += [piece.text[at:start], names[piece.text[start:end]]]
        at = end
    return "".join([*parts, piece.text[at:]])


def check_text(piece: Piece) -> None:
    """Refuses a text that no tokenizer can take."""
    checked_text(piece.text)
    free_base([piece])


def free_base(pieces: Sequence[Piece]) -> int:
    high = {c for p in pieces if not p.text.isascii() for c in p.text if c >= "\U000f0000"}
    for base in BASES:
        if not any(base <= ord(c) < base + SPAN_OF_BASE for c in high):
            return base
    raise BiddableError(
        "template_refused",
        "The texts hold private-use characters from every range there is.",
        "Take characters above U+F0000 out of the data.",
    )


def continuation_batch(
    codec: Codec, pairs: Sequence[tuple[Piece, Piece]], prompts: Sequence[list[int]]
) -> list[list[int]]:
    """Token ids of each pair's second piece as the continuation of the first.

    A tokenizer that adds nothing to a text encodes the answer on its own. One that writes a space
    before a text (SentencePiece's habit) encodes prompt and answer together; where a token spans
    the boundary, it encodes a line break and the answer, and the line break is dropped.
    """
    answers = [answer for _, answer in pairs]
    if not codec.adds_prefix:
        return encode_batch(codec, answers)
    joint = encode_batch(codec, [prompt + answer for prompt, answer in pairs])
    anchor = Piece("\n")
    anchored = encode_batch(codec, [anchor + answer for answer in answers])
    skip = len(ids(codec, anchor))
    return [
        both[len(prompt) :] if both[: len(prompt)] == prompt else alone[skip:]
        for both, prompt, alone in zip(joint, prompts, anchored, strict=True)
    ]
