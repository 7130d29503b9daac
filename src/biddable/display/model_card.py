"""README.md of a model folder: what the model is, how it was trained, judged and is prompted."""

from __future__ import annotations

import json
from pathlib import Path

from biddable.dataset.prepared import Prepared
from biddable.display.pages import render
from biddable.display.scorecard_lines import difference, number
from biddable.judging.metric import title
from biddable.judging.scorecard import Scorecard
from biddable.models.base import SYSTEM_PROMPT_FILE, Base
from biddable.settings import PACKAGED, Settings
from biddable.terminal import steers

PACKAGED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_card(
    prepared: Prepared, settings: Settings, card: Scorecard, version: str, with_system: bool
) -> str:
    """The card of a tuned model; no row of the data stands in it."""
    base = hub_id(prepared.base)
    metrics = []
    for name, m in card.metrics.items():
        figures = [number(m, value) for value in (m.base, m.tuned, m.baseline)]
        metrics.append([one_line(title(name)).replace("|", "/"), *figures, difference(m), m.n])
    return render(
        "display/model_card.md",
        # A hub id is ASCII, so that its JSON is YAML too.
        base_id=json.dumps(base) if base else "",
        name=as_code(base or Path(prepared.base.name).name),
        version=version,
        rows=len(prepared.train.examples),
        format=as_code(prepared.format),
        verdict=f"{one_line(card.verdict.sentence)} {one_line(card.verdict.evidence)}",
        metrics=metrics,
        settings=settings,
        system_file=SYSTEM_PROMPT_FILE if with_system else "",
    )


def hub_id(base: Base) -> str | None:
    """The name under which others find a base on the hub; None for what stands on this disk."""
    if base.name == PACKAGED:
        return PACKAGED_ID
    here = Path(base.name).resolve()
    local = base.name.endswith(".gguf") or base.folder.resolve().is_relative_to(here)
    return None if local else base.name


def one_line(text: str) -> str:
    """A text on one line, without characters that steer what displays it."""
    return " ".join("".join(" " if steers(c) else c for c in text).split())


def as_code(text: str) -> str:
    """A text as Markdown code, in which nothing is markup."""
    return "`" + one_line(text).replace("`", "'") + "`"
