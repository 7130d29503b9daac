"""What other tools left in the answers: control tokens of a template, Windows line ends, nan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from biddable.data.conversation import Conversation
from biddable.data.rows import shown
from biddable.errors import Finding, Severity

# ChatML, Llama 3, Phi and harmony <|...|>, DeepSeek's wide bars, Llama 2, Gemma, T5 and others.
CONTROL = re.compile(
    r"<\|[a-z_]{2,30}\|>|<[\uff5c|][^<>\uff5c|]{2,40}[\uff5c|]>|</s>|<s>|<eos>|<bos>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<channel\|>|<\|channel>",
    re.IGNORECASE,
)
# What pandas and spreadsheets write for a cell without a value.
MARK = r"nan|nat|<na>|#(?:n/a|name\?|null!|num!|ref!|value!|div/0!)"
NO_VALUE = re.compile(rf"\s*(?:{MARK}|null|none|undefined)\s*", re.IGNORECASE)
ONLY_MARK = re.compile(rf"\s*(?:{MARK})\s*", re.IGNORECASE)
ENDS_IN_MARK = re.compile(rf"(?:^|[\n:])[ \t]*({MARK})\s*\Z", re.IGNORECASE)
LINE_END = re.compile(r"\r\n?")

# A code, the test of an answer, what such answers do, and the fix.
Kind = tuple[str, Callable[[str], re.Match[str] | None], str, str]
KINDS: tuple[Kind, ...] = (
    (
        "control_token_in_answers",
        CONTROL.search,
        "with the control token {}, which the model would learn to write as text",
        "Take it out: the chat template writes the end of a turn.",
    ),
    (
        "control_character_in_answers",
        re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search,
        "with the control character {}, which the model would learn to write",
        "Take it out. Was the file read in its own encoding? Else name it: --encoding.",
    ),
    (
        "carriage_return_in_answers",
        re.compile("\r").search,
        "with line ends of Windows ({}), which the model would learn to write",
        "Write plain line breaks; --fix does.",
    ),
    (
        "no_value_as_answer",
        NO_VALUE.fullmatch,
        "that are {}, as a missing value is written",
        "Remove these rows, unless the word is the answer; --fix leaves out nan and its like.",
    ),
)


def leftovers(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """One finding a kind: a warning where most answers have it or it is the whole answer."""
    answers = [(c, m.content) for c in conversations for m in c.messages if m.role == "assistant"]
    for code, holds, what, fix in KINDS:
        matches = [(one, match) for one, text in answers if (match := holds(text))]
        if not matches:
            continue
        first, match = matches[0]
        most = 2 * len(matches) >= len(answers) or code == "no_value_as_answer"
        severity: Severity = "warning" if most else "note"
        count = f"{len(matches):,} of {len(answers):,}"
        message = f"Answers {what.format(shown(match.group()))}: {count}."
        yield Finding(code, severity, message, fix, first.file, first.line)
    for one in conversations:
        prompts = [m.content for m in one.messages if m.role != "assistant"]
        if mark := next(filter(None, map(ENDS_IN_MARK.search, prompts)), None):
            what = f"A prompt ends in {shown(mark[1])}, as a missing value is written."
            fix = "Fill or remove the row; --fix leaves out what is nothing else."
            yield Finding("no_value_in_prompt", "warning", what, fix, one.file, one.line)


def has_no_value(conversation: Conversation) -> bool:
    """Whether a text of it is nothing but a mark for no value."""
    return any(ONLY_MARK.fullmatch(message.content) for message in conversation.messages)


def with_plain_line_ends(conversation: Conversation) -> Conversation:
    """The conversation with a line feed for every line end."""
    messages = [replace(m, content=LINE_END.sub("\n", m.content)) for m in conversation.messages]
    return replace(conversation, messages=messages)
