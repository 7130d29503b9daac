"""Findings about keys: those that no reader used, and columns used for their name alone."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biddable.data.conversation import Conversation
from biddable.data.fields import SYSTEM_KEYS
from biddable.data.messages import FLAGS, OTHER_FLAGS
from biddable.data.rows import Fields, is_nothing, kind, number_of, shown
from biddable.errors import BiddableError, Finding, Severity

# A system instruction is Gemini's own, and no column of a table that happens to be called so.
RESERVED = ("weight", "group", *FLAGS, *SYSTEM_KEYS[:3])
# Columns on which an answer is likely to depend.
OPTIONS = re.compile(r"(?:choice|option|alternative)s?(?:[ _-]?[a-h1-8])?|[a-h]", re.IGNORECASE)
OF_THE_PROMPT = re.compile(
    rf"{OPTIONS.pattern}|contexts|passages|documents|instructions|images?|audios?|videos?",
    re.IGNORECASE,
)
# Columns by whose value rows are left out of the training, in one way or another; so is every
# column of true and false: of KTO, a label says whether an answer is wanted at all.
SETS_ASIDE = re.compile(
    r"(?:data)?(?:split|subset|fold)|quality|rating|score|feedback|thumbs?(?:_?(?:up|down))?"
    r"|(?:is_)?(?:deleted|valid|invalid|excluded?|skip|discard(?:ed)?|correct|accepted|rejected)",
    re.IGNORECASE,
)
# Distinct values of a column that are stored.
MOST_VALUES = 1000
LETTER = re.compile(r"\s*\(?[a-h0-9][.):]?\s*", re.IGNORECASE)

# See _of_keys.
UNUSED = ("row", "rows", "was not used", "were not used")
UNUSED_PART = ("part of a message", "parts of messages", *UNUSED[2:])
HANDED_ON = (
    "message", "messages", "is passed to the template only", "are passed to the template only",
)  # fmt: skip


@dataclass(slots=True)
class Noted:
    """A key or column: where it came first, how often it came, and its distinct values."""

    file: str
    line: int
    count: int = 0
    values: set[Any] = field(default_factory=set)


class KeyNotes:
    """What is collected over all rows: by kind and key, how often and where first.

    Kinds are `row` (a key that nothing read), `message` and `part` (of a content) likewise,
    `reserved` (a column read for its name), `empty` (an empty cell in the JSON of --map), `number`
    (read as text) and `untrained` (a row of which nothing is trained).
    """

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Noted]] = defaultdict(dict)

    def add(self, kind: str, key: str, file: str, line: int, value: Any = None) -> None:
        """Notes a key of a row."""
        noted = self._kinds[kind].setdefault(key, Noted(file, line))
        noted.count += 1
        if value is not None and (kind != "row" or len(noted.values) < MOST_VALUES):
            noted.values.add(value)

    def add_row(self, rest: Fields, reserved: Fields, file: str, line: int) -> None:
        """Notes what of a row was not read, and which of its columns were read for their name."""
        for key, value in rest.items():
            if not is_nothing(value):
                aside = isinstance(value, bool) or SETS_ASIDE.fullmatch(key.strip())
                self.add("row", key, file, line, shown(value) if aside else None)
        for key, value in reserved.items():
            if not is_nothing(value):
                of_row = float(value) if key == "weight" else shown(value)
                self.add("reserved", key, file, line, of_row)

    def findings(self, conversations: Sequence[Conversation]) -> Iterator[Finding]:
        """One or more of each kind."""
        yield from self._unused(conversations)
        for key, noted in self._kinds["reserved"].items():
            fix = "Rename the column if it means something else."
            yield _finding("reserved_column", "note", noted, _use_of(key, noted), fix)
        for key, noted in self._kinds["empty"].items():
            cells = number_of(noted.count, "empty cell")
            what = f"{cells} of {key[:40]!r} became null in the JSON of --map."
            yield _finding(
                "empty_cell", "warning", noted, what, "Fill it, if something is missing."
            )
        code, fix = "message_unrecognized_key", "Is it a typing error? Else remove it."
        for about, texts in (("message", HANDED_ON), ("part", UNUSED_PART)):
            if keys := self._kinds[about]:
                yield _of_keys(code, "warning", keys, texts, fix)
        for noted in self._kinds["number"].values():
            one, several = "is a number or a truth value", "are numbers or truth values"
            contents = number_of(noted.count, f"message {one}", f"messages {several}")
            what = f"{contents} in JSON, such as {min(noted.values)}."
            fix = "Its JSON text is read; nothing need be done if that is meant."
            yield _finding("number_as_text", "note", noted, what, fix)
        for noted in self._kinds["untrained"].values():
            rows = number_of(noted.count, "row has", "rows have")
            what = f"{rows} no answer with a weight above 0; nothing would be trained: left out."
            fix = "Remove them, or give an answer a weight."
            yield _finding("all_masked", "warning", noted, what, fix)

    def _unused(self, conversations: Sequence[Conversation]) -> Iterator[Finding]:
        rows = self._kinds["row"]
        flags = {key: noted for key, noted in rows.items() if OTHER_FLAGS.fullmatch(key)}
        prompt = {key: noted for key, noted in rows.items() if OF_THE_PROMPT.fullmatch(key.strip())}
        if prompt:
            key = next(iter(prompt))
            fix = f'If the answer depends on it, say so: --map user="... {{{key[:40]}}}".'
            if any(map(OPTIONS.fullmatch, prompt)) and _are_letters(conversations):
                fix = f"The answers are bare letters, whose meaning stands in {key[:40]!r}. {fix}"
            yield _of_keys("unused_columns", "warning", prompt, UNUSED, fix)
        if flags:
            fix = 'If it says what is trained, write it as "weight" with 0 or 1.'
            yield _of_keys("unused_columns", "warning", flags, UNUSED, fix)
        aside = {key: noted for key, noted in rows.items() if len(noted.values) > 1}
        if aside:
            fix = (
                "If it sets rows aside or calls answers bad, take them out, or give them to --eval."
            )
            yield _of_keys("unused_columns", "warning", aside, UNUSED, fix)
        if rest := {key: rows[key] for key in rows if key not in {**prompt, **flags, **aside}}:
            yield _of_keys("unused_columns", "note", rest, UNUSED, "")


def inside_of(error: BiddableError, row: Fields) -> BiddableError:
    """The error for a row whose keys fit no format, which says so where its text lies deeper."""
    deeper = {key: v for key, v in row.items() if isinstance(v, dict | list) and v}
    if error.finding.code != "unknown_format" or not deeper:
        return error
    key, value = next(iter(deeper.items()))
    rows = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    holder = "a list of objects" if rows else kind(value)
    fix = "Take what is in there to the top of the row: user and assistant, or messages."
    if rows and len(row) == 1:
        path = shlex.quote(f".[{json.dumps(key)}][]")
        fix = f"If those are the rows, take them out: jq -c {path} FILE > NEW.jsonl."
    what = f"{error.finding.message} {shown(key)} holds {holder}, which is not looked into."
    return BiddableError(error.finding.code, what, fix)


def _are_letters(conversations: Sequence[Conversation]) -> bool:
    """Whether most answers are the letter or the number of a choice."""
    letters = sum(bool(LETTER.fullmatch(c.messages[-1].content)) for c in conversations)
    return 2 * letters > len(conversations)


def _of_keys(
    code: str, severity: Severity, keys: Mapping[str, Noted], texts: Sequence[str], fix: str
) -> Finding:
    """One finding that names every key of a kind, so that none hides behind another.

    Args:
        texts: what holds the keys, one and several, and what became of one and of several keys.
    """
    first, count = next(iter(keys.values())), max(noted.count for noted in keys.values())
    names = ", ".join(repr(key[:40]) for key in keys)
    holder, (subject, use) = number_of(count, *texts[:2]), ("key", texts[2])
    if len(keys) > 1:
        subject, use = "keys", texts[3]
    what = f"The {subject} {names} of {holder} {use}."
    return Finding(code, severity, what, fix, first.file, first.line, count=count)


def _finding(code: str, severity: Severity, noted: Noted, what: str, fix: str) -> Finding:
    return Finding(code, severity, what, fix, noted.file, noted.line, count=noted.count)


def _use_of(key: str, noted: Noted) -> str:
    rows = number_of(noted.count, "row")
    if key == "weight":
        least, most = min(noted.values), max(noted.values)
        return f"Weights {least:g} to {most:g} from the column 'weight' of {rows}."
    what = {"group": "Groups", **dict.fromkeys(FLAGS, "Flags")}.get(key, "System prompts")
    return f"{what} from the column {key!r} of {rows}, {len(noted.values):,} different."
