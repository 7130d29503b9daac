"""`mine`: rows out of documents, code, commits, mail and tickets, each with its source."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from biddable import __version__
from biddable.data.files import text_or_file
from biddable.data.rows import number_of
from biddable.display.preparation import show_kinds
from biddable.errors import BiddableError, by_kind, did_you_mean
from biddable.mining.collect import Collector, Record, own_groups
from biddable.options import with_values
from biddable.settings import MINED, MineSettings, Printing
from biddable.storage import refuse_existing, write_whole
from biddable.terminal import console, line, write_json
from biddable.training.log import seldom

RECORD = "mined.json"


@dataclass(frozen=True, slots=True, repr=False)
class MinedRows:
    """The result of `mine`.

    Args:
        out: the file of the rows.
        record: what was mined and what was left out.
        record_file: the file that holds it.
    """

    out: Path
    record: Record
    record_file: Path

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.record.kinds.most_common())
        return f"<{self.out}, {number_of(self.record.kinds.total(), 'row')}: {kinds}>"


def mine(paths: Any = (), **options: Any) -> MinedRows:
    """Writes the rows that documents, code, commits, mail and tickets hold, and mined.json.

    Args:
        paths: files and folders.
        options: fields of `biddable.settings.MineSettings`, by name.

    Raises:
        BiddableError: an option or a path cannot be used, or nothing could be mined.
    """
    settings = _checked(with_values(MineSettings(), {"paths": paths, **options}))
    out = Path(settings.out)
    part = out.with_name(f".{out.name}.part")
    collector = Collector(settings)
    try:
        with (
            _progress(console()) as progress,
            part.open("w", encoding="utf-8", errors="replace") as file,
        ):
            for row in collector.rows(progress):
                file.write(_line(row))
        record_file = _finish(part, out, collector.record)
    except OSError as error:
        fix = "check that the folder is there and that you may write in it"
        what = f"{out} cannot be written: {error.strerror}"
        raise BiddableError("output_not_writable", what, fix) from error
    finally:
        part.unlink(missing_ok=True)
    return MinedRows(out, collector.record, record_file)


def _checked(settings: MineSettings) -> MineSettings:
    """The settings with the kinds one by one and the text of the system prompt."""
    if not settings.paths:
        fix = "biddable mine docs --out rows.jsonl"
        raise BiddableError("option", "no file or folder is given", fix)
    if "-" in settings.paths:
        fix = "write it to a file first"
        raise BiddableError("option", "mine does not read standard input", fix)
    kinds = tuple(name for text in settings.kind for name in text.split(","))
    for name in kinds:
        if name not in MINED:
            hint = did_you_mean(name, MINED)
            what = f"--kind {name!r} is no kind of row{hint}"
            raise BiddableError("option", what, f"the kinds are {', '.join(MINED)}")
    refuse_existing(settings.out)
    return replace(settings, kind=kinds, system=text_or_file(settings.system) or "")


def _record_path(out: Path) -> Path:
    """mined.json beside the rows, or `NAME.mined.json` where that belongs to other rows."""
    path = out.with_name(RECORD)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["out"]
    except FileNotFoundError:
        return path
    except (OSError, ValueError, KeyError, TypeError):
        rows = "."
    taken = path.with_name(str(rows)).exists()
    return out.with_name(f"{out.stem}.{RECORD}") if taken else path


def _finish(part: Path, out: Path, record: Record) -> Path:
    """Gives rows of one single file groups of their own, puts the rows in their place, and writes
    the record, whose path is returned.
    """
    if not record.kinds:
        _show_findings(record, console())
        what = f"nothing could be mined from {number_of(record.files, 'file')}"
        fix = "docs/guide/mining.md says what is read; the findings above say what was left out"
        raise BiddableError("nothing_mined", what, fix)
    if len(record.groups) == 1:
        with part.open(encoding="utf-8") as file:
            rows = list(map(json.loads, file))
        record.groups = own_groups(rows)
        part.write_text("".join(map(_line, rows)), encoding="utf-8")
    path = _record_path(out)
    part.rename(out)
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"biddable": __version__, "out": out.name, "sha256": digest}
    text = json.dumps(about | record.as_json(), ensure_ascii=False, indent=1)
    write_whole(path, text.encode("utf-8", "replace").decode() + "\n")
    return path


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@contextmanager
def _progress(out: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar of the files read on a terminal, else a line every two seconds."""
    if not out.is_terminal:
        show = seldom(out, "mining")
        yield lambda done, every: show(f"{done:,} of {every:,} files")
        return
    columns = (TextColumn("[bold]mining"), BarColumn(bar_width=24), TaskProgressColumn())
    files = TextColumn("{task.completed:,.0f} of {task.total:,.0f} files")
    with Progress(
        *columns, files, console=out, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task("", total=1)
        yield lambda done, every: bar.update(task, completed=done, total=max(every, 1))


def _show_findings(record: Record, out: Console) -> None:
    # A finding that counts others has no line of its own.
    findings = (replace(f, line=0) if f.count > 1 else f for f in record.findings())
    show_kinds(by_kind(findings), out)


def run(options: dict[str, Any], printing: Printing) -> int:
    """Mines, and says what came out and what was left out."""
    result = mine(**options)
    out, record = console(), result.record
    for name, count in record.kinds.most_common():
        line(out, name, number_of(count, "row"))
    licenses = ", ".join(f"{name} {count:,}" for name, count in record.licenses.most_common(6))
    line(out, "licenses", licenses)
    _show_findings(record, out)
    total, groups = record.kinds.total(), len(record.groups)
    line(out, "rows", f"{total:,} in {number_of(groups, 'group')}: {result.out}")
    line(out, "record", str(result.record_file))
    line(out, "next", shlex.join(["biddable", "check", str(result.out)]))
    if printing.json:
        write_json({"out": str(result.out), **record.as_json()})
    return 0
