"""The files below what was given, without ignored ones, links and what is no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from biddable.errors import Finding
from biddable.mining.repository import Repository, listed, repository

# Where there is no git to say what is ignored.
LEFT_OUT = frozenset(("node_modules", "__pycache__", "venv", "site-packages"))
MAILDIR = ("cur", "new")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a repository whose commits are to be read.

    Args:
        path: of the file, or the folder of the repository.
        shown: as it was given, relative to the current folder where it is below it.
        root: the folder up to which license files are looked for.
        inside: the path in its repository.
    """

    path: Path
    shown: str
    root: Path
    repo: Repository | None = None
    inside: str = ""


def sources(given: Sequence[str], most: int) -> Iterator[Source | Finding]:
    """What is to be read, in the order of the names; each file once.

    Args:
        most: files at most.
    """
    seen: set[Path] = set()
    for name in given:
        shown = _shown(name)
        path = Path(name)
        if path.is_dir():
            entries = _below(path, shown, path.absolute())
        else:
            repo = repository(path.resolve().parent)
            root = path.absolute().parent
            entries = iter([Source(path, shown, _root(repo, root), repo, path.resolve().name)])
        for entry in entries:
            if isinstance(entry, Finding):
                yield entry
            elif (real := entry.path.resolve()) not in seen:
                seen.add(real)
                if len(seen) > most:
                    what = f"Only the first {most:,} files are read."
                    yield Finding("too_many_files", "warning", what, "Give folders below it.", name)
                    return
                yield entry


def _shown(name: str) -> str:
    """A path as it was given, relative to the current folder where it is below it."""
    path = Path(os.path.normpath(name))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and here in path.parents else str(path)


def _root(repo: Repository | None, folder: Path) -> Path:
    depth = len(Path(repo.prefix).parts) if repo else 0
    return folder.parents[depth - 1] if depth else folder


def _below(folder: Path, shown: str, root: Path) -> Iterator[Source | Finding]:
    repo = repository(folder)
    if repo is not None:
        root = _root(repo, folder.absolute())
        if repo.top and repo.commit:
            yield Source(folder, shown, root, repo)
    try:
        names = listed(folder, repo is not None)
    except OSError:
        # A bare repository has commits and no files.
        names = [] if repo else _walked(folder)
        what, fix = "git does not list the folder; .gitignore files are not read.", "Install git."
        if names:
            yield Finding("no_git", "note", what, fix, shown)
    yield from _entries(folder, shown, root, repo, names)


def _entries(
    folder: Path, shown: str, root: Path, repo: Repository | None, names: Sequence[str]
) -> Iterator[Source | Finding]:
    for name in names:
        path = folder / name
        label = os.path.normpath(os.path.join(shown, name))  # noqa: PTH118
        if repo is None and _is_left_out(path.relative_to(folder)):
            yield Finding(
                "hidden_file", "note", "Hidden and installed files are not read.", "", label
            )
        elif not label.isprintable():
            yield Finding("not_text", "note", "The name of the file is no text.", "", repr(label))
        elif (kind := _kind(path)) == "folder":
            yield from _below(path, label, root)
        elif kind == "file":
            yield Source(path, label, root, repo, name)
        elif kind:
            what = "It is no file but a link or a device." if kind == "other" else kind
            yield Finding("no_file", "note", what, "", label)


def _kind(path: Path) -> str:
    """`file`, `folder` of a repository inside another, `other`, or why it cannot be looked at."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        # It is deleted, but git still knows it.
        return ""
    except OSError as error:
        return f"It cannot be looked at: {error.strerror}."
    if stat.S_ISDIR(mode):
        return "folder" if (path / ".git").exists() else ""
    return "file" if stat.S_ISREG(mode) else "other"


def _is_left_out(path: Path) -> bool:
    parts = path.parts
    if len(parts) > 1 and parts[-2] in MAILDIR:
        return False
    return any(part in LEFT_OUT or part.startswith(".") for part in parts)


def _walked(folder: Path) -> list[str]:
    names: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in LEFT_OUT and f != ".git")
        names += [os.path.relpath(Path(place) / name, folder) for name in files]
    return sorted(names)
