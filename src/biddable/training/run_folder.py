"""The run folder: where it stands, who writes it, and its plain JSON files."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.storage import lock_file, refuse_existing_run, write_whole

EVAL_FILE = "eval.jsonl"


class RunFolder:
    """The paths of one run; docs/design.md shows the layout.

    Args:
        model: the tuned model, a Hugging Face folder.
        adapter: with --lora, instead of it.
        checkpoints: where checkpoints and the best weights stand.
        log: log.jsonl, one event a line.
        config: config.toml, the resolved settings.
        eval_rows: the held-out rows, in messages form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.adapter = path / "adapter"
        self.checkpoints = path / "checkpoints"
        self.log = path / "log.jsonl"
        self.config = path / "config.toml"
        self.eval_rows = path / EVAL_FILE

    @property
    def begun(self) -> bool:
        """Whether the run can be resumed: config.toml is written last."""
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
    names = (f"runs/{run_stem(data)}-{date.today().isoformat()}-{n}" for n in count(1))
    path = Path(out or next(name for name in names if not os.path.lexists(name)))
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        # Another run took the name meanwhile.
        return new_run_folder(out, data)
    except OSError as error:
        raise BiddableError(
            "output_not_writable",
            f"the output folder {out or 'runs'!r} cannot be created: {error.strerror}",
            "give an --out where you may write",
        ) from error
    return RunFolder(path)


def run_stem(data: tuple[str, ...]) -> str:
    """The beginning of the name of runs on this data, from its first file."""
    stem = Path(data[0]).name.split(".")[0] if data else "run"
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "run"


def open_run_folder(path: str) -> RunFolder:
    """An existing run folder.

    Raises:
        BiddableError: `no_run`.
    """
    folder = RunFolder(Path(path))
    if not folder.begun:
        what = f"'{path}' is no run folder: it has no config.toml"
        raise BiddableError("no_run", what, "give the folder that `biddable train` printed")
    return folder


def unfinished_run(out: str, data: tuple[str, ...]) -> str:
    """The run that `--resume auto` goes on with: `out`, else the newest of this data in runs/.

    Empty where there is none. A run that was killed before it wrote its config has nothing to go on
    with, but its folder is taken again.
    """
    if out:
        return out if Path(out).is_dir() else ""
    runs = [p for p in Path("runs").glob(f"{run_stem(data)}-*") if not RunFolder(p).finished]
    return str(max(runs, key=lambda p: p.stat().st_mtime, default=""))


def cut_log(path: Path, step: int) -> None:
    """Drops the events after a step, which a resumed run will log again, and a line cut short."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_whole(path, "".join(f"{text}\n" for text in lines if _step_of(text) <= step))


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
            lock_file(self._file, wait=False)
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
        folder = self._path.parent
        # Windows keeps a file that is open.
        with suppress(OSError):
            # A run that was refused before it wrote anything: its name is free again. While the
            # lock is held nobody else can have begun here.
            if [path.name for path in folder.iterdir()] == [self._path.name]:
                self._path.unlink()
                folder.rmdir()
        # Otherwise the file stays: deleting it could delete one that another process has locked.
        self._file.close()
