"""What is wrong with an input: one record for a finding, one exception for what stops a run.

A finding names what was seen, where (file, line, turn) and how to mend it. `BiddableError` is the
only exception that a user's input may raise; it carries the same fields, so that the command line
prints both in the same shape and no traceback reaches a user.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES = ("error", "warning", "note")
# Places of one kind that are kept; the rest is only counted.
MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or remark about the data.

    Args:
        code: a stable snake_case name, e.g. `empty_assistant`.
        severity: `error` stops a run, `warning` does not unless strict, `note` is for information.
        message: what was seen, one sentence.
        fix: what to do about it, one sentence.
        file: where; empty when it is about the whole data set.
        line: 1-based line (or record) of the file, 0 when unknown.
        turn: 0-based index of the message in its conversation.
        count: how many places it sums up; 1 for its own.
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


class BiddableError(ValueError):
    """An error that is the input's fault, with the finding that says what, where and the remedy.

    Code that does not know the place raises without it; a caller that does adds it with `of`.
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
    """The known name that was likely meant; empty where none is similar."""
    # Leading dashes, which all options share, would make every name look similar.
    bare = {name.lstrip("-/"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-/"), bare, 1, 0.55)
    return bare[near[0]] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` where a known name is similar, else an empty text."""
    name = nearest(word, known)
    return f"; did you mean {name}?" if name else ""


def suggestion(written: str, known: Iterable[str], otherwise: str) -> str:
    """The fix for a name that is not known: the one that was likely meant, or what else to do."""
    name = nearest(written, known)
    return f"Did you mean {name!r}?" if name else otherwise


def first_line(error: BaseException) -> str:
    """An error's type and its first line, and the second where the first ends in a colon."""
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
    """Refuses a string with surrogates: bytes that were no UTF-8, which no file can store."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise BiddableError(
            "not_text",
            f"{name} is not valid text: {text!r}",
            "type it, or rename the file, in UTF-8; PYTHONUTF8=1 makes Python read UTF-8",
        )


def extra_module(module: str, extra: str, purpose: str = "Reading this") -> Any:
    """A module of an extra's package; `missing_extra` where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        what = f"{purpose} needs the package {module.partition('.')[0]}."
        fix = f'Install it: pip install "biddable[{extra}]".'
        raise BiddableError("missing_extra", what, fix) from None
