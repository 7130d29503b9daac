"""Base against tuned, metric by metric, with intervals over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any, Literal

from biddable.judging.format import Format, learn_format
from biddable.judging.judge import Judgement, Question
from biddable.judging.series import (
    Figures,
    Metric,
    chance_similarity,
    compared,
    copies,
    figures,
)
from biddable.judging.verdict import Verdict, decide

UserMetric = Callable[[str, str], float]
Better = Literal["higher", "lower", "neither"]
# The metrics in the order in which they are shown: the key, its name, and which way is better.
NAMES: Mapping[str, tuple[str, Better]] = {
    "held_out_loss": ("held-out loss", "lower"),
    "stops_by_itself": ("stops by itself", "higher"),
    "follows_format": ("follows the format", "higher"),
    "choices_match": ("choices match", "higher"),
    "exact_match": ("exact match", "higher"),
    "accuracy": ("accuracy", "higher"),
    "macro_f1": ("macro F1", "higher"),
    "last_line_match": ("last line matches", "higher"),
    "similarity": ("similar to reference", "higher"),
    "relevance": ("fits its own question", "higher"),
    "copied": ("copied 8-word runs", "neither"),
    "longest_copied": ("longest copy, words", "neither"),
    "repeats": ("repeats itself", "lower"),
    "length_ratio": ("length of reference", "neither"),
    "train_loss": ("training loss", "lower"),
    "general_loss": ("general text loss", "lower"),
}


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The comparison of two models.

    Args:
        metrics: by name, in the order of `NAMES`.
        format: the format rule as text, empty where there is none.
        verdict: what an expert would say to these figures.
    """

    metrics: Mapping[str, Metric]
    format: str
    verdict: Verdict

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Per metric base, tuned, n, low and high, and what else it has."""
        optional = ("reference", "few_shot", "few_shot_low", "few_shot_high")
        found = {name: asdict(metric) for name, metric in self.metrics.items()}
        for fields in found.values():
            del fields["kind"]
            for name in optional:
                if fields[name] is None:
                    del fields[name]
        return found

    def record(self) -> dict[str, dict[str, Any]]:
        """What scorecard.json and `compare --json` hold: the metrics, and `verdict` beside them."""
        return {**self.as_json(), "verdict": self.verdict.as_json()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is known of the held-out rows, and how a user wants answers to be judged.

    Args:
        form: the format rule; None learns it from the training answers.
        clusters: one number for each held-out example, the same for those that belong together
            (one group, near duplicates); None where each stands alone. That of an answered row is
            `Question.cluster`.
        leaked: training knew every held-out row.
        user_metric: from (reference, answer) to a number, higher is better.
    """

    form: Format | None = None
    clusters: Sequence[int] | None = None
    leaked: bool = False
    user_metric: UserMetric | None = None


def score(
    base: Judgement,
    tuned: Judgement,
    questions: Sequence[Question],
    training_answers: Sequence[str] = (),
    *,
    few_shot: Judgement | None = None,
    terms: Terms | None = None,
) -> Scorecard:
    """The scorecard of two judgements of the same rows.

    Args:
        training_answers: what tuned was trained to say, for the format and for copies.
        few_shot: base with training examples in its prompts.
        terms: what is known of the rows, and how answers are to be judged.
    """
    terms = terms or Terms()
    form = terms.form or learn_format(training_answers or [q.reference for q in questions])

    def of(judgement: Judgement) -> Figures:
        return figures(judgement, questions, training_answers, form)

    before, after = of(base), of(tuned)
    rival: Figures = of(few_shot) if few_shot else {}
    found = {
        name: _metric(
            before, after, rival, name, _reference(name, tuned, questions, training_answers)
        )
        for name in NAMES
        if name in before and name in after
    }
    return Scorecard(found, form.shown if form else "", decide(found))


def _metric(
    before: Figures, after: Figures, rival: Figures, name: str, reference: float | None
) -> Metric:
    base, tuned, n, interval = compared(before[name], after[name])
    low, high = interval or (None, None)
    metric = Metric(base, tuned, n, low, high, before[name].kind, reference)
    if name not in rival:
        return metric
    few_shot, _, _, beside = compared(rival[name], after[name])
    few_low, few_high = beside or (None, None)
    return Metric(base, tuned, n, low, high, metric.kind, reference, few_shot, few_low, few_high)


def _reference(
    name: str, tuned: Judgement, questions: Sequence[Question], training_answers: Sequence[str]
) -> float | None:
    """The figure that a metric would have without a model, where it has one."""
    if name == "similarity":
        return chance_similarity(tuned.answers, questions)
    if name in ("copied", "longest_copied"):
        found = copies([q.reference for q in questions], training_answers)[name]
        value, *_ = compared(found, found)
        return None if isnan(value) else value
    return None
