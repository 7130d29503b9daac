"""Pairs to rows: what is left out, what is private, and a record of all of it."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from biddable.data.private import masked
from biddable.errors import MOST_PLACES, BiddableError, Finding, Severity
from biddable.mining.by_kind import MOST_BYTES, file_pairs, group_name
from biddable.mining.licenses import license_of
from biddable.mining.mail import Mail, thread_pairs
from biddable.mining.pair import Mined, Pair
from biddable.mining.repository import commit_pairs
from biddable.mining.walk import Source, sources
from biddable.settings import MINED, MineSettings

MOST_FILES = 200_000
# Texts that mined.json shows of what was cut, and characters of each.
MOST_CUT, LONGEST_CUT = 1000, 400
SECRET_FIX = "It is left out; --mask keeps such rows with a placeholder in its stead."
PERSONAL_FIX = "--mask puts a placeholder in its stead."


@dataclass(slots=True)
class Record:
    """What was mined and what was not: the content of mined.json.

    Args:
        kinds, licenses, other_files, counts: numbers by name.
        places: of each code the first findings, which stand for all in `counts`.
        cut: quotes and signatures, each with its place.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    other_files: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[Finding]] = field(default_factory=dict)
    cut: list[dict[str, Any]] = field(default_factory=list)
    files: int = 0
    masked: int = 0
    groups: set[str] = field(default_factory=set)

    def add(self, finding: Finding) -> None:
        """Counts a finding; the first ones of each kind are kept."""
        if finding.code == "other_file":
            self.other_files[finding.message] += 1
            return
        self.counts[finding.code] += 1
        kept = self.places.setdefault(finding.code, [])
        if len(kept) < MOST_PLACES:
            kept.append(finding)

    def findings(self) -> list[Finding]:
        """The first findings of each kind; the last of them counts those that were not kept."""
        every: list[Finding] = []
        for code, kept in self.places.items():
            more = self.counts[code] - len(kept)
            every += [*kept[:-1], replace(kept[-1], count=more + 1)]
        return every

    def as_json(self) -> dict[str, Any]:
        """The record as mined.json holds it."""
        return {
            "rows": self.kinds.total(),
            "kinds": dict(self.kinds.most_common()),
            "groups": len(self.groups),
            "licenses": dict(self.licenses.most_common()),
            "files": self.files,
            "files_of_other_kinds": dict(sorted(self.other_files.items())),
            "masked": self.masked,
            "left_out": dict(self.counts.most_common()),
            "findings": [asdict(finding) for finding in self.findings()],
            "cut": self.cut,
        }


class Collector:
    """Turns what was given into rows, and keeps the record of it."""

    def __init__(self, settings: MineSettings) -> None:
        self.record = Record()
        self._settings = settings
        self._kinds = settings.kind or MINED
        self._seen: set[bytes] = set()
        self._mails: list[Mail] = []
        # Before the file of the rows is there.
        self._sources = list(sources(settings.paths, MOST_FILES))

    def rows(self, progress: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
        """The rows, in the order of the sources; threads of mail come last.

        Args:
            progress: is called with the number of files read, and of all.
        """
        for number, source in enumerate(self._sources):
            progress(number, len(self._sources))
            if isinstance(source, Finding):
                self.record.add(source)
            else:
                yield from self._rows_of(self._pairs(source), source)
        progress(len(self._sources), len(self._sources))
        threads = thread_pairs(self._mails, self._settings.staff, group_name)
        yield from self._rows_of(threads, None)

    def _pairs(self, source: Source) -> Mined:
        settings = self._settings
        if source.path.is_dir() and source.repo is not None:
            if {"commit", "message"} & set(self._kinds):
                limits = settings.commits, settings.max_chars
                yield from commit_pairs(source.repo, source.shown, *limits)
            return
        self.record.files += 1
        given = source.shown in map(os.path.normpath, settings.paths)
        try:
            yield from file_pairs(source, self._mails, settings.staff, settings.encoding, given)
        except BiddableError as error:
            yield error.finding
        except (OSError, EOFError, zlib.error) as error:
            what = f"The file cannot be read: {getattr(error, 'strerror', None) or error}."
            yield Finding("unreadable_file", "warning", what, "Check that you may read it.")

    def _rows_of(self, pairs: Mined, source: Source | None) -> Iterator[dict[str, Any]]:
        data, license = b"", ""
        if source is not None:
            data = _data(source)
            license = license_of(data, source.path, source.root)
        for pair in pairs:
            if isinstance(pair, Finding):
                shown = pair.file or (source.shown if source else "")
                severity: Severity = "note" if pair.severity == "note" else "warning"
                self.record.add(replace(pair, severity=severity, file=shown))
            elif pair.kind in self._kinds:
                placed = _placed(pair, source, data)
                if (clean := self._checked(placed)) is not None:
                    self._count(clean, license)
                    yield row_of(clean, license, self._settings.system)

    def _checked(self, pair: Pair) -> Pair | None:
        """The pair, masked where that is wanted; None where it is left out."""
        settings = self._settings
        parts = [*(text for _, text in pair.before), pair.prompt, pair.completion]
        if sum(map(len, parts)) > settings.max_chars:
            what = f"The row has more than {settings.max_chars:,} characters (--max-chars)."
            self._leave_out("too_long", what, pair)
            return None
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
        if digest in self._seen:
            self._leave_out("duplicate", "The row repeats an earlier one.", pair)
            return None
        self._seen.add(digest)
        masks = [masked(text) for text in (*parts, *pair.cut)]
        private = {code: what for _, seen in masks[: len(parts)] for code, what in seen}
        if settings.mask:
            self.record.masked += bool(private)
            texts = [text for text, _ in masks]
            before = zip((role for role, _ in pair.before), texts, strict=False)
            prompt, completion = texts[len(parts) - 2 : len(parts)]
            cut = tuple(texts[len(parts) :])
            return replace(
                pair, before=tuple(before), prompt=prompt, completion=completion, cut=cut
            )
        for code, what in private.items():
            fix = SECRET_FIX if code == "secret_found" else PERSONAL_FIX
            self.record.add(_finding(code, "warning", f"The text holds {what}.", fix, pair))
        return None if "secret_found" in private else pair

    def _leave_out(self, code: str, what: str, pair: Pair) -> None:
        self.record.add(_finding(code, "note", what, "", pair))

    def _count(self, pair: Pair, license: str) -> None:
        record = self.record
        record.kinds[pair.kind] += 1
        record.licenses[license or "unknown"] += 1
        record.groups.add(pair.group)
        for text in pair.cut[: MOST_CUT - len(record.cut)]:
            shown = {"path": pair.path, "line": pair.lines[0], "text": text[:LONGEST_CUT]}
            record.cut.append(shown)


def _finding(code: str, severity: Severity, what: str, fix: str, pair: Pair) -> Finding:
    """A finding at the lines of a pair, or at its commit."""
    if pair.kind in ("commit", "message"):
        return Finding(code, severity, what, fix, f"{pair.path} {pair.commit[:10]}")
    return Finding(code, severity, what, fix, pair.path, pair.lines[0])


def _data(source: Source) -> bytes:
    """The beginning of a file: all of it where it may be a text that a commit holds."""
    if not source.path.is_file():
        return b""
    try:
        with source.path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return b""


def _placed(pair: Pair, source: Source | None, data: bytes) -> Pair:
    """The pair with the path, group, commit and address of its file."""
    if source is None or pair.commit:
        return pair
    pair = replace(pair, path=source.shown, group=pair.group or source.shown)
    if source.repo is None or not source.repo.holds(source.inside, data):
        return pair
    url = pair.url or source.repo.url(source.inside, pair.lines)
    return replace(pair, commit=source.repo.commit, url=url)


def row_of(pair: Pair, license: str, system: str) -> dict[str, Any]:
    """The row as `check` and `train` read it."""
    source: dict[str, Any] = {"path": pair.path, "lines": list(pair.lines)}
    source |= {"commit": pair.commit} if pair.commit else {}
    source |= {"url": pair.url} if pair.url else {}
    row: dict[str, Any] = {"system": system} if system else {}
    if pair.before:
        turns = [*pair.before, ("user", pair.prompt), ("assistant", pair.completion)]
        row["messages"] = [{"role": role, "content": text} for role, text in turns]
    else:
        row |= {"prompt": pair.prompt, "completion": pair.completion}
    row |= {"group": pair.group, "kind": pair.kind, "source": source}
    return row | ({"license": license} if license else {})


def own_groups(rows: list[dict[str, Any]]) -> set[str]:
    """Gives the rows of one single file a group for each part of it, so that they can be split.

    Rows whose lines overlap stay together.

    Returns:
        The names of all groups.
    """
    group, end = rows[0]["group"], 0
    for row in sorted(rows, key=lambda row: row["source"]["lines"]):
        first, last = row["source"]["lines"]
        if first > end and row["group"] == row["source"]["path"]:
            group = f"{row['group']}:{first}"
        row["group"], end = group, max(end, last)
    return {row["group"] for row in rows}
