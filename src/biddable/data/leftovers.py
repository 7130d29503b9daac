"""What other tools left in the answers: control tokens of a template, Windows line ends, nan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from biddable.data.conversation import Conversation
from biddable.data.findings import Finding
from biddable.data.rows import shown

# ChatML, Llama 3, Phi and harmony <|...|>, DeepSeek's wide bars, Llama 2, Gemma, T5 and others.
CONTROL = re.compile(
    r"<\|[a-z_]{2,30}\|>|<[\uff5c|][^<>\uff5c|]{2,40}[\uff5c|]>|</s>|<s>|<eos>|<bos>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<channel\|>|<\|channel>",
    re.IGNORECASE,
)
NO_VALUE = re.compile(r"\s*(?:nan|null|none|<na>|#n/a|undefined)\s*", re.IGNORECASE)

Holds = Callable[[str], re.Match[str] | None]
KINDS: tuple[tuple[str, Holds, str, str], ...] = (
    (
        "control_token_in_answers",
        CONTROL.search,
        "hold the control token {}, which the model would learn to write as text",
        "Take it out: the chat template writes the end of a turn.",
    ),
    (
        "carriage_return_in_answers",
        re.compile("\r").search,
        "have line ends of Windows ({}), which the model would learn to write",
        r"Replace \r\n by \n.",
    ),
    (
        "no_value_as_answer",
        NO_VALUE.fullmatch,
        "are {}, as a missing value is written",
        "Remove these rows, unless the word is the answer.",
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
        said = f"{len(matches):,} of {len(answers):,} answers {what.format(shown(match.group()))}."
        severity: Literal["note", "warning"] = "warning" if most else "note"
        yield Finding(code, severity, said, fix, first.file, first.line)
