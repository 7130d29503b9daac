"""Texts that are well formed and hardly meant: `nan`, errors of spreadsheets, CR line ends, letters
of choices that the prompt does not show."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from biddable.data.conversation import Conversation, Message
from biddable.data.findings import Finding

# What pandas and spreadsheets write for a cell without a value.
NO_VALUE = frozenset(
    (
        "nan",
        "NaN",
        "NaT",
        "<NA>",
        "#N/A",
        "#NAME?",
        "#NULL!",
        "#NUM!",
        "#REF!",
        "#VALUE!",
        "#DIV/0!",
    )
)
LINE_END = re.compile(r"\r\n?")
LETTER = re.compile(r"\W*[A-Ha-h1-8]\W*")
CHOICES = re.compile(
    r"(?:choice|option|alternative|answer)s?(?:[ _-]?[a-h1-8])?|[a-h]", re.IGNORECASE
)
MOST_LETTERS = 0.8


def suspect_findings(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """A warning for each row with a text that stands for no value, or with CR line ends."""
    for conversation in conversations:
        for turn, message in enumerate(conversation.messages):
            last = message.content.strip().rpartition("\n")[2].strip()
            if (last in NO_VALUE and message.role != "assistant") or _is_no_value(message):
                what = f"The {message.role} text ends in {last!r}, a mark for no value."
                fix = "Fill or remove the row; --fix leaves out what is nothing else."
                yield _warning("no_value", what, fix, conversation, turn)
                break
        for turn, message in enumerate(conversation.messages):
            if "\r" in message.content:
                what = f"The {message.role} text has the line ends of Windows or of an old Mac."
                fix = "Write plain line breaks; --fix does."
                yield _warning("cr_line_ends", what, fix, conversation, turn)
                break


def bare_letters(conversations: Sequence[Conversation], unused: Collection[str]) -> list[Finding]:
    """A warning where answers are letters of choices that stand in a column that is not used."""
    names = [name for name in unused if CHOICES.fullmatch(name.strip())]
    answers = [c.messages[-1].content for c in conversations]
    letters = sum(LETTER.fullmatch(answer) is not None for answer in answers)
    if not names or not answers or letters < MOST_LETTERS * len(answers):
        return []
    what = f"{letters:,} answers are bare letters; their choices are not in the prompt: "
    what += f"{', '.join(map(repr, names[:8]))} not used."
    fix = 'Put them there, as in --map user="{question} {choices}",assistant=answer.'
    first = conversations[0]
    return [Finding("bare_letters", "warning", what, fix, first.file, first.line, count=letters)]


def has_no_value(conversation: Conversation) -> bool:
    """Whether a text of it is nothing but a mark for no value."""
    return any(_is_no_value(message) for message in conversation.messages)


def _is_no_value(message: Message) -> bool:
    return message.content.strip() in NO_VALUE


def with_plain_line_ends(conversation: Conversation) -> Conversation:
    """The conversation with a line feed for every line end."""
    messages = [replace(m, content=LINE_END.sub("\n", m.content)) for m in conversation.messages]
    return replace(conversation, messages=messages)


def _warning(code: str, what: str, fix: str, conversation: Conversation, turn: int) -> Finding:
    return Finding(code, "warning", what, fix, conversation.file, conversation.line, turn)
