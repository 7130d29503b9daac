"""Base against tuned, metric by metric, with intervals over the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from biddable.judging.case import deciding
from biddable.judging.contents import contents
from biddable.judging.format import AnswerFormat, learn_format
from biddable.judging.intervals import Floats, cluster_array, sign_flip
from biddable.judging.judge import Judgement, Question
from biddable.judging.measures import Measure, answer_measures, has_figure, loss_measures, p_fit
from biddable.judging.metric import Metric, place_of
from biddable.judging.own_metric import UserMetric
from biddable.judging.standings import Examined, with_standings
from biddable.judging.verdict import Verdict, decide


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The comparison of two models.

    Args:
        metrics: by name, in the order of `metric.NAMES`, fields after the whole they are parts of.
        format: the format rule as text, empty where there is none.
        verdict: the outcome that follows from these figures.
    """

    metrics: Mapping[str, Metric]
    format: str
    verdict: Verdict

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Per metric base, tuned, n, low, high and baseline, and what else it has."""
        always = ("base", "tuned", "n", "low", "high", "baseline")
        return {
            name: {
                field: value
                for field, value in asdict(metric).items()
                if field in always or (field != "kind" and value not in (None, ""))
            }
            for name, metric in self.metrics.items()
        }

    def record(self) -> dict[str, dict[str, Any]]:
        """What scorecard.json and `compare --json` hold: the metrics, and `verdict` beside them."""
        return {**self.as_json(), "verdict": asdict(self.verdict)}


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

    form: AnswerFormat | None = None
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
        training_answers: what tuned was trained to say: for the format, for copies, and for the
            most frequent answer; without them the references stand in.
        few_shot: base with training examples in its prompts.
        terms: what is known of the rows, and how answers are to be judged.

    Raises:
        BiddableError: `metric`, the user's metric failed on a row.
    """
    terms = terms or Terms()
    measures, form = _measures(questions, training_answers, terms)
    judged = deciding(measure.name for measure in measures)
    metrics: dict[str, Metric] = {}
    tests: dict[str, Examined] = {}
    for measure in measures:
        before, after = measure.columns(measure.of(base)), measure.columns(measure.of(tuned))
        if not has_figure(before) or not has_figure(after):
            continue
        metric = measure.compared(before, after)
        if few_shot is not None:
            metric = _with_few_shot(metric, measure, measure.columns(measure.of(few_shot)), after)
        if measure.rival is not None:
            rival = measure.columns(measure.rival(tuned))
            baseline = float(measure.figure(rival.sum(0)))
            metric = replace(metric, baseline=baseline if isfinite(baseline) else None)
            if measure.name in judged:
                tests[measure.name] = _examined(measure, metric, after, rival, tuned)
        metrics[measure.name] = metric
    metrics |= with_standings({name: tests[name] for name in judged})
    fixed = len({answer.strip() for answer in training_answers}) == 1
    verdict = decide(metrics, leaked=terms.leaked, fixed=fixed)
    return Scorecard(metrics, form.shown if form else "", verdict)


def _measures(
    questions: Sequence[Question], training_answers: Sequence[str], terms: Terms
) -> tuple[list[Measure], AnswerFormat | None]:
    """What is measured of the rows, in the order of the scorecard, and the format of answers."""
    known = list(training_answers) or [q.reference for q in questions]
    learned = learn_format(known)
    form = terms.form or learned
    structure = form if form and form.read else learned
    measures = loss_measures(terms.clusters)
    if questions:
        measures += answer_measures(questions, form, structure, training_answers)
        fits = partial(p_fit, clusters=terms.clusters)
        measures += contents(questions, known, form, structure, terms.user_metric, fits)
    return sorted(measures, key=lambda measure: place_of(measure.name)), form


def _with_few_shot(metric: Metric, measure: Measure, few_shot: Floats, tuned: Floats) -> Metric:
    if not has_figure(few_shot):
        return metric
    beside = measure.compared(few_shot, tuned)
    return replace(metric, few_shot=beside.base, few_shot_low=beside.low, few_shot_high=beside.high)


def _examined(
    measure: Measure, metric: Metric, after: Floats, rival: Floats, tuned: Judgement
) -> Examined:
    clusters = cluster_array(measure.clusters, len(after))
    p_baseline = sign_flip(after[:, 0] - rival[:, 0], clusters)
    p_relation = measure.p_relation(tuned) if measure.p_relation else 0.0
    room = len(np.unique(clusters[rival[:, 0] == 0])) if measure.kind == "rate" else None
    return Examined(metric, p_baseline, p_relation, room, measure.name != "user_metric")
