"""How a template ends a turn: found by rendering small conversations, not by a list of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from biddable.encoding.turns import Rules, last_token, located, piece_of, tails
from biddable.errors import BiddableError
from biddable.template.template import ANSWER, QUESTION

FUNCTION = {"name": "look_up", "arguments": {"word": "value"}}
CALLS = [{"type": "function", "id": "abcdefghi", "function": FUNCTION}]
CALL = {"role": "assistant", "content": "", "tool_calls": CALLS}


async def find_ends(rules: Rules, eos: str) -> Rules:
    """The rules with the template's ends of turn: of a text answer, then of a tool call.

    It is the first control token after the answer, or the tokenizer's EOS where that follows at
    once (some templates close the answer's text with a token of its own before).
    """
    rules = await with_end(rules, ANSWER, eos)
    return await with_end(rules, CALL, eos) if rules.ends else rules


async def with_end(rules: Rules, answer: Mapping[str, Any], eos: str) -> Rules:
    """The rules with the end of one answer, where it has one that they do not know yet."""
    try:
        found = await located(rules, [QUESTION, answer], prompt=False)
    except BiddableError:
        return rules
    if not found.of_message(1):
        return rules
    last = found.last_end(1)
    piece = piece_of(rules.codec, found)
    tail = [span for span in piece.owned if span[0] >= last]
    texts = [piece.text[start:end] for start, end in tail]
    if any(text in rules.ends for text in texts):
        return rules
    if answer is CALL:
        # The template closes the parts of a call with tokens of their own before it ends the turn.
        end = (eos if eos in texts else texts[-1]) if tail else ""
    else:
        end = eos if eos in texts[: run(tail)] else texts[0] if tail else ""
    # Else the control token with which the message after the answer begins.
    if not end:
        async for following in tails(rules, [QUESTION, answer]):
            end = last_token(following)
            break
    if end:
        return replace(rules, ends=(*rules.ends, end))
    closing = piece.text[last:]
    return replace(rules, closing=closing) if answer is ANSWER and closing.strip(" ") else rules


def run(tokens: Sequence[tuple[int, int]]) -> int:
    """How many control tokens follow each other from the first with no text between them."""
    breaks = (n for n, (a, b) in enumerate(pairwise(tokens), 1) if a[1] != b[0])
    return next(breaks, len(tokens))
