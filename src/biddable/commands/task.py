"""What a run works on, what it asks of its models, and what it shows of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from biddable.data.conversation import Conversation
from biddable.data.split import cluster_numbers
from biddable.dataset.prepared import Prepared
from biddable.display.report import Report, shown_tokens, training_answers, versions
from biddable.encoding.encode import Example
from biddable.errors import place
from biddable.generation.generate import generate
from biddable.generation.stream import text_of
from biddable.judging.judge import Judgement, Question, answer_limit, ask, judge
from biddable.judging.own_metric import UserMetric, try_metric
from biddable.judging.scorecard import Scorecard, Terms
from biddable.models.model_files import stop_ids_of
from biddable.settings import Settings
from biddable.training.ranks import Ranks
from biddable.training.run_folder import RunFolder

# Training examples whose loss is measured, to tell learning from memorizing: as many as are held
# out, within these.
FEWEST_COMPARED, MOST_COMPARED = 32, 64
# Tokens of the answer at each evaluation: enough to watch it change.
MOST_WATCHED = 64


@dataclass(frozen=True, slots=True)
class Task:
    """What a run works on, whichever of its parts is at work.

    Args:
        record: data.json.
        files: those that the model folder will hold, by name; there once the base is loaded.
    """

    prepared: Prepared
    settings: Settings
    folder: RunFolder
    questions: Sequence[Question]
    out: Console
    ranks: Ranks
    record: dict[str, Any]
    terms: Terms
    files: Mapping[str, str] = field(default_factory=dict)

    def answer(self, model: Any) -> str:
        """The model's answer to the first question, as far as it is watched."""
        if not self.questions:
            return ""
        tokenizer = self.prepared.tokenizer
        found = generate(
            model,
            [self.questions[0].prompt],
            stop_ids=stop_ids_of(model, tokenizer, self.prepared.template),
            max_new_tokens=min(MOST_WATCHED, answer_limit(self.questions)),
        )[0]
        return text_of(tokenizer)(found.ids) + ("" if found.stopped else " …")

    def first_event(self, base: Judgement) -> dict[str, Any]:
        """The evaluation of step 0: that of the base."""
        told: dict[str, Any] = {"event": "eval", "step": 0, "held_out_loss": base.mean_loss()}
        if not self.questions:
            return told
        answer = base.answers[0] + ("" if base.stopped[0] else " …")
        return {**told, "prompt": self.questions[0].text, "answer": answer}

    def judged(self, model: Any) -> Judgement:
        """The model measured on the held-out rows and, for memorizing, on some trained ones."""
        held_out, train = self.prepared.held_out.examples, self.prepared.train.examples
        return judge(
            model,
            self.prepared.tokenizer,
            self.prepared.template,
            self.questions,
            held_out,
            train_examples=train[: min(MOST_COMPARED, max(FEWEST_COMPARED, len(held_out)))],
        )


def judged_by(
    prepared: Prepared, most: int, metric: UserMetric | None
) -> tuple[list[Question], Terms]:
    """The questions of at most so many held-out rows, and the terms that answers are judged by.

    Raises:
        BiddableError: `metric`, the user's metric fails on a row.
    """
    rows = prepared.held_out.conversations
    clusters = cluster_numbers(rows)
    questions = ask(rows, prepared.tokenizer, prepared.template, most=most, clusters=clusters)
    try_metric(metric, questions)
    fed = clusters_at(rows, clusters, prepared.held_out.examples)
    return questions, Terms(clusters=fed, leaked=prepared.leaked, user_metric=metric)


def clusters_at(
    rows: Sequence[Conversation], clusters: Sequence[int], examples: Sequence[Example]
) -> list[int]:
    """The cluster of each example, from those of the rows that stand at the same places."""
    numbers = {(c.file, c.line): number for c, number in zip(rows, clusters, strict=True)}
    return [numbers[e.file, e.line] for e in examples]


def trained_rows(task: Task) -> list[tuple[str, float]]:
    """(place, loss) of each training row when it was last trained on, from the log."""
    last: dict[int, float] = {}
    for event in _events(task.folder.log):
        last |= zip(event.get("rows", ()), event.get("row_losses", ()), strict=True)
    examples = task.prepared.train.examples
    return [(place(examples[i].file, examples[i].line), last[i]) for i in sorted(last)]


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def report_of(
    task: Task,
    card: Scorecard,
    base: Judgement,
    tuned: Judgement,
    trained: Sequence[tuple[str, float]],
) -> Report:
    """What report.html shows of the run."""
    prepared, settings = task.prepared, task.settings
    facts = {name: str(value) for name, value in asdict(settings).items() if value not in ("", ())}
    hashes = {f"sha256 of {name}": value for name, value in prepared.hashes.items()}
    return Report(
        title=f"{prepared.base.name} tuned on {', '.join(settings.data)}",
        card=card,
        questions=task.questions,
        base=base,
        tuned=tuned,
        examples=prepared.held_out.examples,
        tokens=shown_tokens(prepared.held_out.examples, prepared.tokenizer, prepared.template),
        training_answers=training_answers(prepared.train.conversations),
        trained=trained,
        # Without the rows of each step, which are by far the most of it.
        events=[e | {"rows": (), "row_losses": ()} for e in _events(task.folder.log)],
        lengths=prepared.lengths,
        limit=prepared.max_length,
        facts={**facts, **versions(), **hashes},
        dropped=[str(f) for f in prepared.dropped],
    )
