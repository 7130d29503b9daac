"""Judgements of bases in the user's cache: the next run on the same rows has its base's at once.

Whoever tunes tries settings: other rates, epochs, layers, on the same rows and the same base. What
that base does on these rows is the same each time, and took as long as a good part of the training.
The folder is named by a sum over all that decides it: the base's files, with its tokenizer and stop
tokens, the rows, how they are fed, the source of this package and the versions of what it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from biddable.commands.exam import Exam
from biddable.dataset.cache import own_source, versions_of
from biddable.errors import BiddableError
from biddable.judging.judge import Judgement
from biddable.models.base import cache_folder
from biddable.settings import Settings
from biddable.storage import AtomicFolder, folder_lock, is_sound, keep_newest, sha256, write_text

# Seconds; what was measured in less is measured again.
SHORTEST = 5.0
# Judgements to keep, of some 100 kB each.
MOST = 32
_PACKAGES = ("torch", "transformers", "tokenizers")
_FILE = "judgement.json"
# What stands beside a base's weights and says how it is asked and when its answer ends.
_BESIDE = (".json", ".model", ".jinja", ".txt")


def judgement_path(exam: Exam, settings: Settings, base: Path, sums: Mapping[str, str]) -> Path:
    """Cache folder for what a base does in an exam.

    Args:
        settings: those with which the base is computed.
        base: its folder; sums: those of the files that decide what it computes.
    """
    beside = {p.name: sha256(p) for p in base.iterdir() if p.suffix in _BESIDE and p.is_file()}
    compared = [[list(e.input_ids), list(e.weights)] for e in exam.compared()]
    how = [settings.device, settings.precision, settings.base_bits]
    files = [dict(sums), beside]
    everything = [exam.key(), compared, files, how, versions_of(_PACKAGES), own_source()]
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    return cache_folder("judgements") / key[:32]


def kept_judgement(path: Path) -> tuple[Judgement, float] | None:
    """The judgement kept there and the seconds that it took; None if none is, or a damaged one."""
    if not is_sound(path):
        return None
    try:
        record = json.loads((path / _FILE).read_text(encoding="utf-8"))
        os.utime(path)
        return Judgement(**record["judgement"]), record["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        # Another run has just deleted it to keep newer ones.
        return None


def keep_judgement(path: Path, judgement: Judgement, seconds: float) -> None:
    """Keeps a judgement that took long enough; where that cannot be, the next run makes its own."""
    if seconds < SHORTEST:
        return
    text = json.dumps({"seconds": seconds, "judgement": asdict(judgement)})
    with suppress(OSError, BiddableError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(path.parent):
            # Another run may have kept the same meanwhile.
            if not is_sound(path):
                with AtomicFolder(path) as aside:
                    write_text(aside / _FILE, text)
            keep_newest(path.parent, MOST)
