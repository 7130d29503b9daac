"""How a template ends a turn: found by rendering small conversations, not by a list of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from biddable.chat.turns import Rules, located, piece_of, probes_after, tail_of_next
from biddable.data.findings import BiddableError

QUESTION = {"role": "user", "content": "Q?"}
ANSWER = {"role": "assistant", "content": "A!"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "type": "function",
            "id": "abcdefghi",
            "function": {"name": "look_up", "arguments": {"word": "value"}},
        }
    ],
}


def find_ends(rules: Rules) -> Rules:
    """The rules with the template's ends of turn: of a text answer, then of a tool call."""
    rules = with_end(rules, ANSWER)
    return with_end(rules, CALL) if rules.ends else rules


def with_end(rules: Rules, answer: Mapping[str, Any]) -> Rules:
    """The rules with the end of one answer, where it has one that they do not know yet."""
    try:
        found = located(rules, [QUESTION, answer], (), prompt=False)
        own = found.of_message(1)
    except BiddableError:
        own = []
    if not own:
        return rules
    last = max(span.end for span in own)
    piece = piece_of(rules.codec, found)
    tokens = [piece.text[start:end] for start, end in piece.owned if start >= last]
    if any(token in rules.ends for token in tokens):
        return rules
    # After a tool call the template may close its parts with tokens of their own.
    end = tokens[-1 if answer is CALL else 0] if tokens else end_from_next(rules, answer)
    if end:
        return replace(rules, ends=(*rules.ends, end))
    return replace(rules, closing="" if answer is CALL else piece.text[last:])


def end_from_next(rules: Rules, answer: Mapping[str, Any]) -> str:
    """The control token with which the message after an answer begins; empty if there is none."""
    for following in probes_after(answer):
        try:
            tail = tail_of_next(rules, [QUESTION, answer], following, ())
        except BiddableError:
            continue
        if tail is not None:
            return tail.text[slice(*tail.owned[-1])]
    return ""
