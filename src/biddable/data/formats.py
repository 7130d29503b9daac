"""What a row is, told by its keys: one small reader a format, each giving raw messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from biddable.data.drafts import (
    QUESTIONS,
    Drafts,
    Fields,
    chosen_side,
    mail,
    message_list,
    pair,
    self_instruct,
    speakers,
    unknown_keys,
)
from biddable.data.trees import take_node, tree_path
from biddable.errors import BiddableError


class Format(NamedTuple):
    """A shape of rows.

    Args:
        name: what a user is told.
        needs: the keys by which it is known.
        uses: other keys that it may read.
        build: its reader, which takes what it uses out of a copy of the row.
        group: the key whose value is the group of a row that names none.
    """

    name: str
    needs: frozenset[str]
    uses: frozenset[str]
    build: Callable[[Fields], Drafts]
    group: str = ""


ANSWERS = (
    *("assistant", "answer", "response", "completion", "output", "reply", "target"),
    *("demonstration", "a"),
)
PAIR_NAMES = {
    ("user", "assistant"): "system/user/assistant",
    ("prompt", "completion"): "prompt/completion",
    ("prompt", "demonstration"): "InstructGPT demonstrations",
    ("instruction", "output"): "Alpaca",
    ("instruction", "response"): "Dolly",
}


def _format(
    name: str, needs: str, uses: str, build: Callable[[Fields], Drafts], group: str = ""
) -> Format:
    return Format(name, frozenset(needs.split()), frozenset(uses.split()), build, group)


def _pair_format(question: str, answer: str) -> Format:
    name = PAIR_NAMES.get((question, answer), f"{question}/{answer}")
    build = partial(pair, question, answer)
    return _format(name, f"{question} {answer}", "context input history", build)


FORMATS: tuple[Format, ...] = (
    _format("ShareGPT preferences", "conversations chosen", "prompt", chosen_side),
    _format("OpenAI messages", "messages", "", partial(message_list, "messages")),
    _format("ShareGPT", "conversations", "", partial(message_list, "conversations")),
    _format("HH-RLHF (chosen)", "chosen", "prompt", chosen_side),
    _format("Self-Instruct", "instruction instances", "id", self_instruct, "id"),
    *(
        _format("mail (subject, body)", f"subject body {answer}", "", partial(mail, answer))
        for answer in ("reply", "answer", "response", "resolution")
    ),
    *(_pair_format(question, answer) for question in QUESTIONS for answer in ANSWERS),
)
_FLAT_KEYS, _TREE_KEYS = "message_id parent_id text role", "message_tree_id prompt"
_OASST = "OpenAssistant {} (best path)"
FLAT = _format(_OASST.format("messages"), _FLAT_KEYS, "", take_node, "message_tree_id")
# What a row is that has none of the formats above.
LAST_FORMATS = (
    _format(_OASST.format("trees"), _TREE_KEYS, "", tree_path, "message_tree_id"),
    *(
        _format(f"messages under {key!r}", key, "", partial(message_list, key))
        for key in ("conversation", "dialog", "dialogue")
    ),
    _format("text with ### Human and ### Assistant", "text", "", speakers),
)


def detect(keys: frozenset[str]) -> Format:
    """The format that rows with these keys have; none, or two of which neither reads the other's
    keys, are refused."""
    if FLAT.needs <= keys:
        return FLAT
    fits = [form for form in FORMATS if form.needs <= keys]
    fits = fits or [form for form in LAST_FORMATS if form.needs <= keys][:1]
    if not fits:
        raise unknown_keys(keys)
    first = fits[0]
    for other in fits[1:]:
        if not other.needs <= first.needs | first.uses:
            raise BiddableError(
                "ambiguous_format",
                f"The row fits two formats: {first.name} and {other.name}.",
                "Remove the keys of one, or name the columns: --map user=...,assistant=...",
            )
    return first
