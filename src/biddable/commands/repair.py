"""`check --fix`: the repaired training rows, what was done to them, and the command that helps."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from biddable.data.conversation import Conversation
from biddable.data.fix import write_fixed
from biddable.dataset.prepared import Prepared
from biddable.errors import Finding
from biddable.settings import ReadSettings

# Findings that --fix mends.
MENDED = ("duplicate_exact", "ends_without_answer", "no_value", "cr_line_ends")
# Settings that decide how files are read; a repaired file needs none of them.
READING = ("data", "map", "system", "encoding", "group_by")
# Settings that change what `check` says of a file.
CHECKING = ("base", "template", "header", "template_arg", "max_length", "too_long", "loss_on")
_DONE = {
    "duplicates_removed": "# repeated row left out",
    "rows_without_value_removed": "# row without a value left out",
    "trailing_messages_removed": "# message behind the last answer removed",
    "line_ends_changed": "# row with plain line ends now",
    "rows_with_errors_left_out": "# row with errors left out",
}


def repair(prepared: Prepared, settings: ReadSettings, path: str) -> dict[str, int]:
    """Writes the training rows, repaired and in their order; rows of --eval are not among them.

    Returns:
        Counts by name.
    """
    rows: Iterable[Conversation] = prepared.train.conversations
    if not settings.eval:
        # The rows that the split holds out are rows of the data as well.
        files = {name: number for number, name in enumerate(prepared.hashes)}
        rows = sorted(prepared.conversations(), key=lambda c: (files.get(c.file, 0), c.line))
    written = write_fixed(rows, path)
    broken = {(f.file, f.line) for f in prepared.findings if f.severity == "error" and f.line}
    known = {(c.file, c.line) for c in prepared.conversations()}
    more = sum(f.count for f in prepared.findings if f.severity == "error" and f.count > 1)
    return {**written, "rows_with_errors_left_out": len(broken - known) + more}


def repair_sentence(counts: dict[str, int]) -> str:
    """What was done, in words."""
    parts = [_number(counts[name], text) for name, text in _DONE.items() if counts[name]]
    return f"{_number(counts['written'], '# row written')}; {', '.join(parts) or 'nothing changed'}"


def _number(count: int, text: str) -> str:
    """A text with a number for `#`, and its `row` or `message` in the plural where it has to be."""
    if count != 1:
        text = text.replace(" row", " rows").replace(" message", " messages")
    return text.replace("#", f"{count:,}")


def next_command(settings: ReadSettings, path: str) -> str:
    """The command that checks the repaired file."""
    reads_as_before = not any((settings.map, settings.system, settings.encoding))
    names = (*CHECKING, "eval") if reads_as_before else CHECKING
    return shlex.join(["biddable", "check", path, *_options(settings, names)])


def fix_command(settings: ReadSettings, findings: Sequence[Finding]) -> str:
    """The command that mends what can be mended of the findings; empty where nothing can."""
    sources = [name for name in settings.data if name != "-" and not name.startswith("hf:")]
    if not sources or not any(finding.code in MENDED for finding in findings):
        return ""
    names = (*READING[1:], *CHECKING, "eval")
    fixed = _free_name(Path(sources[0]))
    command = ["biddable", "check", *settings.data, *_options(settings, names), "--fix", fixed]
    return shlex.join(command)


def _free_name(source: Path) -> str:
    stem = source.name.removesuffix(".gz").partition(".")[0] or "data"
    number, path = 1, source.with_name(f"{stem}-fixed.jsonl")
    while path.exists():
        number += 1
        path = source.with_name(f"{stem}-fixed-{number}.jsonl")
    return str(path)


def _options(settings: ReadSettings, names: Iterable[str]) -> list[str]:
    """The settings of these names that are not the default, as on the command line."""
    defaults = {f.name: f.default for f in fields(ReadSettings)}
    words: list[str] = []
    for name in names:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if value != defaults[name]:
                words += [f"--{name.replace('_', '-')}", str(one)]
    return words
