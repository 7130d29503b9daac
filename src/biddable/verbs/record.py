"""data.json: what a run is made of, so that nothing can change under it unseen."""

from __future__ import annotations

from typing import Any

from biddable.data.findings import BiddableError
from biddable.training.run_folder import RunFolder
from biddable.training.settings import Settings
from biddable.verbs.prepare import Prepared


def data_record(prepared: Prepared, settings: Settings) -> dict[str, Any]:
    """The content of data.json."""
    return {
        "sources": prepared.hashes,
        "format": prepared.format,
        "rows": prepared.rows,
        "template": prepared.template.text,
        "seed": settings.seed,
        "train": len(prepared.train.examples),
        "held_out": [[c.file, c.line] for c in prepared.held_out.conversations],
        "dropped": [str(f) for f in prepared.dropped],
    }


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: RunFolder) -> None:
    """Refuses to go on with a run whose data or template is no longer what it was.

    Raises:
        BiddableError: `run_changed`, with the names of what changed.
    """
    changed = [name for name in before if before[name] != now.get(name)]
    if changed:
        raise BiddableError(
            f"the run {folder.path} cannot go on: {', '.join(changed)} changed since it started",
            code="run_changed",
            fix="put it back as it was, or start a new run",
        )
