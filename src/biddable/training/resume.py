"""Where a run begins or goes on: settings, folder, and the record of its inputs.

The record is written when it begins, so that nothing can change under it unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from biddable.dataset.early import refuse_early
from biddable.dataset.prepared import Prepared
from biddable.errors import BiddableError
from biddable.models.adapter_files import weight_sums
from biddable.options import read_config, refuse_two_lengths, with_values
from biddable.settings import PACKAGED, Settings
from biddable.storage import sha256
from biddable.template.frames import FRAMES
from biddable.terminal import line
from biddable.training.checkpoint import Progress, has_checkpoint, load_checkpoint
from biddable.training.loop import TrainerParts
from biddable.training.ranks import Ranks, broadcast_from_first
from biddable.training.run_folder import (
    RunFolder,
    cut_log,
    new_run_folder,
    open_run_folder,
    unfinished_run,
)

AUTO = "auto"
# Settings that may change when a run is resumed: they do not change what is learned. Data and base
# are compared by their sums.
_FREE = {"data", "base", "out", "keep", "save_every", "report_to", "shard"}
# The inputs that a user may have changed; the rest of the record follows from them.
_CAUSES = ("sources", "base", "tokenizer", "template", "settings")


def start(
    data: str | Sequence[str], resume: str, options: dict[str, Any], ranks: Ranks
) -> tuple[Settings, RunFolder | None]:
    """The settings, and the run to go on with; None for a new one."""
    if resume and resume != AUTO:
        if data or options:
            raise BiddableError(
                "option",
                "--resume RUN goes on with the settings of the run and takes no others",
                "leave the other options out, or say --resume auto, or start a new run",
            )
        folder = open_run_folder(resume)
        folder.refuse_finished()
        return _settings_of(folder), folder
    refuse_two_lengths(options)
    settings = new_settings({"data": data, **options} if data else options)
    if not settings.data:
        raise BiddableError("option", "no data is given", "give a file: biddable train data.jsonl")
    if resume != AUTO:
        refuse_early(settings)
        return settings, None
    path = broadcast_from_first(ranks, lambda: unfinished_run(settings.out, settings.data))
    if not path:
        return settings, None
    folder = RunFolder(Path(path))
    folder.refuse_finished()
    return as_begun(settings, folder) if folder.begun else settings, folder


def new_settings(options: Mapping[str, Any]) -> Settings:
    """The settings of a new run.

    Raises:
        BiddableError: `option`.
    """
    return with_values(Settings(), options)


def as_begun(settings: Settings, folder: RunFolder) -> Settings:
    """The settings with what the run chose itself when it began, and its folder.

    The compute dtype follows from the device and the tokens per pass from free memory, neither of
    which need come out the same twice; the learning rate from the base, and another version might
    choose another.
    """
    before = _settings_of(folder)
    left_open = {"precision": "auto", "device": "auto", "batch_tokens": 0, "lr": 0.0}
    chosen = {k: getattr(before, k) for k, v in left_open.items() if getattr(settings, k) == v}
    return replace(settings, out=before.out, **chosen)


def new_folder(settings: Settings, ranks: Ranks, stem: str = "") -> RunFolder:
    """The folder of a new run, the same on all ranks, named after `stem` or else the data."""
    new = partial(new_run_folder, settings.out, (stem,) if stem else settings.data)
    return RunFolder(Path(broadcast_from_first(ranks, lambda: str(new().path))))


def day_of(folder: RunFolder | None, ranks: Ranks) -> date:
    """The day on which the run began: templates that print a date go on printing that one."""

    def day() -> str:
        if folder is not None and folder.begun:
            return str(folder.read_json("data.json")["today"])
        return date.today().isoformat()

    return date.fromisoformat(broadcast_from_first(ranks, day))


def data_record(prepared: Prepared, settings: Settings, today: date) -> dict[str, Any]:
    """data.json: sums of all inputs, and counts of the result."""
    folder = prepared.base.folder
    return {
        "sources": {absolute(name): value for name, value in prepared.hashes.items()},
        "format": prepared.format,
        "rows": prepared.rows,
        "base": weight_sums(folder),
        "tokenizer": {p.name: sha256(p) for p in sorted(folder.glob("tokenizer*.json"))},
        "template": prepared.template.text,
        "today": today.isoformat(),
        "settings": settings_record(settings),
        "seed": settings.seed,
        "train": len(prepared.train.examples),
        "held_out": [[absolute(c.file), c.line] for c in prepared.held_out.conversations],
        "leaked": prepared.leaked,
        "dropped": [str(replace(f, file=absolute(f.file))) for f in prepared.dropped],
        "encoded examples": prepared.counts.sha256,
    }


def absolute(name: str) -> str:
    """The whole path of what stands in the current folder; other names as they are."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def with_absolute_paths(settings: Settings) -> Settings:
    """The settings with whole paths, so that they mean the same in every folder."""
    file, colon, function = settings.metric.rpartition(":")
    system = settings.system
    return replace(
        settings,
        data=tuple(map(absolute, settings.data)),
        eval=absolute(settings.eval),
        base=settings.base if settings.base == PACKAGED else absolute(settings.base),
        template=settings.template if settings.template in FRAMES else absolute(settings.template),
        system=f"@{absolute(system[1:])}" if system.startswith("@") else system,
        metric=f"{absolute(file)}{colon}{function}",
    )


def settings_record(settings: Settings) -> dict[str, Any]:
    """The settings that change what is learned."""
    values = asdict(with_absolute_paths(settings)).items()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values if k not in _FREE}


def _settings_of(folder: RunFolder) -> Settings:
    """The settings of a run that has begun, with the learning rate that it chose."""
    settings = with_values(Settings(), read_config(str(folder.config)))
    return replace(settings, lr=settings.lr or begun_with(folder)["settings"]["lr"])


def begun_with(folder: RunFolder) -> dict[str, Any]:
    """The record of a run's inputs; options newer than the run get their defaults."""
    record: dict[str, Any] = folder.read_json("data.json")
    settings = record.get("settings")
    if not isinstance(settings, dict):
        return record
    return {**record, "settings": {**settings_record(Settings()), **settings}}


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuses to go on with a run whose inputs changed.

    Raises:
        BiddableError: `run_changed`, with everything that changed.
    """
    changed = [what for name in _CAUSES if name in before for what in _changes(name, before, now)]
    # The proof is made again, and rounds differently on another machine.
    others = [name for name in before if name != "path"]
    changed = changed or [name for name in others if before[name] != now.get(name)]
    if changed:
        what = f"the run {folder.path} cannot go on, for these changed since it began"
        fix = "put them back as they were, or start a new run"
        raise BiddableError("run_changed", f"{what}: {'; '.join(changed)}", fix)


def _changes(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = before[name], now[name]
    if not isinstance(old, dict):
        if old != new:
            yield name
        return
    for key in sorted(k for k in {*old, *new} if old.get(k) != new.get(k)):
        if name == "settings":
            option = "--" + key.replace("_", "-")
            yield f"{option} (was {old.get(key)!r}, is {new.get(key)!r})"
        else:
            gone = ", which is gone" if key not in new else ""
            yield f"{'data file' if name == 'sources' else name} {key}{gone}"


def resume_progress(folder: RunFolder, parts: TrainerParts, out: Console) -> Progress:
    """The progress of the newest sound checkpoint, or of none; the log is cut back to it."""
    progress = Progress()
    if has_checkpoint(parts.folder):
        progress, damaged = load_checkpoint(parts.folder, parts.weights, parts.optimizer)
        for name in damaged:
            line(out, "damaged", f"checkpoint {name} is passed over")
    if parts.weights.ranks.first:
        cut_log(folder.log, progress.step or -1)
    line(out, "resume", f"from step {progress.step}")
    return progress
