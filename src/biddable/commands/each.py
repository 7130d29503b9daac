"""`train --each`: an adapter for each file of the data, all on one base in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from os import fspath
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from biddable.commands.run_parts import Shared
from biddable.dataset.early import refuse_early
from biddable.dataset.prepare import prepare
from biddable.errors import BiddableError
from biddable.judging.verdict import INTERRUPTED
from biddable.settings import Settings
from biddable.storage import refuse_existing_run
from biddable.terminal import console, line
from biddable.training.ranks import Ranks, first_before_others, joined_ranks
from biddable.training.resume import (
    AUTO,
    as_begun,
    begun_with,
    data_record,
    day_of,
    new_folder,
    new_settings,
    refuse_changes,
)
from biddable.training.run_folder import RunFolder, run_stem

# Trains one run with these options and what earlier runs left; returns the exit code.
TrainOnce = Callable[[dict[str, Any], str, Ranks, Shared], int]


@dataclass(frozen=True, slots=True)
class Adapters:
    """The result of `train_each`.

    Args:
        runs: the run folders, in the order of the files.
        exit_code: 0, or 130 or 143 when a signal stopped it after saving.
        rank: of this process; only the first, 0, judges.
    """

    runs: Sequence[Path]
    exit_code: int
    rank: int = 0

    def cards(self) -> dict[str, dict[str, Any]]:
        """scorecard.json of each run that has ended, by the name of its folder."""
        files = {run.name: run / "scorecard.json" for run in self.runs}
        return {
            name: json.loads(file.read_text(encoding="utf-8"))
            for name, file in files.items()
            if file.is_file()
        }

    def as_json(self) -> dict[str, Any]:
        """The object that `train --each --json` prints."""
        cards, unjudged = self.cards(), {"verdict": asdict(INTERRUPTED)}
        runs = [{"run": str(run), **cards.get(run.name, unjudged)} for run in self.runs]
        return {"adapters": runs}


def train_files(
    data: Sequence[Any], resume: str, options: dict[str, Any], once: TrainOnce
) -> Adapters:
    """Trains an adapter on each file into OUT/STEM, after all files were read and found good.

    Raises:
        BiddableError: an option, a file or the base cannot be used; files have equal stems.
    """
    settings = new_settings({**options, "data": data})
    stems = _stems(settings, resume)
    with joined_ranks() as ranks:
        out = console()
        out.quiet = not ranks.first
        if resume != AUTO:
            refuse_early(settings)
        for name, stem in zip(settings.data, stems, strict=True):
            folder = RunFolder(Path(settings.out) / stem) if settings.out else None
            _refuse_faults(replace(settings, data=(name,)), folder, ranks)
        root = Path(settings.out) if settings.out else new_folder(settings, ranks, "each").path
        shared, exit_code = Shared(), 0
        runs = [root / stem for stem in stems]
        for run in runs:
            if not run.is_dir():
                refuse_existing_run(str(run))
        for number, (name, run) in enumerate(zip(settings.data, runs, strict=True), 1):
            if RunFolder(run).finished:
                line(out, "finished", f"{run} stands already")
                continue
            line(out, "adapter", f"{number} of {len(runs)}: {name}")
            exit_code = once({**options, "data": (name,), "out": str(run)}, resume, ranks, shared)
            if exit_code:
                break
        adapters = Adapters(runs, exit_code, ranks.index)
        if ranks.first:
            _show_verdicts(adapters, out)
    return adapters


def _stems(settings: Settings, resume: str) -> list[str]:
    """The name of each file's run."""
    if resume not in ("", AUTO) or (resume and not settings.out):
        what = "--each goes on with what --out names, by --resume auto"
        raise BiddableError("option", what, "give --out DIR --resume auto, or --resume RUN alone")
    if not settings.lora:
        what = "--each trains an adapter for each file, and no --lora is given"
        raise BiddableError("option", what, "give --lora 16, or leave --each out")
    if not settings.data or "-" in settings.data:
        what = "--each needs files, whose names become those of the adapters"
        raise BiddableError("option", what, "biddable train a.jsonl b.jsonl --each --lora 16")
    names: dict[str, str] = {}
    stems: list[str] = []
    for name in settings.data:
        stem = run_stem((fspath(Path(name)),))
        # Some file systems ignore letter case.
        if stem.casefold() in names:
            what = f"{names[stem.casefold()]} and {name} would both be written to the folder {stem}"
            raise BiddableError("option", what, "rename one of them, or give it once")
        names[stem.casefold()] = name
        stems.append(stem)
    return stems


def _refuse_faults(settings: Settings, folder: RunFolder | None, ranks: Ranks) -> None:
    """Raises the first error in a file, so that none shows when others have been trained.

    A finished run counts only while its files and settings are unchanged.
    """
    today = day_of(folder, ranks)
    prepared = first_before_others(ranks, lambda: prepare(settings, None, today))
    prepared.refuse_errors()
    if folder and folder.finished:
        record = data_record(prepared, as_begun(settings, folder), today)
        refuse_changes(begun_with(folder), record, folder)


def _show_verdicts(adapters: Adapters, out: Console) -> None:
    """One line an adapter: held-out loss of base and tuned, and the verdict."""
    cards = adapters.cards()
    table = Table("adapter", "eval rows", "base", "tuned", "verdict", box=None, pad_edge=False)
    for run in adapters.runs:
        card = cards.get(run.name)
        if card is None:
            table.add_row(run.name, "", "", "", INTERRUPTED.sentence)
            continue
        loss = card["held_out_loss"]
        figures = (str(loss["n"]), f"{loss['base']:.2f}", f"{loss['tuned']:.2f}")
        table.add_row(run.name, *figures, card["verdict"]["sentence"])
    out.print()
    out.print(table)
    if adapters.runs and not adapters.exit_code:
        line(out, "next", f"biddable chat {adapters.runs[0]}")
