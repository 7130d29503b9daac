"""`check`: what would be learned from the data, and what is wrong with it, without any weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biddable.commands.repair import fix_command, next_command, repair, repair_sentence
from biddable.dataset.early import refuse_early
from biddable.dataset.prepare import prepare
from biddable.dataset.prepared import Prepared, summary
from biddable.display.preparation import chosen, mask_page, show_findings, show_masks, show_prepared
from biddable.errors import BiddableError, as_record, capped
from biddable.options import with_values
from biddable.settings import CheckPrinting, CheckSettings
from biddable.terminal import console, line, write_json
from biddable.training.log import counting


@dataclass(frozen=True, slots=True)
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
        told = {**summary(self.prepared), "findings": [as_record(f) for f in capped(findings)]}
        return {**told, "fixed": self.fixed} if self.fixed else told


def check(data: str | Sequence[str] = (), **options: Any) -> Checked:
    """Reads, checks, renders and encodes the data as `train` would.

    Args:
        data: files or folders with the rows.
        options: fields of `biddable.settings.CheckSettings`, by name.

    Raises:
        BiddableError: the data, the base or the template cannot be used at all.
    """
    settings = with_values(CheckSettings(), {"data": data, **options})
    if not settings.data:
        raise BiddableError("option", "no data is given", "biddable check data.jsonl")
    refuse_early(settings)
    prepared = prepare(settings, counting(console()))
    if settings.dump:
        _write(settings.dump, _dumped(prepared))
    fixed = repair(prepared, settings, settings.fix) if settings.fix else {}
    if settings.html:
        _write(settings.html, [mask_page(prepared)])
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


def _write(path: str, lines: Iterable[str]) -> None:
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise BiddableError(
            "output_exists" if isinstance(error, FileExistsError) else "output_not_writable",
            f"{path} cannot be written: {error.strerror}",
            "give another file; nothing is overwritten",
        ) from error


def run(options: dict[str, Any], printing: CheckPrinting) -> int:
    """Checks, prints, and returns 1 where there are errors."""
    checked = check(**options)
    out, prepared, fix = console(), checked.prepared, checked.settings.fix
    show_prepared(prepared, out)
    shown = chosen(prepared, printing.show, at_line=printing.line, worst=printing.worst)
    show_masks(shown, prepared, out)
    show_findings(prepared, out, "" if fix else checked.command)
    if fix:
        line(out, "fixed", f"{fix}: {repair_sentence(checked.fixed)}")
        line(out, "next", next_command(checked.settings, fix))
    if printing.json:
        write_json(checked.as_json())
    return 0 if checked.clean or (checked.ok and not printing.strict) else 1
