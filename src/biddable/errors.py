"""What is wrong with an input: one record for a finding, one exception for what stops a run.

A finding names what was seen, where (file, line, turn) and how to mend it. `BiddableError` is the
only exception that a user's input may raise; it carries the same fields, so that the command line
prints both in the same shape and no traceback reaches a user.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES = ("error", "warning", "note")
# So many places of one kind are kept; the rest is a number.
MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in the data.

    Args:
        code: a stable snake_case name, e.g. `empty_assistant`.
        severity: `error` stops a run, `warning` does not unless strict, `note` is for information.
        message: what was seen, one sentence.
        fix: what to do about it, one sentence.
        file: where; empty when it is about the whole data set.
        line: 1-based line (or record) of the file, 0 when unknown.
        turn: 0-based index of the message in its conversation.
        count: how many places it stands for, where it sums up others.
    """

    code: str
    severity: Severity
    message: str
    fix: str
    file: str = ""
    line: int = 0
    turn: int | None = None
    count: int = 1

    def place(self) -> str:
        """`file:line, turn k`, as much of it as is known."""
        return place(self.file, self.line, self.turn)

    def __str__(self) -> str:
        where = self.place()
        head = f"{where}: " if where else ""
        return f"{head}{self.message} [{self.code}]" + (f" Fix: {self.fix}" if self.fix else "")


def by_kind(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings by severity and code: errors first, and of each severity the most frequent."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    return sorted(
        kinds.values(),
        key=lambda kind: (SEVERITIES.index(kind[0].severity), -sum(f.count for f in kind)),
    )


def capped(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by kind, of each the first ones and one that counts the rest."""
    kept: list[Finding] = []
    for kind in by_kind(findings):
        kept += kind[:MOST_PLACES]
        if more := sum(finding.count for finding in kind[MOST_PLACES:]):
            first, what = kind[0], f"{more:,} more of this kind."
            kept.append(Finding(first.code, first.severity, what, first.fix, count=more))
    return kept


def as_record(finding: Finding) -> dict[str, Any]:
    """The finding as `check --json` gives it."""
    names = ("code", "severity", "file", "line", "turn", "message", "fix", "count")
    return {name: getattr(finding, name) for name in names}


class BiddableError(ValueError):
    """An error that is the input's fault, with the finding that says what, where and the remedy.

    Whoever finds the fault need not know its place: the caller who does adds it with `of`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        fix: str = "",
        *,
        file: str = "",
        line: int = 0,
        turn: int | None = None,
    ) -> None:
        self.finding = Finding(code, "error", message, fix, file, line, turn)
        super().__init__(str(self.finding))

    @classmethod
    def of(cls, finding: Finding) -> BiddableError:
        """The error for a finding."""
        error = cls(finding.code, finding.message, finding.fix)
        error.finding = finding
        error.args = (str(finding),)
        return error


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that was likely meant; empty where none is near."""
    # What all of them begin with makes none of them nearer.
    bare = {name.lstrip("-/"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-/"), bare, 1, 0.55)
    return bare[near[0]] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` where one of the known names is near, else nothing."""
    name = nearest(word, known)
    return f"; did you mean {name}?" if name else ""


def suggestion(written: str, known: Iterable[str], otherwise: str) -> str:
    """The fix for a name that is not known: the one that was likely meant, or what else to do."""
    name = nearest(written, known)
    return f"Did you mean {name!r}?" if name else otherwise


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, with the next behind a colon."""
    lines = str(error).strip().splitlines() or [""]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {' '.join(said.split())[:200]}"


def place(file: str, line: int, turn: int | None = None) -> str:
    """Joins a file, a line and a turn to `file:line, turn k`."""
    where = f"{file}:{line}" if file and line else file
    if turn is None:
        return where
    return f"{where}, turn {turn}" if where else f"turn {turn}"


def refuse_no_text(text: str, name: str) -> None:
    """Refuses a string that holds bytes of no known meaning, which no file can store."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise BiddableError(
            "not_text",
            f"{name} is not valid text: {text!r}",
            "type it, or rename the file, in UTF-8; PYTHONUTF8=1 makes Python read UTF-8",
        )
