"""What a system lacks (Windows, macOS, odd file systems) is done without, and nothing ends in a
traceback. The modules are hidden in a process of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import biddable
from biddable import storage as aside
from biddable.errors import BiddableError
from biddable.storage import AtomicFolder, folder_lock, is_sound, write_whole
from biddable.training.run_folder import Lock, RunFolder
from folders import base_folder, rows, write_jsonl

ROOT = Path(biddable.__file__).parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
# Of POSIX alone. Other packages have their own ways on other systems, so they may load them here.
WITHOUT = """
import builtins, importlib, os, sys
MISSING = ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty")
plain_import, plain_module = builtins.__import__, importlib.import_module
def imported(name, globals=None, *more, **named):
    if name in MISSING and (globals or {}).get("__name__", "").startswith("biddable"):
        raise ModuleNotFoundError(name)
    return plain_import(name, globals, *more, **named)
def module(name, package=None):
    if name in MISSING:
        raise ModuleNotFoundError(name)
    return plain_module(name, package)
builtins.__import__, importlib.import_module = imported, module
for name in ("sched_getaffinity", "geteuid", "getuid"):
    delattr(os, name)
"""


def test_every_module_loads_and_a_run_ends_without_what_posix_alone_has(tmp_path: Path) -> None:
    names = [
        ".".join(("biddable", *path.relative_to(ROOT).with_suffix("").parts))
        for path in sorted(ROOT.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    base_folder(tmp_path / "base")
    write_jsonl(tmp_path / "data.jsonl", rows())
    args = [
        "train", "data.jsonl", "--base", "base", "--out", "out", "--steps", "2", "--answers", "1",
        "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    code = f"import {', '.join(names)}; sys.exit(biddable.cli.main({args!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}\n{code}"],
        check=False, capture_output=True, text=True, env=ENV, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scorecard.json").is_file()


class WindowsLocks:
    """msvcrt as far as it is used: one holder of a byte."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held = False
        self.places: list[int] = []

    def locking(self, descriptor: int, mode: int, size: int) -> None:
        assert (mode, size) == (self.LK_NBLCK, 1)
        self.places.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        if self.held:
            raise PermissionError(errno.EACCES, "locked")
        self.held = True


def test_windows_locks_a_byte_behind_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = WindowsLocks()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", locks)
    folder = RunFolder(tmp_path)
    folder.config.touch()
    with Lock(folder):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        with pytest.raises(BiddableError, match=f"by process {os.getpid()}"), Lock(folder):
            pass
    assert min(locks.places) > 1000
    locks.held = True
    monkeypatch.setattr("time.sleep", lambda _: setattr(locks, "held", False))
    with folder_lock(tmp_path):
        assert locks.held


@pytest.mark.parametrize("modules", [{"fcntl": None, "msvcrt": None}, {}])
def test_where_nothing_can_be_locked_the_run_goes_on(
    modules: dict[str, None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)

    def unable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if not modules:
        monkeypatch.setattr("fcntl.flock", unable)
    with Lock(RunFolder(tmp_path)), Lock(RunFolder(tmp_path)):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_flushes_no_folder_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, "no")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_whole(tmp_path / "a.json", "1")
    with AtomicFolder(tmp_path / "b") as part:
        (part / "c").write_text("d")
    assert is_sound(tmp_path / "b")


def test_a_file_that_is_not_flushed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwell(_: int) -> None:
        raise OSError(errno.EINVAL, "unwell")

    monkeypatch.setattr(os, "fsync", unwell)
    with pytest.raises(OSError, match="unwell"):
        write_whole(tmp_path / "a.json", "1")


def test_windows_opens_no_folder_and_flushes_what_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    plain = os.open

    def open_as_windows(path: Path, flags: int) -> int:
        assert not Path(path).is_dir()
        opened.append(flags)
        return plain(path, flags)

    (tmp_path / "a").write_text("b")
    monkeypatch.setattr(aside, "WINDOWS", True)
    monkeypatch.setattr(os, "open", open_as_windows)
    aside.flush(tmp_path)
    aside.flush(tmp_path / "a")
    assert opened == [os.O_RDWR]


def test_a_folder_that_stands_there_is_replaced_without_a_rename_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows renames nothing onto a name that is taken."""
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        assert not Path(target).exists()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    for text in ("one", "two"):
        with AtomicFolder(tmp_path / "a") as part:
            (part / "b").write_text(text)
    assert (tmp_path / "a" / "b").read_text() == "two"


def test_line_breaks_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.jinja", "a\n\r\nb\r")
    assert (tmp_path / "a.jinja").read_bytes() == b"a\n\r\nb\r"
