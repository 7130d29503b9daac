"""How a template ends a turn: found by rendering small conversations, not by a list of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from biddable.encoding.chats import Rules, located, piece_of, scene_of
from biddable.encoding.turns import last_token, tails
from biddable.errors import BiddableError
from biddable.template.rendering import attempt
from biddable.template.template import ANSWER, QUESTION

FUNCTION = {"name": "look_up", "arguments": {"word": "value"}}
CALLS = [{"type": "function", "id": "abcdefghi", "function": FUNCTION}]
CALL = {"role": "assistant", "content": "", "tool_calls": CALLS}


def find_ends(rules: Rules, eos: str) -> Rules:
    """The rules with the template's ends of turn: of a text answer, then of a tool call.

    It is the first control token after the answer, or the tokenizer's EOS where that follows at
    once (a template may close the answer's text with a token of its own before).
    """
    rules = with_end(rules, ANSWER, eos)
    return with_end(rules, CALL, eos) if rules.ends else rules


def with_end(rules: Rules, answer: Mapping[str, Any], eos: str) -> Rules:
    """The rules with the end of one answer, where it has one that they do not know yet."""
    scene, chat = scene_of(rules), [QUESTION, answer]
    text = attempt(lambda: located(scene, chat, prompt=False))
    if isinstance(text, BiddableError) or not text.of_message(1):
        return rules
    last = text.last_end(1)
    piece = piece_of(rules.codec, text)
    tail = [span for span in piece.owned if span[0] >= last]
    tokens = [piece.text[start:end] for start, end in tail]
    if any(token in rules.ends for token in tokens):
        return rules
    if not tokens:
        # The control token with which the message after the answer begins.
        end = next((last_token(following) for following in tails(scene, chat)), "")
    elif answer is CALL:
        # The template closes the parts of a call with tokens of their own before it ends the turn.
        end = eos if eos in tokens else tokens[-1]
    else:
        end = eos if eos in tokens[: adjacent_count(tail)] else tokens[0]
    if end:
        return replace(rules, ends=(*rules.ends, end))
    closing = piece.text[last:]
    return replace(rules, closing=closing) if answer is ANSWER and closing.strip(" ") else rules


def adjacent_count(tokens: Sequence[tuple[int, int]]) -> int:
    """How many control tokens follow each other from the first with no text between them."""
    breaks = (n for n, (a, b) in enumerate(pairwise(tokens), 1) if a[1] != b[0])
    return next(breaks, len(tokens))
