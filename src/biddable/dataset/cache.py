"""What `prepare` made of large data, kept in the user's cache for the next run and all its ranks.

The folder is named by a sum over all that decides its content: the data files, tokenizer, template,
options, the source of this package and the versions of those that it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import biddable
from biddable.data.files import expanded, open_source
from biddable.dataset.mapped_rows import (
    kept_conversations,
    kept_examples,
    write_conversations,
    write_examples,
)
from biddable.dataset.prepared import Counts, Prepared, SplitPart
from biddable.errors import BiddableError, Finding
from biddable.models.base import cache_folder
from biddable.storage import Aside, alone, is_sound, need_space, remove

# Fewer training examples are read and encoded in a second or two.
FEWEST = 4_000
# Data sets, each of about the size of its files.
MOST = 4
_PACKAGES = ("tokenizers", "jinja2", "numpy", "datasketch")


def place_of(decides: Mapping[str, Any], hashes: Mapping[str, str]) -> Path:
    """The folder for what some sources and all else that decides give.

    Args:
        decides: JSON values.
        hashes: sha256 of each source, in order.
    """
    versions = {name: version(name) for name in _PACKAGES}
    made = [decides, list(hashes.items()), versions, _own_source()]
    key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return cache_folder("rows") / key[:32]


def hashes_of(sources: Sequence[str]) -> dict[str, str] | None:
    """The sha256 of each file; None where a source is no file, and can be read only once.

    Raises:
        BiddableError: a file is missing or cannot be read.
    """
    found: dict[str, str] = {}
    for name in expanded(sources, []):
        if name == "-" or name.startswith("hf:") or not Path(name).is_file():
            return None
        with open_source(name, found):
            pass
    return found


@cache
def _own_source() -> str:
    """A sum over this package's files, so that a changed reader or encoder finds nothing."""
    found = hashlib.sha256()
    for path in sorted(Path(biddable.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def opened(place: Path, known: Mapping[str, Any]) -> Prepared | None:
    """What stands there, its rows mapped; None where it is not there or damaged.

    Args:
        known: the fields of `Prepared` that are made anew each time.
    """
    if not is_sound(place):
        return None
    try:
        told = json.loads((place / "prepared.json").read_text(encoding="utf-8"))
        conversations, examples = kept_conversations(place), kept_examples(place)
        os.utime(place)
        of_rows, of_examples = told.pop("train")
        return Prepared(
            **known,
            train=SplitPart(conversations[:of_rows], examples[:of_examples]),
            held_out=SplitPart(conversations[of_rows:], examples[of_examples:]),
            counts=Counts(**told.pop("counts")),
            dropped=[Finding(**f) for f in told.pop("dropped")],
            findings=[Finding(**f) for f in told.pop("findings")],
            lengths=array("i", told.pop("lengths")),
            **told,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Another run has just put newer data in its stead, or the sums are of damaged files.
        return None


def keep(place: Path, prepared: Prepared, known: Mapping[str, Any]) -> Prepared:
    """Writes it there, and gives it back with its rows mapped and no longer in memory.

    Where the cache cannot be written it stays in memory, and a note says so.
    """
    damaged = place.exists()
    try:
        _write(place, prepared, known)
    except (OSError, BiddableError) as error:
        message = f"The encoded rows could not be kept in {place.parent}: {error}"
        return _with_note(prepared, "rows_not_kept", message, "Every run encodes them anew.")
    kept = opened(place, known) or prepared
    if not damaged:
        return kept
    message = f"The encoded rows kept in {place} were damaged, and were made anew."
    return _with_note(kept, "kept_rows_damaged", message, "Is the disk sound?")


def _write(place: Path, prepared: Prepared, known: Mapping[str, Any]) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Ids, and the conversations as text: about as much again as the files.
    need_space(place.parent, 3 * prepared.counts.tokens * 4)
    with alone(place.parent):
        # Another run may have made the same meanwhile.
        if opened(place, known) is not None:
            return
        with Aside(place) as aside:
            write_conversations(prepared.conversations(), aside)
            write_examples(list(prepared.examples()), aside)
            (aside / "prepared.json").write_text(json.dumps(_told(prepared)), encoding="utf-8")
        for old in sorted(place.parent.glob("[!.]*"), key=lambda p: -p.stat().st_mtime)[MOST:]:
            remove(old)
        for part in place.parent.glob(".*.part"):
            shutil.rmtree(part)


def _told(prepared: Prepared) -> dict[str, Any]:
    p = prepared
    return {
        "format": p.format,
        "rows": p.rows,
        "hashes": p.hashes,
        "stop_token_trained": p.stop_token_trained,
        "longest": p.longest,
        "leaked": p.leaked,
        "lengths": list(p.lengths),
        "counts": asdict(p.counts),
        "dropped": [asdict(f) for f in p.dropped],
        "findings": [asdict(f) for f in p.findings],
        "train": [len(p.train.conversations), len(p.train.examples)],
    }


def _with_note(prepared: Prepared, code: str, message: str, fix: str) -> Prepared:
    return replace(prepared, findings=[*prepared.findings, Finding(code, "note", message, fix)])
