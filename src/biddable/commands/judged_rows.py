"""The rows that `compare` judges on, and those of training as far as they are known."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from biddable.data.conversation import Conversation
from biddable.data.readers import ReadResult, read
from biddable.dataset.prepare import read_rows, without_known
from biddable.dataset.prepared import SplitPart
from biddable.errors import BiddableError
from biddable.options import read_config, with_values
from biddable.settings import CompareSettings, Settings
from biddable.terminal import line
from biddable.training.run_folder import EVAL_FILE, RunFolder


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """What two models are compared on.

    Args:
        held_out: the rows to judge on.
        train: those that TUNED was trained on; empty where they are not known.
        leaked: training knows every held-out row.
    """

    held_out: Sequence[Conversation]
    train: Sequence[Conversation]
    leaked: bool


def judged_rows(settings: CompareSettings, out: Console) -> JudgedRows:
    """The rows of --data or of the run folder TUNED, without those that its training knows.

    Raises:
        BiddableError: no data is given and TUNED is no run folder; or the data has faults.
    """
    run = RunFolder(Path(settings.tuned))
    own = run.eval_rows.is_file()
    train = _read(settings, settings.train) if settings.train else _trained(run, out) if own else []
    if not settings.data:
        if not own:
            what = "no held-out rows are given"
            fix = f"give --data FILE, or a run folder with its {EVAL_FILE}"
            raise BiddableError("no_data", what, fix)
        held_out = _good(read([str(run.eval_rows)]))
        leaked = bool(run.read_json("data.json").get("leaked"))
        return JudgedRows(held_out, train, leaked)
    side, leaked, findings = without_known(train, SplitPart(_read(settings, settings.data), ()))
    for finding in findings:
        line(out, "known rows", finding.message)
    if not train:
        line(out, "known rows", "not looked for: no training rows are known; give --train FILE")
    return JudgedRows(side.conversations, train, leaked)


def _trained(run: RunFolder, out: Console) -> Sequence[Conversation]:
    """The rows that a run was trained on, where its data is still there and the same."""
    settings = with_values(Settings(), read_config(str(run.config)))
    record = run.read_json("data.json")
    rows = None
    with suppress(BiddableError):
        rows = read_rows(settings, settings.data)
    if rows is None or any(record["sources"].get(n) != v for n, v in rows.hashes.items()):
        names = ", ".join(settings.data)
        line(out, "training", f"rows are not known: {names} was moved or changed since the run")
        return []
    held_out = {(file, number) for file, number in record["held_out"]}
    return [c for c in rows.conversations if (c.file, c.line) not in held_out]


def _read(settings: CompareSettings, name: str) -> Sequence[Conversation]:
    reading = {n: getattr(settings, n) for n in ("map", "system", "encoding")}
    return _good(read_rows(Settings(**reading), (name,)))


def _good(rows: ReadResult) -> Sequence[Conversation]:
    if errors := rows.errors():
        raise BiddableError.of(errors[0])
    return rows.conversations
