"""Per-row figures of one model, and what becomes of them when two models are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biddable.judging.format import AnswerFormat
from biddable.judging.intervals import (
    Clusters,
    Floats,
    Statistic,
    cluster_numbers,
    paired_bootstrap,
    paired_rates,
    sign_flip,
)
from biddable.judging.judge import Judgement, Question
from biddable.judging.metric import Metric
from biddable.judging.text_measures import copier, normalized, repeats


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, made of column sums over rows.

    Args:
        columns: (n, k) numbers of each row.
        clusters: (n,) rows of one number belong together.
        kind: `rate` (0 or 1 a row), `mean`, `ratio` or `macro_f1`.
        figure: from (..., k) sums to the figure; a quotient if not given.
    """

    columns: Floats
    clusters: Clusters
    kind: str = "ratio"
    figure: Statistic | None = None

    @property
    def statistic(self) -> Statistic:
        """From column sums to the figure."""
        return self.figure or _quotient

    @property
    def value(self) -> float:
        """The figure over all rows."""
        return float(self.statistic(self.columns.sum(0)))


Figures = dict[str, Series]


def compared(base: Series, tuned: Series) -> Metric:
    """Two models on the same rows."""
    n, count = len(base.columns), len(np.unique(base.clusters))
    before, after = base.columns[:, 0], tuned.columns[:, 0]
    gained = lost = p = None
    if base.kind == "rate":
        pairs = ([bool(v) for v in before], [bool(v) for v in after])
        interval = paired_rates(*pairs, base.clusters) if n else None
        gained, lost = int((after > before).sum()), int((before > after).sum())
    else:
        interval = paired_bootstrap(base.columns, tuned.columns, base.statistic, base.clusters)
    if base.kind in ("rate", "mean"):
        p = sign_flip(after - before, base.clusters)
    low, high = interval or (None, None)
    return Metric(
        base.value, tuned.value, n, low, high, base.kind,
        gained=gained, lost=lost, p=p, clusters=count if count < n else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """What all judgements of the same rows are held against.

    Args:
        questions: the answered rows.
        example_clusters: a number for each held-out example; None where each stands alone.
        form, structure: the format rule, and the format that has the parts of answers.
        training_answers: for copies.
    """

    questions: Sequence[Question]
    example_clusters: Sequence[int] | None = None
    form: AnswerFormat | None = None
    structure: AnswerFormat | None = None
    training_answers: Sequence[str] = ()

    def answered(self) -> Clusters:
        """(n,) the cluster of each answered row."""
        return cluster_numbers([q.cluster for q in self.questions])

    def fed(self, count: int) -> Clusters:
        """(count,) the cluster of each of the first held-out examples."""
        known = self.example_clusters
        return cluster_numbers([None] * count if known is None else list(known[:count]))


def figures(judgement: Judgement, rows: Rows) -> Figures:
    """Every figure that these rows allow, but those of content."""
    found: Figures = {}
    losses, swapped = judgement.losses, judgement.swapped_losses
    if losses:
        found["held_out_loss"] = ratio(losses, rows.fed(len(losses)))
    if swapped:
        gains = [s / w - own / v for (s, w), (own, v) in zip(swapped, losses, strict=False)]
        found["relevance"] = each(gains, rows.fed(len(gains)), "mean")
    if rows.questions:
        found |= _answer_figures(judgement, rows)
    for name, sums in (("train_loss", judgement.train_losses), ("general_loss", judgement.general)):
        if sums:
            found[name] = ratio(sums, cluster_numbers([None] * len(sums)))
    return {name: f for name, f in found.items() if f.kind == "macro_f1" or f.columns[:, 1].sum()}


def copies(answers: Sequence[str], training_answers: Sequence[str], clusters: Clusters) -> Figures:
    """How much of some texts stands in the training answers."""
    seen_in = copier(training_answers)
    copied = [seen_in(text) for text in answers]
    return {
        "copied": ratio([(seen, runs) for seen, runs, _ in copied], clusters),
        "longest_copied": each([longest for *_, longest in copied], clusters, "mean"),
    }


def _answer_figures(judgement: Judgement, rows: Rows) -> Figures:
    answers, clusters, form = judgement.answers, rows.answered(), rows.form
    found: Figures = {"stops_by_itself": each(judgement.stopped, clusters)}
    if form:
        found["follows_format"] = each([form.follows(a.strip()) for a in answers], clusters)
    structure = rows.structure
    if structure and structure.is_json and structure.read:
        values = map(structure.read, answers)
        found["json_valid"] = each([isinstance(v, dict | list) for v in values], clusters)
    elif form and form.labels:
        references = [q.reference for q in rows.questions]
        found["macro_f1"] = _macro_f1(answers, references, form.labels, clusters)
    if rows.training_answers:
        found |= copies(answers, rows.training_answers, clusters)
    found["repeats"] = each([repeats(a) for a in answers], clusters)
    lengths = zip(judgement.tokens, rows.questions, strict=True)
    found["length_ratio"] = ratio([(n, q.reference_tokens) for n, q in lengths], clusters)
    return found


def _macro_f1(
    answers: Sequence[str], references: Sequence[str], labels: Sequence[str], clusters: Clusters
) -> Series:
    """Mean F1 of the labels that occur among the references of a sample."""
    number = {label: i for i, label in enumerate(labels)}
    given = np.array([number.get(normalized(a), -1) for a in answers])
    # A reference outside the set can never be met; it counts as a label of its own.
    wanted = np.array([number.setdefault(normalized(r), len(number)) for r in references])
    every = np.unique(wanted)
    asked, named = wanted[:, None] == every, given[:, None] == every
    columns = np.concatenate([asked & named, asked, named], axis=1).astype(float)

    def figure(sums: Floats) -> Floats:
        hits, there, said = np.split(sums, 3, axis=-1)
        scores = np.where(there > 0, 2 * hits / np.maximum(there + said, 1), 0.0)
        mean: Floats = scores.sum(-1) / (there > 0).sum(-1)
        return mean

    return Series(columns, clusters, "macro_f1", figure)


def _quotient(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Floats = sums[..., 0] / sums[..., 1]
    return quotient


def each(values: Sequence[float] | Floats, clusters: Clusters, kind: str = "rate") -> Series:
    """One number a row: a rate or a mean."""
    column = np.array(values, dtype=float)
    return Series(np.stack([column, np.ones(len(column))], axis=1), clusters, kind)


def ratio(pairs: Sequence[Sequence[float]], clusters: Clusters) -> Series:
    """The quotient of two sums over rows."""
    return Series(np.array(pairs, dtype=float).reshape(-1, 2), clusters)
