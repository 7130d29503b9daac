"""The run folder: where it stands, who writes it, and its plain JSON files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.storage import hold_alone, refuse_existing_run, write_whole

EVAL_FILE = "eval.jsonl"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run; docs/design.md shows the layout."""

    path: Path

    @property
    def model(self) -> Path:
        """The tuned model, a Hugging Face folder."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints and the best weights stand."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """log.jsonl, one event a line."""
        return self.path / "log.jsonl"

    @property
    def config(self) -> Path:
        """config.toml, the resolved settings."""
        return self.path / "config.toml"

    @property
    def eval_rows(self) -> Path:
        """The held-out rows, in messages form."""
        return self.path / EVAL_FILE

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with; config.toml is the last that is written."""
        return self.config.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has ended with its verdict."""
        return (self.path / "report.html").is_file()

    def refuse_finished(self) -> None:
        """Raises an error where there is nothing left to do.

        Raises:
            BiddableError: `run_finished`.
        """
        if self.finished:
            raise BiddableError(
                "run_finished",
                f"the run {self.path} is finished",
                f"`biddable chat {self.path}` talks to it; for a new run give another --out",
            )

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        write_whole(self.path / name, json.dumps(value, indent=1, ensure_ascii=False))

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the folder."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def new_run_folder(out: str, data: tuple[str, ...]) -> RunFolder:
    """Creates the folder `out`, or runs/NAME-DATE-N with the next free N.

    Raises:
        BiddableError: `output_exists`, or `output_not_writable`.
    """
    refuse_existing_run(out)
    try:
        if out:
            Path(out).mkdir(parents=True)
            return RunFolder(Path(out))
        Path("runs").mkdir(exist_ok=True)
        return RunFolder(_next_free(Path("runs"), f"{_stem(data)}-{date.today().isoformat()}"))
    except OSError as error:
        raise BiddableError(
            "output_not_writable",
            f"the output folder {out or 'runs'!r} cannot be made: {error.strerror}",
            "give an --out where you may write",
        ) from error


def _stem(data: tuple[str, ...]) -> str:
    stem = Path(data[0]).name.split(".")[0] if data else "run"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "run"


def _next_free(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def open_run_folder(path: str) -> RunFolder:
    """An existing run folder.

    Raises:
        BiddableError: it is none.
    """
    folder = RunFolder(Path(path))
    if not folder.config.is_file():
        raise BiddableError(
            "no_run",
            f"'{path}' is no run folder: it has no config.toml",
            "give the folder that `biddable train` printed",
        )
    return folder


def unfinished_run(out: str, data: tuple[str, ...]) -> str:
    """The run that `--resume auto` goes on with: `out`, else the newest of this data in runs/.

    Empty where there is none. A run that was killed before it wrote its config has nothing to go on
    with, but its folder is taken again.
    """
    if out:
        return out if Path(out).is_dir() else ""
    found = [p for p in Path("runs").glob(f"{_stem(data)}-*") if not RunFolder(p).finished]
    return str(max(found, key=lambda p: p.stat().st_mtime, default=""))


def cut_log(path: Path, step: int) -> None:
    """Drops the events after a step, which a resumed run will log again, and a line cut short."""
    if not path.exists():
        return
    kept = [
        text
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if _step_of(text) <= step
    ]
    write_whole(path, "".join(f"{text}\n" for text in kept))


def _step_of(text: str) -> float:
    """The step of a line of the log; infinite where the line is damaged."""
    try:
        return float(json.loads(text).get("step", 0))
    except (ValueError, AttributeError):
        return float("inf")


class Lock:
    """One run folder, one writer: holds a file with this process's id while entered.

    The kernel drops the lock with the process, so that a killed run leaves nothing to clean up.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / ".lock"
        self._file: Any = None

    def __enter__(self) -> Lock:
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            hold_alone(self._file, wait=False)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise BiddableError(
                "run_locked",
                f"the run folder {self._path.parent} is being written by process {holder}",
                "wait for it, or stop it with Ctrl-C",
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        # The file stays: who deletes it may delete the one that another has just locked.
        self._file.close()
