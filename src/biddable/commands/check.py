"""`check`: what would be learned from the data, and what is wrong with it, without any weights."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from biddable.commands.rows import with_files
from biddable.data.conversation import Conversation
from biddable.data.fix import write_fixed
from biddable.data.rows import number_of
from biddable.dataset.early import refuse_early
from biddable.dataset.prepare import prepare
from biddable.dataset.prepared import Prepared, summary
from biddable.display.preparation import chosen, mask_page, show_findings, show_masks, show_prepared
from biddable.errors import SEVERITIES, BiddableError, Finding, capped
from biddable.options import with_values
from biddable.settings import CheckPrinting, CheckSettings, ReadSettings
from biddable.storage import write_new
from biddable.terminal import console, line, write_json
from biddable.training.log import counting

# Findings that --fix mends.
MENDED = (
    "duplicate_exact", "ends_without_answer", "no_value_as_answer", "no_value_in_prompt",
    "carriage_return_in_answers",
)  # fmt: skip
# Settings that decide how files are read; a repaired file needs none of them.
READING = ("data", "map", "system", "encoding", "group_by")
# Settings that change what `check` says of a file.
CHECKING = ("base", "template", "header", "template_arg", "max_length", "too_long", "loss_on")
_DONE = {
    "duplicates_removed": ("repeated row left out", "repeated rows left out"),
    "rows_without_value_removed": ("row without a value left out", "rows without a value left out"),
    "trailing_messages_removed": (
        "message behind the last answer removed",
        "messages behind the last answer removed",
    ),
    "line_ends_changed": ("row with plain line ends now", "rows with plain line ends now"),
    "rows_with_errors_left_out": ("row with errors left out", "rows with errors left out"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """The result of `check`.

    Args:
        prepared: the data as `train` would work on it.
        settings: what it was read with.
        fixed: what `fix` did, by name; empty without it.
    """

    prepared: Prepared
    settings: CheckSettings
    fixed: dict[str, int]

    def __repr__(self) -> str:
        count = Counter[str](f.severity for f in self.prepared.findings)
        rows, counts = number_of(self.prepared.rows, "row"), self.prepared.counts
        shown = f"{rows}, {counts.tokens:,} tokens, {counts.trained_tokens:,} trainable"
        return f"<{shown}; {', '.join(number_of(count[s], s) for s in SEVERITIES)}>"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(str(f))}</li>" for f in self.prepared.findings[:20])
        return f"<p>{escape(repr(self))}</p><ul>{items}</ul>"

    @property
    def command(self) -> str:
        """The command that mends what can be mended; empty where nothing can."""
        return fix_command(self.settings, self.prepared.findings)

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return all(f.severity != "error" for f in self.prepared.findings)

    @property
    def clean(self) -> bool:
        """No finding is an error or a warning, and no row was dropped."""
        return not self.prepared.dropped and all(
            f.severity == "note" for f in self.prepared.findings
        )

    def as_json(self) -> dict[str, Any]:
        """The object that `check --json` prints."""
        findings = [*self.prepared.findings, *self.prepared.dropped]
        record = {**summary(self.prepared), "findings": [asdict(f) for f in capped(findings)]}
        return {**record, "fixed": self.fixed} if self.fixed else record


def check(data: Any = (), **options: Any) -> Checked:
    """Reads, checks, renders and encodes the data as `train` would.

    Args:
        data: files or folders with the rows, or rows in memory.
        options: fields of `biddable.settings.CheckSettings`, by name.

    Raises:
        BiddableError: the data, the base or the template cannot be used at all.
    """
    settings = with_values(CheckSettings(), with_files({"data": data, **options}))
    if not settings.data:
        raise BiddableError("option", "no data is given", "give a file: biddable check data.jsonl")
    refuse_early(settings)
    line(console(), "reading", ", ".join(settings.data))
    prepared = prepare(settings, counting(console()))
    if settings.dump:
        write_new(settings.dump, _dumped(prepared))
    fixed = _repair(prepared, settings, settings.fix) if settings.fix else {}
    if settings.html:
        write_new(settings.html, [mask_page(prepared)])
    return Checked(prepared, settings, fixed)


def _dumped(prepared: Prepared) -> Iterator[str]:
    for example in prepared.examples():
        row = {
            "file": example.file,
            "line": example.line,
            "turn": example.turn,
            "input_ids": list(example.input_ids),
            "weights": [float(w) for w in example.weights],
            "text": prepared.tokenizer.decode(list(example.input_ids)),
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _repair(prepared: Prepared, settings: ReadSettings, path: str) -> dict[str, int]:
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


def _repair_sentence(counts: dict[str, int]) -> str:
    """What was done, in words."""
    parts = [number_of(counts[name], *words) for name, words in _DONE.items() if counts[name]]
    written = number_of(counts["written"], "row written", "rows written")
    return f"{written}; {', '.join(parts) or 'nothing changed'}"


def _next_command(settings: ReadSettings, path: str) -> str:
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


def run(options: dict[str, Any], printing: CheckPrinting) -> int:
    """Checks, prints, and returns 1 where there are errors."""
    checked = check(**options)
    out, prepared, fix = console(), checked.prepared, checked.settings.fix
    show_prepared(prepared, out)
    shown = chosen(prepared, printing.show, at_line=printing.line, worst=printing.worst)
    show_masks(shown, prepared, out)
    show_findings(prepared, out, "" if fix else checked.command)
    if fix:
        line(out, "fixed", f"{fix}: {_repair_sentence(checked.fixed)}")
        line(out, "next", _next_command(checked.settings, fix))
    if printing.json:
        write_json(checked.as_json())
    return 0 if checked.clean or (checked.ok and not printing.strict) else 1
