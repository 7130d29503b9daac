"""What is measured on a judgement, row by row, and what becomes of it for two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from biddable.judging.format import AnswerFormat
from biddable.judging.intervals import (
    Floats,
    cluster_array,
    paired_bootstrap,
    paired_rates,
    sign_flip,
)
from biddable.judging.judge import Judgement, Question
from biddable.judging.metric import Kind, Metric
from biddable.judging.text_measures import copier, normalized, repeats


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of the scorecard.

    Args:
        name: its key.
        kind: how the rows' numbers come to one figure.
        of: the numbers of each row: (n,), (n, 2) for a ratio, (n, 3 L) for macro F1 of L labels;
            empty where the judgement has none.
        clusters: rows of one number belong together; None for a row that stands alone.
        rival: the same numbers for the best answers without a model, given tuned's judgement.
        p_relation: the p-value of answers that have nothing to do with their prompts.
    """

    name: str
    kind: Kind
    of: Callable[[Judgement], ArrayLike]
    clusters: Sequence[int | None] | None = None
    rival: Callable[[Judgement], ArrayLike] | None = None
    p_relation: Callable[[Judgement], float] | None = None

    def columns(self, values: ArrayLike) -> Floats:
        """(n, k) numbers whose sums the figure is made of."""
        numbers = np.array(values, dtype=float)
        alone = self.kind in ("rate", "mean")
        return np.stack([numbers, np.ones(len(numbers))], axis=1) if alone else numbers

    def figure(self, sums: Floats) -> Floats:
        """From (..., k) column sums to the figure."""
        if self.kind == "macro_f1":
            return _macro_f1(sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            quotient: Floats = sums[..., 0] / sums[..., 1]
        return quotient

    def compared(self, before: Floats, after: Floats) -> Metric:
        """The columns of base and of tuned on the same rows."""
        n, clusters = len(before), cluster_array(self.clusters, len(before))
        base, tuned = (float(self.figure(columns.sum(0))) for columns in (before, after))
        count = len(np.unique(clusters))
        metric = Metric(base, tuned, n, kind=self.kind, clusters=count if count < n else None)
        old, new = before[:, 0], after[:, 0]
        if self.kind == "rate":
            low, high = paired_rates(old > 0, new > 0, clusters)
            gained, lost = int((new > old).sum()), int((old > new).sum())
            metric = replace(metric, low=low, high=high, gained=gained, lost=lost)
        elif interval := paired_bootstrap(before, after, self.figure, clusters):
            metric = replace(metric, low=interval[0], high=interval[1])
        p = sign_flip(new - old, clusters) if self.kind in ("rate", "mean") else None
        return replace(metric, p=p)


def has_figure(columns: Floats) -> bool:
    """Whether there are rows, and of a ratio something to divide by."""
    return len(columns) > 0 and bool(columns[:, 1:].any())


def loss_measures(clusters: Sequence[int] | None) -> list[Measure]:
    """Of losses alone.

    Args:
        clusters: a number for each held-out example; None where each stands alone.
    """
    return [
        Measure("held_out_loss", "ratio", lambda j: j.losses, clusters),
        # Another row's answer is as likely as the row's own where answers fit no prompt.
        Measure("relevance", "mean", relevance, clusters, lambda j: 0 * relevance(j)),
        Measure("train_loss", "ratio", lambda j: j.train_losses),
        Measure("general_loss", "ratio", lambda j: j.general),
    ]


def relevance(judgement: Judgement) -> Floats:
    """(n,) how much less likely another row's answer is than the row's own, in nats per token."""
    pairs = zip(judgement.swapped_losses, judgement.losses, strict=False)
    return np.array([other / w - own / v for (other, w), (own, v) in pairs])


def p_fit(judgement: Judgement, clusters: Sequence[int] | None) -> float:
    """The p-value of answers that are as likely after other prompts; 0 where that is not known."""
    gains = relevance(judgement)
    if not len(gains):
        return 0.0
    return sign_flip(gains, cluster_array(clusters, len(gains))) if gains.sum() > 0 else 1.0


def answer_measures(
    questions: Sequence[Question],
    form: AnswerFormat | None,
    structure: AnswerFormat | None,
    training_answers: Sequence[str],
) -> list[Measure]:
    """Of answers, but whether they are right.

    Args:
        form, structure: the format rule, and the format that has the parts of answers.
    """
    clusters = [q.cluster for q in questions]
    sizes = [q.reference_tokens for q in questions]
    listed = [
        Measure("stops_by_itself", "rate", lambda j: j.stopped, clusters),
        Measure("repeats", "rate", lambda j: list(map(repeats, j.answers)), clusters),
        Measure(
            "length_ratio", "ratio", lambda j: list(zip(j.tokens, sizes, strict=True)), clusters
        ),
    ]
    references = [q.reference for q in questions]
    if form:
        follows = form.follows
        listed.append(
            Measure("follows_format", "rate", lambda j: [follows(a.strip()) for a in j.answers],
                    clusters)
        )  # fmt: skip
    if form and form.labels:
        f1 = _f1_columns(references, form.labels)
        listed.append(Measure("macro_f1", "macro_f1", lambda j: f1(j.answers), clusters))
    if structure and structure.is_json:
        listed.append(
            Measure("json_valid", "rate", lambda j: list(map(structure.has_parts, j.answers)),
                    clusters)
        )  # fmt: skip
    return listed + (_copies(references, training_answers, clusters) if training_answers else [])


def _copies(
    references: Sequence[str], training_answers: Sequence[str], clusters: Sequence[int | None]
) -> list[Measure]:
    """How much of the answers stands in the training answers, beside the references' own."""
    copied = cache(copier(training_answers))

    def runs(texts: Sequence[str]) -> list[tuple[int, int]]:
        return [copied(text)[:2] for text in texts]

    def longest(texts: Sequence[str]) -> list[int]:
        return [copied(text)[2] for text in texts]

    return [
        Measure(
            "copied", "ratio", lambda j: runs(j.answers), clusters, lambda _: runs(references)
        ),
        Measure(
            "longest_copied", "mean", lambda j: longest(j.answers), clusters,
            lambda _: longest(references),
        ),
    ]  # fmt: skip


def _f1_columns(
    references: Sequence[str], labels: Sequence[str]
) -> Callable[[Sequence[str]], Floats]:
    """From answers to (n, 3 L) columns: right, wanted and given, for each wanted label."""
    number = {label: i for i, label in enumerate(labels)}
    # A reference outside the set counts as a label of its own.
    wanted = np.array([number.setdefault(normalized(r), len(number)) for r in references])
    every = np.unique(wanted)

    def columns(answers: Sequence[str]) -> Floats:
        answered = np.array([number.get(normalized(a), -1) for a in answers])
        right, named = wanted[:, None] == every, answered[:, None] == every
        return np.concatenate([right & named, right, named], axis=1).astype(float)

    return columns


def _macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the labels that occur among the references of a sample."""
    hits, wanted, answered = np.split(sums, 3, axis=-1)
    scores = np.where(wanted > 0, 2 * hits / np.maximum(wanted + answered, 1), 0.0)
    mean: Floats = scores.sum(-1) / (wanted > 0).sum(-1)
    return mean
