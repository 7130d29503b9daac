"""How a run ends: scorecard, answers side by side, verdict, and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from biddable.judging.judge import Judgement, Question
from biddable.judging.scorecard import Scorecard
from biddable.judging.shown import card_lines
from biddable.judging.unusual import ENDS, unusual
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.training.settings import Settings
from biddable.verbs.prepared import Prepared
from biddable.verbs.show import line

SIDE_BY_SIDE = 3


def show_outcome(
    card: Scorecard,
    questions: Sequence[Question],
    base: Judgement,
    tuned: Judgement,
    out: Console,
) -> None:
    """The scorecard, three questions with both answers, and the verdict."""
    out.print()
    for text in card_lines(card):
        out.print(Text(text))
    for i, question in enumerate(questions[:SIDE_BY_SIDE]):
        out.print()
        line(out, "asked", question.text)
        line(out, "reference", question.reference)
        for name, judgement in (("base", base), ("tuned", tuned)):
            end = "" if judgement.stopped[i] else "  (did not stop)"
            line(out, name, judgement.answers[i].rstrip() + end)
    out.print()
    out.print(Text.assemble(("verdict     ", "bold"), (card.verdict.sentence, "bold")))
    line(out, "", card.verdict.evidence)
    if card.verdict.advice:
        line(out, "try", card.verdict.advice)


def show_unusual(trained: Sequence[tuple[str, float]], out: Console) -> None:
    """The training rows, as (place, loss), that most need a look, and those that need none."""
    for end, rows in zip(ENDS, unusual([loss for _, loss in trained]), strict=True):
        told = ", ".join(f"{trained[i][0]} {trained[i][1]:.2f}" for i in rows[:SIDE_BY_SIDE])
        if told:
            line(out, "trained on", f"{end}  {told}")


def samples(
    questions: Sequence[Question], base: Judgement, tuned: Judgement
) -> list[dict[str, Any]]:
    """One record a question, for samples.jsonl."""
    return [
        {
            "file": question.file,
            "line": question.line,
            "question": question.text,
            "reference": question.reference,
            "base": base.answers[i],
            "base_stopped": base.stopped[i],
            "tuned": tuned.answers[i],
            "tuned_stopped": tuned.stopped[i],
        }
        for i, question in enumerate(questions)
    ]


def model_card(
    prepared: Prepared, settings: Settings, card: Scorecard, version: str, with_system: bool
) -> str:
    """README.md of the model folder: what it is, how it was made and judged; no row of the data."""
    base = settings.base if settings.base != "smollm2" else "HuggingFaceTB/SmolLM2-135M-Instruct"
    table = "\n".join(
        f"| {name} | {m.base if m.base is not None else '-'} "
        f"| {m.tuned if m.tuned is not None else '-'} | {m.n} |"
        for name, m in card.metrics.items()
    )
    return f"""---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags: [sft, biddable]
---

# A tuned {base}

Supervised fine-tuning with biddable {version} on {len(prepared.train.examples)} examples of private
data ({prepared.format}), all weights, loss on the assistant's tokens only. The chat template in
`chat_template.jinja` and the stop tokens in `generation_config.json` are those of training.

## Verdict

{card.verdict.sentence} {card.verdict.evidence}

| metric on {len(prepared.held_out.examples)} held-out examples | base | tuned | n |
|---|---|---|---|
{table}

## Settings

Learning rate {settings.lr:g}, {settings.epochs:g} epochs, {settings.batch_size} rows per step, seed
{settings.seed}; the run folder's config.toml repeats the run.

## Use

{_use(with_system)}"""


def _use(with_system: bool) -> str:
    """How the model is asked elsewhere as it was trained; with its system prompt, if it has one."""
    read = system = told = ""
    if with_system:
        read = f'\nsystem = open("PATH/{SYSTEM_PROMPT_FILE}", encoding="utf-8", newline="").read()'
        system = '{"role": "system", "content": system}, '
        told = (
            f"Every training row began with the system prompt in `{SYSTEM_PROMPT_FILE}`: send it "
            "with each question.\n\n"
        )
    return f"""{told}```python
from transformers import pipeline
chat = pipeline("text-generation", model="PATH"){read}
chat([{system}{{"role": "user", "content": "..."}}])
```
"""
