"""The encoded rows of large data, stored in the user's cache for the next run and all its ranks.

The folder is named by a sum over all that decides its content: the data files, tokenizer, template,
options, the source of this package and the versions of those that it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
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
    mapped_conversations,
    mapped_examples,
    write_conversations,
    write_examples,
)
from biddable.dataset.prepared import Counts, OpenedBase, Prepared, SplitPart
from biddable.errors import BiddableError, Finding
from biddable.models.base import cache_folder
from biddable.storage import (
    AtomicFolder,
    folder_lock,
    is_sound,
    keep_newest,
    need_space,
    write_text,
)

# Fewer training examples are read and encoded in a second or two.
FEWEST = 4_000
# Data sets to keep, each about as large as its files.
MOST = 4
_PACKAGES = ("tokenizers", "jinja2", "numpy", "datasketch")


def cache_path(inputs: Mapping[str, Any], hashes: Mapping[str, str]) -> Path:
    """Cache folder for these inputs.

    Args:
        inputs: JSON values, all beside the sources that decides the rows.
        hashes: sha256 of each source, in order.
    """
    everything = [inputs, list(hashes.items()), versions_of(_PACKAGES), own_source()]
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    return cache_folder("rows") / key[:32]


def hashes_of(sources: Sequence[str]) -> dict[str, str] | None:
    """The sha256 of each file; None where a source is no file, and can be read only once.

    Raises:
        BiddableError: a file is missing or cannot be read.
    """
    hashes: dict[str, str] = {}
    for name in expanded(sources, []):
        if name == "-" or name.startswith("hf:") or not Path(name).is_file():
            return None
        with open_source(name, hashes):
            pass
    return hashes


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each package, by its name."""
    return {name: version(name) for name in packages}


@cache
def own_source() -> str:
    """A sum over this package's files, so that changed code uses nothing that the old one kept."""
    digest = hashlib.sha256()
    for path in sorted(Path(biddable.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load_cached(path: Path, opened: OpenedBase) -> Prepared | None:
    """The rows stored there, mapped; None where none are or they are damaged."""
    if not is_sound(path):
        return None
    try:
        record = json.loads((path / "prepared.json").read_text(encoding="utf-8"))
        conversations, examples = mapped_conversations(path), mapped_examples(path)
        os.utime(path)
        train_rows, train_examples = record.pop("train")
        return Prepared(
            **opened,
            train=SplitPart(conversations[:train_rows], examples[:train_examples]),
            held_out=SplitPart(conversations[train_rows:], examples[train_examples:]),
            counts=Counts(**record.pop("counts")),
            dropped=[Finding(**f) for f in record.pop("dropped")],
            findings=[Finding(**f) for f in record.pop("findings")],
            lengths=array("i", record.pop("lengths")),
            **record,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Another run has just replaced it, or the files were damaged before they were summed.
        return None


def store(path: Path, prepared: Prepared, opened: OpenedBase) -> Prepared:
    """Stores the rows, and returns them mapped, no longer in memory.

    Where the cache cannot be written they stay in memory, and a note says so.
    """
    damaged = path.exists()
    try:
        _write(path, prepared, opened)
    except (OSError, BiddableError) as error:
        what = f"The encoded rows could not be kept in {path.parent}: {error}"
        note = Finding("rows_not_kept", "note", what, "Every run encodes them anew.")
        return replace(prepared, findings=[*prepared.findings, note])
    mapped = load_cached(path, opened) or prepared
    if damaged:
        what = f"The encoded rows kept in {path} were damaged, and were encoded anew."
        note = Finding("kept_rows_damaged", "note", what, "Check the disk.")
        mapped = replace(mapped, findings=[*mapped.findings, note])
    return mapped


def _write(path: Path, prepared: Prepared, opened: OpenedBase) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Ids, and the conversations as text: about as much again as the files.
    need_space(path.parent, 3 * prepared.counts.tokens * 4)
    names = ("format", "rows", "hashes", "stop_token_trained", "longest", "leaked")
    record = {name: getattr(prepared, name) for name in names} | {
        "lengths": list(prepared.lengths),
        "counts": asdict(prepared.counts),
        "dropped": [asdict(f) for f in prepared.dropped],
        "findings": [asdict(f) for f in prepared.findings],
        "train": [len(prepared.train.conversations), len(prepared.train.examples)],
    }
    with folder_lock(path.parent):
        # Another run may have stored the same meanwhile.
        if load_cached(path, opened) is not None:
            return
        with AtomicFolder(path) as aside:
            write_conversations(prepared.conversations(), aside)
            write_examples(list(prepared.examples()), aside)
            write_text(aside / "prepared.json", json.dumps(record))
        keep_newest(path.parent, MOST)
