"""Judgements of bases in the user's cache: the next run on the same rows has its base's at once.

Whoever tunes tries settings: other rates, epochs, layers, on the same rows and the same base. What
that base does on these rows is the same each time, and took as long as a good part of the training.
The folder is named by a sum over all that decides it: the base's files, the rows, how they are fed,
the source of this package and the versions of those that it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from biddable.commands.exam import Exam
from biddable.dataset.cache import own_source, versions_of
from biddable.errors import BiddableError
from biddable.judging.judge import Judgement
from biddable.models.base import cache_folder
from biddable.settings import Settings
from biddable.storage import AtomicFolder, folder_lock, is_sound, keep_newest, write_text

# Seconds; what was measured in less is measured again.
SHORTEST = 5.0
# Judgements to keep, of some 100 kB each.
MOST = 32
_PACKAGES = ("torch", "transformers", "tokenizers")
_FILE = "judgement.json"


def judgement_path(exam: Exam, settings: Settings, base: dict[str, str]) -> Path:
    """Cache folder for what a base does in an exam.

    Args:
        settings: those with which the base is computed.
        base: sums of the files that decide what it computes.
    """
    compared = [[list(e.input_ids), list(e.weights)] for e in exam.compared()]
    how = [settings.device, settings.precision, settings.base_bits]
    everything = [exam.key(), compared, base, how, versions_of(_PACKAGES), own_source()]
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    return cache_folder("judgements") / key[:32]


def kept_judgement(path: Path) -> tuple[Judgement, float] | None:
    """The judgement kept there and the seconds that it took; None if none is, or a damaged one."""
    if not is_sound(path):
        return None
    with suppress(OSError):
        os.utime(path)
    record = json.loads((path / _FILE).read_text(encoding="utf-8"))
    return Judgement(**record["judgement"]), record["seconds"]


def keep_judgement(path: Path, judgement: Judgement, seconds: float) -> None:
    """Keeps a judgement that took long enough; where that cannot be, the next run makes its own."""
    if seconds < SHORTEST:
        return
    text = json.dumps({"seconds": seconds, "judgement": asdict(judgement)})
    with suppress(OSError, BiddableError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(path.parent):
            with AtomicFolder(path) as aside:
                write_text(aside / _FILE, text)
            keep_newest(path.parent, MOST)
