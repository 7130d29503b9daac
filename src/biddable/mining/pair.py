"""The records of mining: what a reader takes out of one source, and a thread as a pair."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from biddable.errors import Finding


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, and where the answer stands.

    Args:
        kind: one of `settings.MINED`.
        completion: a part of the source's text, word for word.
        lines: the first and the last line of the completion, from 1.
        path: of the file, as shown.
        before: earlier (role, text) messages of a thread.
        group: pairs of one group stay on one side of the split; empty for that of the file.
        cut: quotes and signatures that were taken out of the texts.
    """

    kind: str
    prompt: str
    completion: str
    lines: tuple[int, int]
    path: str = ""
    before: tuple[tuple[str, str], ...] = ()
    group: str = ""
    commit: str = ""
    url: str = ""
    cut: tuple[str, ...] = ()


# `Re:`, also numbered, in the languages of the usual programs; the name of a list in brackets.
PREFIX = re.compile(
    r"\A(?:\s*(?:(?:re|aw|sv|vs|fwd?|wg|tr|rv|antw)\s*(?:\[\d+\]|\(\d+\))?\s*[:\uff1a]"
    r"|\[[\w .-]+\]))+\s*",
    re.IGNORECASE,
)
# What a reader gives, one after another.
Mined = Iterator[Pair | Finding]


class Turn(NamedTuple):
    """One message of a thread; `staff` is None where only the author tells who answers."""

    author: str
    text: str
    lines: tuple[int, int]
    path: str
    staff: bool | None = None
    url: str = ""
    cut: tuple[str, ...] = ()
    time: str = ""


def block(lines: Sequence[str], first: int) -> tuple[str, tuple[int, int]]:
    """Lines of a file without blank ends and common indentation, and which lines these are.

    Args:
        first: the number of the first of them, from 1.
    """
    kept = [number for number, line in enumerate(lines) if line.strip()]
    if not kept:
        return "", (first, first)
    text = textwrap.dedent("\n".join(lines[kept[0] : kept[-1] + 1])).rstrip()
    # A text in quotes may begin further left than the code around it.
    indent = text[: len(text) - len(text.lstrip())]
    text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
    return text, (first + kept[0], first + kept[-1])


def thread_pair(subject: str, turns: Sequence[Turn], staff: Sequence[str], group: str) -> Mined:
    """A thread as one pair: the question, the first answer, and what follows in turns.

    Whoever is not the first author answers, unless the source or `staff` says who does. Of several
    answers in a row the first is kept; messages of the asker in a row are joined.

    Args:
        staff: parts of the names or addresses of those who answer; empty where any other may.
    """
    messages: list[tuple[str, str]] = []
    last = turns[0]
    for turn in turns:
        answers = turn.staff if turn.staff is not None else turn.author != turns[0].author
        if staff:
            answers = any(name.casefold() in turn.author.casefold() for name in staff)
        before = messages[-1][0] if messages else ""
        if answers and before == "user":
            messages.append(("assistant", turn.text))
            last = turn
        elif not answers and before == "user":
            messages[-1] = ("user", f"{messages[-1][1]}\n\n{turn.text}")
        elif not answers:
            messages.append(("user", turn.text))
    if messages and messages[-1][0] == "user":
        messages.pop()
    if len(messages) < 2:
        what = "Nobody answers in the thread." if turns else ""
        fix = "Name those who answer with --staff." if len(turns) > 1 else ""
        yield Finding("no_answer", "note", what, fix, turns[0].path, turns[0].lines[0])
        return
    question = messages[0][1]
    if subject and not question.startswith(subject):
        messages[0] = ("user", f"{subject}\n\n{question}".strip())
    yield Pair(
        "ticket", messages[-2][1], last.text, last.lines, last.path, tuple(messages[:-2]), group,
        url=last.url, cut=tuple(text for turn in turns for text in turn.cut),
    )  # fmt: skip


def plain_subject(subject: str) -> str:
    """A subject without `Re:` and its like."""
    return PREFIX.sub("", subject).strip() or subject.strip()
