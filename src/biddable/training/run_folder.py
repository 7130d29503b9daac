"""The run folder: where it stands, who writes it, and its plain JSON files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from biddable.data.findings import BiddableError


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

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        aside = self.path / f".{name}.{os.getpid()}"
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(self.path / name)

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the folder."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def new_run_folder(out: str, data: tuple[str, ...]) -> RunFolder:
    """Creates the folder `out`, or runs/NAME-DATE-N with the next free N.

    Raises:
        BiddableError: `out_exists`, or `out_not_writable`.
    """
    try:
        if out:
            Path(out).mkdir(parents=True)
            return RunFolder(Path(out))
        stem = Path(data[0]).name.split(".")[0] if data else "run"
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "run"
        Path("runs").mkdir(exist_ok=True)
        return RunFolder(_next_free(Path("runs"), f"{name}-{date.today().isoformat()}"))
    except FileExistsError as error:
        raise BiddableError(
            f"the output folder {out} exists already",
            code="out_exists",
            fix="give another --out, or go on with --resume",
        ) from error
    except OSError as error:
        raise BiddableError(
            f"the output folder {out or 'runs'} cannot be made: {error.strerror}",
            code="out_not_writable",
            fix="give an --out where you may write",
        ) from error


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
            f"{path} is no run folder: it has no config.toml",
            code="no_run",
            fix="give the folder that `biddable train` printed",
        )
    return folder


def cut_log(path: Path, step: int) -> None:
    """Drops the events after a step, which a resumed run will log again."""
    kept = [
        text
        for text in path.read_text(encoding="utf-8").splitlines()
        if text.endswith("}") and json.loads(text).get("step", 0) <= step
    ]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    aside.replace(path)


class Lock:
    """One run folder, one writer: holds a file with this process's id while entered.

    The kernel drops the lock with the process, so that a killed run leaves nothing to clean up.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / ".lock"
        self._file: Any = None

    def __enter__(self) -> Lock:
        import fcntl

        self._file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise BiddableError(
                f"the run folder {self._path.parent} is being written by process {holder}",
                code="run_locked",
                fix="wait for it, or stop it with Ctrl-C",
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
