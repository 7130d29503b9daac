"""How a run ends: what its folder holds beside the weights, and what is shown of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from biddable import __version__
from biddable.commands.run_parts import Run
from biddable.dataset.prepared import Prepared, shared_system_prompt
from biddable.display.model_card import hub_id, model_card
from biddable.display.outcome import samples, show_outcome, show_outliers
from biddable.display.report import page, sources_of, versions
from biddable.errors import place
from biddable.judging.judge import Judgement
from biddable.judging.scorecard import Scorecard
from biddable.models.adapter_files import base_text
from biddable.models.adapters import save_adapter
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.models.save import save_model
from biddable.settings import PACKAGED
from biddable.storage import write_whole
from biddable.terminal import line
from biddable.training.checkpoint import clear_best
from biddable.training.resume import absolute


def card_files(run: Run, card: Scorecard) -> dict[str, str]:
    """The model card, and the system prompt that all rows share."""
    system = shared_system_prompt(run.prepared.train.conversations)
    text = model_card(run.prepared, run.settings, card, __version__, system is not None)
    return {"README.md": text} | ({} if system is None else {SYSTEM_PROMPT_FILE: system})


def save_tuned(
    run: Run, model: Any, tensors: Mapping[str, Tensor], files: Mapping[str, str]
) -> None:
    """Writes the tuned model, or its adapter, with the files beside it."""
    folder = run.folder.adapter if run.settings.lora else run.folder.model
    line(run.out, "saving", str(folder))
    if not run.settings.lora:
        save_model(model, tensors, files, folder)
        return
    base = run.prepared.base
    packaged = base.name == PACKAGED
    # The packaged weights are rounded, so another program needs them and not those of the hub.
    elsewhere = None if packaged else hub_id(base)
    name = PACKAGED if packaged else absolute(base.name)
    text = base_text(name, run.record["base"], run.settings.base_bits)
    save_adapter(model, tensors, files, (elsewhere or str(base.folder.absolute()), text), folder)


def finish(run: Run, card: Scorecard, judgements: Mapping[str, Judgement]) -> None:
    """Writes scorecard, samples and report, and shows how the run ended."""
    prepared, settings, folder, out = run.prepared, run.settings, run.folder, run.out
    folder.write_json("scorecard.json", card.record())
    rows = [json.dumps(s, ensure_ascii=False) for s in samples(run.exam.questions, judgements)]
    write_whole(folder.path / "samples.jsonl", "\n".join(rows) + "\n")
    events = [json.loads(text) for text in folder.log.read_text(encoding="utf-8").splitlines()]
    trained = _trained_rows(prepared, events)
    facts = {name: str(value) for name, value in asdict(settings).items() if value not in ("", ())}
    title = f"{prepared.base.name} tuned on {', '.join(settings.data)}"
    report = replace(
        run.exam.report(title, card, judgements),
        trained=trained,
        # Without the rows of each step, which are by far the most of it.
        events=[e | {"rows": (), "row_losses": ()} for e in events],
        lengths=prepared.lengths,
        limit=prepared.max_length,
        facts=facts | versions() | {f"sha256 of {n}": v for n, v in prepared.hashes.items()},
        dropped=[str(f) for f in prepared.dropped],
    )
    # Comes last: it says that the run is finished.
    write_whole(folder.path / "report.html", page(report))
    clear_best(folder.checkpoints)
    show_outcome(card, run.exam.questions, judgements, out)
    show_outliers(trained, out)
    line(out, "run", str(folder.path))
    line(out, "report", str(folder.path / "report.html"))
    line(out, "next", f"biddable chat {folder.path}")


def _trained_rows(
    prepared: Prepared, events: Sequence[Mapping[str, Any]]
) -> list[tuple[str, float]]:
    """(place, loss) of each training row when it was last trained on."""
    last: dict[int, float] = {}
    for event in events:
        last |= zip(event.get("rows", ()), event.get("row_losses", ()), strict=True)
    examples, sources = prepared.train.examples, sources_of(prepared.train.conversations)
    rows = ((i, (examples[i].file, examples[i].line)) for i in sorted(last))
    return [(sources.get(row) or place(*row), last[i]) for i, row in rows]
