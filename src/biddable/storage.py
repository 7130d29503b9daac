"""Files and folders that appear whole or not at all, even if the process or machine dies.

All go the same way: written aside, flushed to disk, renamed into place, and the folder that holds
the new name flushed too. A rename that is not preceded by these flushes may reach the disk before
the content does, and a power cut then leaves an empty file under the right name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError

from biddable.errors import BiddableError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
WINDOWS = os.name == "nt"
# Errors of systems that cannot flush a folder or lock a file.
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.ENOLCK)
# Windows makes locked bytes unreadable, so one far behind the content is locked.
_LOCKED_BYTE = 2**30
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicFolder:
    """A folder that is written beside its place and appears there whole or not at all.

    On leaving without an error the SHA-256 of every file is listed in a manifest, all is flushed to
    disk, and the folder renamed into place; with an error it is removed. A folder that is already
    there is removed just before the rename, so no reader may depend on it: names that are never
    used twice (with a step in them) keep this safe.

    Args:
        target: the folder to make.
        manifest: whether to write the sums, by which `is_sound` checks it.

    Raises:
        BiddableError: `no_space`, on leaving, where the disk or a quota is full.
    """

    def __init__(self, target: Path, *, manifest: bool = True) -> None:
        self._target, self._manifest = target, manifest
        self._aside = target.with_name(f".{target.name}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        return self._aside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        try:
            if error is None:
                self._finish()
        except OSError as late:
            error = late
        if error is not None:
            shutil.rmtree(self._aside, ignore_errors=True)
            if is_full(error):
                raise no_space(self._target) from error
            if kind is None:
                raise error

    def _finish(self) -> None:
        if self._manifest:
            sums = {p.name: sha256(p) for p in sorted(self._aside.iterdir())}
            write_text(self._aside / MANIFEST, json.dumps(sums, indent=1))
        for path in (*sorted(self._aside.rglob("*")), self._aside):
            flush(path)
        remove(self._target)
        self._aside.rename(self._target)
        flush(self._target.parent)


def write_whole(path: Path, text: str) -> None:
    """Writes or replaces a text file, in UTF-8, at once."""
    aside = path.with_name(f".{path.name}.part")
    write_text(aside, text)
    flush(aside)
    aside.replace(path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 where a partial file does no harm."""
    # Line breaks as they are: a chat template with others would be another template.
    path.write_text(text, encoding="utf-8", newline="")


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors where a partial file does no harm."""
    from safetensors.torch import save_file

    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # The library makes a file that only its owner may read; this one follows the umask.
    path.touch()
    mode = path.stat().st_mode
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(mode)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    folder = path.is_dir()
    if WINDOWS and folder:
        return  # Windows cannot open a folder.
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def lock_file(file: IO[Any], *, wait: bool) -> None:
    """Locks an open file for this process, until it is closed or the process ends.

    Where the system or the file system has no locks, nothing is held.

    Raises:
        OSError: another process holds it, and `wait` is false.
    """
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:
        _lock_on_windows(file, wait)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def _lock_on_windows(file: IO[Any], wait: bool) -> None:
    try:
        msvcrt: Any = import_module("msvcrt")
    except ImportError:
        return
    os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return
        except OSError:
            if not wait:
                raise
            time.sleep(0.1)


def remove(folder: Path) -> None:
    """Deletes a folder, or the file or link that stands in its place."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def keep_newest(folder: Path, most: int) -> None:
    """Deletes all but the last used of a cache's folders, and what was not written to its end.

    Whoever calls it holds the folder's lock.
    """
    kept = [path for path in folder.glob("[!.]*") if path.is_dir()]
    for old in sorted(kept, key=lambda p: -p.stat().st_mtime)[most:]:
        remove(old)
    for part in folder.glob(".*.part"):
        remove(part)


def is_sound(folder: Path) -> bool:
    """Whether every file that `AtomicFolder` listed is there, unchanged."""
    try:
        sums: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(sums) and all(sha256(folder / name) == want for name, want in sums.items())
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Waits until no other process holds the folder; the kernel drops a dead process's lock."""
    with (folder / ".lock").open("a") as file:
        lock_file(file, wait=True)
        yield


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_existing(path: str) -> None:
    """Raises an error where a file would have to be overwritten, or its folder is not there."""
    folder = Path(path).parent
    if os.path.lexists(path):
        fix = "Name a new file; nothing is ever overwritten."
        raise BiddableError("output_exists", "The file exists already.", fix, file=path)
    if not folder.is_dir():
        what = "The file cannot be written: its folder is not there."
        fix = f"Make it: mkdir -p {shlex.quote(str(folder))}"
        raise BiddableError("output_not_writable", what, fix, file=path)


def write_new(path: str, lines: Iterable[str]) -> None:
    """Writes a file that a user named, whole or not at all; nothing is overwritten."""
    refuse_existing(path)
    target = Path(path)
    aside = target.with_name(f".{target.name}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        flush(aside)
        aside.rename(target)
    except OSError as error:
        what = f"The file cannot be written: {error.strerror}."
        fix = "Check that you may write there, and that there is room."
        raise BiddableError("output_not_writable", what, fix, file=path) from error
    finally:
        aside.unlink(missing_ok=True)


def refuse_existing_run(out: str, *, resumes: bool = True) -> None:
    """Raises `output_exists` or `output_not_writable`; what `resumes` may go on."""
    if out and os.path.lexists(out):
        fix = "give another --out" + (", or go on with --resume" if resumes else "")
        raise BiddableError("output_exists", f"the output folder {out!r} exists already", fix)
    parent = _existing(Path(out))
    if out and not (parent.is_dir() and os.access(parent, os.W_OK)):
        what = f"the output folder {out!r} cannot be made: {parent} is no folder that you may write"
        raise BiddableError("output_not_writable", what, "give an --out where you may write")


def need_space(folder: Path, needed: int) -> None:
    """Raises `no_space` unless the disk of a folder has room.

    Args:
        folder: it, or the nearest of its parents that is there, is looked at.
        needed: bytes.
    """
    if shutil.disk_usage(_existing(folder)).free < needed:
        raise no_space(folder, needed)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, a quota or a limit on file sizes is reached."""
    if isinstance(error, SafetensorError):
        # The library keeps the system's error only as text.
        return any(f"os error {number}" in str(error) for number in _FULL)
    return isinstance(error, OSError) and error.errno in _FULL


def no_space(folder: Path, needed: int | None = None) -> BiddableError:
    """The error for a full disk; `needed` in bytes, where it is known."""
    free = shutil.disk_usage(_existing(folder)).free
    wanted = "" if needed is None else f"{needed:,} bytes are needed, "
    return BiddableError(
        "no_space",
        f"no room to write {folder}: {wanted}{free:,} bytes are free",
        "make room or lower --keep; a run goes on from its last checkpoint with --resume",
    )


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())
