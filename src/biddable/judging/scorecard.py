"""Base against tuned, metric by metric, with intervals over the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any

import numpy as np

from biddable.judging.contents import Content, contents
from biddable.judging.figures import Figures, Rows, Series, compared, copies, each, figures
from biddable.judging.format import AnswerFormat, learn_format
from biddable.judging.intervals import Clusters, relation, sign_flip
from biddable.judging.judge import Judgement, Question
from biddable.judging.metric import NAMES, Metric, place_of
from biddable.judging.own_metric import UserMetric
from biddable.judging.rules import deciding
from biddable.judging.standings import Examined, with_standings
from biddable.judging.verdict import Verdict, decide

__all__ = ["NAMES", "Scorecard", "Terms", "score"]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The comparison of two models.

    Args:
        metrics: by name, in the order of `NAMES`, fields after the whole they are parts of.
        format: the format rule as text, empty where there is none.
        verdict: what an expert would say to these figures.
    """

    metrics: Mapping[str, Metric]
    format: str
    verdict: Verdict

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Per metric base, tuned, n, low and high, and what else it has."""
        always = ("base", "tuned", "n", "low", "high")
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
    known = list(training_answers) or [q.reference for q in questions]
    learned = learn_format(known)
    form = terms.form or learned
    structure = form if form and form.read else learned
    rows = Rows(questions, terms.clusters, form, structure, training_answers)
    ways = contents(questions, known, form, structure, terms.user_metric) if questions else []
    before, after, rival = (
        _all_figures(judgement, rows, ways) if judgement else {}
        for judgement in (base, tuned, few_shot)
    )
    names = sorted((n for n in before if n in after), key=place_of)
    metrics = {name: _metric(name, before, after, rival) for name in names}
    metrics |= _baselines(tuned, rows, metrics)
    metrics |= _judged_contents(tuned, rows, ways, metrics)
    fixed = len({answer.strip() for answer in training_answers}) == 1
    verdict = decide(metrics, leaked=terms.leaked, fixed=fixed)
    return Scorecard(metrics, form.shown if form else "", verdict)


def _all_figures(judgement: Judgement, rows: Rows, ways: Sequence[Content]) -> Figures:
    clusters = rows.answered()
    return figures(judgement, rows) | {
        way.name: each(way.values(judgement.answers), clusters, way.kind) for way in ways
    }


def _metric(name: str, before: Figures, after: Figures, rival: Figures) -> Metric:
    metric = compared(before[name], after[name])
    if name not in rival:
        return metric
    beside = compared(rival[name], after[name])
    return replace(metric, few_shot=beside.base, few_shot_low=beside.low, few_shot_high=beside.high)


def _baselines(tuned: Judgement, rows: Rows, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics beside content that have a figure without a model."""
    found: dict[str, Metric] = {}
    if "relevance" in metrics:
        # Another row's answer is as likely as the own, by definition.
        found["relevance"] = replace(metrics["relevance"], baseline=0.0)
    if "copied" in metrics:
        texts = [q.reference for q in rows.questions]
        for name, series in copies(texts, rows.training_answers, rows.answered()).items():
            if name in metrics and not isnan(series.value):
                found[name] = replace(metrics[name], baseline=series.value)
    return found


def _judged_contents(
    tuned: Judgement, rows: Rows, ways: Sequence[Content], metrics: Mapping[str, Metric]
) -> dict[str, Metric]:
    """The content metrics with their baselines, and with their standing those that decide."""
    clusters = rows.answered()
    tests = {way.name: _tested(way, metrics[way.name], tuned.answers, clusters) for way in ways}
    if "similarity" in tests and "relevance" in metrics:
        # Answers that fit their prompts are also likelier there than another row's.
        fits = _relevance(tuned, rows)
        tests["similarity"] = replace(tests["similarity"], p_relation=fits)
    names = deciding(tests)
    judged = with_standings([tests[name] for name in names])
    return {name: test.metric for name, test in tests.items()} | dict(
        zip(names, judged, strict=True)
    )


def _tested(way: Content, metric: Metric, answers: Sequence[str], clusters: Clusters) -> Examined:
    values, rival = way.values(answers), way.rival(answers)
    metric = replace(metric, baseline=float(rival.mean()))
    p_baseline = sign_flip(values - rival, clusters)
    if way.codes is None or way.wanted is None:
        return Examined(metric, p_baseline, scaled=way.name != "user_metric")
    related = relation(way.codes(answers), way.wanted, clusters)
    room = len(np.unique(clusters[rival == 0]))
    return Examined(metric, p_baseline, related, room)


def _relevance(tuned: Judgement, rows: Rows) -> float:
    """The p-value of answers being likelier after their own prompts than after others."""
    series: Series = figures(tuned, replace(rows, questions=()))["relevance"]
    gains = series.columns[:, 0]
    return sign_flip(gains, series.clusters) if gains.sum() > 0 else 1.0
