"""Per-row figures of one model, and what becomes of them when two models are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from biddable.judging.format import Format
from biddable.judging.intervals import paired_bootstrap, paired_rates
from biddable.judging.judge import Judgement, Question
from biddable.judging.metrics import copier, label_in, normalised, repeats, similarity, words

# References of at most this many tokens are compared as a whole.
SHORT_ANSWER = 8
# Last lines of at most this many words are compared where whole answers are too long to be.
SHORT_LINE = 8


@dataclass(frozen=True, slots=True)
class Series:
    """One figure as a ratio of sums over rows: a mean where every `over` is 1.

    Args:
        values, over: (n,) numerators and denominators.
        kind: `rate` (values are 0 or 1), `mean` or `ratio`.
    """

    values: NDArray[np.float64]
    over: NDArray[np.float64]
    kind: str = "ratio"

    def rows(self) -> NDArray[np.int64]:
        """All row numbers."""
        return np.arange(len(self.values))

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(...) the figure of samples of rows (..., n)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            quotient: NDArray[np.float64] = self.values[rows].sum(-1) / self.over[rows].sum(-1)
        return quotient


@dataclass(frozen=True, slots=True)
class Labels:
    """Macro F1 over the labels that occur among the references.

    Args:
        wanted, given: (n,) label numbers; -1 for an answer that names no label.
    """

    wanted: NDArray[np.int64]
    given: NDArray[np.int64]
    kind: str = "macro_f1"

    def rows(self) -> NDArray[np.int64]:
        """All row numbers."""
        return np.arange(len(self.wanted))

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(...) mean F1 of the labels present in each sample of rows (..., n)."""
        wanted, given = self.wanted[rows], self.given[rows]
        total, present = np.zeros(rows.shape[:-1]), np.zeros(rows.shape[:-1])
        for label in np.unique(self.wanted):
            hits = ((wanted == label) & (given == label)).sum(-1)
            there = (wanted == label).sum(-1)
            both = there + (given == label).sum(-1)
            total += np.where(there > 0, 2 * hits / np.maximum(both, 1), 0.0)
            present += there > 0
        mean: NDArray[np.float64] = total / present
        return mean


Figures = dict[str, Series | Labels]


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the scorecard.

    Args:
        base, tuned: the figure of each model.
        n: rows that it was measured on, the same for both.
        low, high: the 95 % interval of tuned - base over those rows; None where rows are too few.
        kind: `rate`, `mean`, `ratio` or `macro_f1`.
        reference: the same figure where it has one without a model (references against training
            answers; answers against the references of other rows).
        few_shot: the figure of base with training examples in its prompt.
        few_shot_low, few_shot_high: the interval of tuned - few_shot.
    """

    base: float
    tuned: float
    n: int
    low: float | None = None
    high: float | None = None
    kind: str = "ratio"
    reference: float | None = None
    few_shot: float | None = None
    few_shot_low: float | None = None
    few_shot_high: float | None = None


def compared(
    base: Series | Labels, tuned: Series | Labels
) -> tuple[float, float, int, tuple[float, float] | None]:
    """(figure of base, figure of tuned, rows, interval of the difference)."""
    rows = base.rows()
    n = len(rows)
    before, after = float(base.at(rows)), float(tuned.at(rows))
    interval: tuple[float, float] | None
    if isinstance(base, Series) and isinstance(tuned, Series) and base.kind == "rate":
        pairs = ([bool(v) for v in base.values], [bool(v) for v in tuned.values])
        interval = paired_rates(*pairs) if n else None
    else:
        interval = paired_bootstrap(lambda some: tuned.at(some) - base.at(some), n)
    return before, after, n, interval


def figures(
    judgement: Judgement,
    questions: Sequence[Question],
    training_answers: Sequence[str],
    form: Format | None,
) -> Figures:
    """Every figure that these rows allow."""
    found: Figures = {}
    if judgement.losses:
        found["held_out_loss"] = _ratio(judgement.losses)
    if judgement.swapped_losses:
        found["relevance"] = _mean([s / w - own / v for (s, w), (own, v) in _rows(judgement)])
    if questions:
        found |= _answer_figures(judgement, questions, form)
    if questions and training_answers:
        found |= copies(judgement.answers, training_answers)
    if judgement.train_losses:
        found["train_loss"] = _ratio(judgement.train_losses)
    if judgement.general:
        found["general_loss"] = _ratio(judgement.general)
    return {name: f for name, f in found.items() if isinstance(f, Labels) or f.over.sum() > 0}


def copies(answers: Sequence[str], training_answers: Sequence[str]) -> Figures:
    """How much of some texts stands in the training answers."""
    found = copier(training_answers)
    copied = [found(text) for text in answers]
    return {
        "copied": _ratio([(seen, runs) for seen, runs, _ in copied]),
        "longest_copied": _mean([longest for *_, longest in copied]),
    }


def chance_similarity(answers: Sequence[str], questions: Sequence[Question]) -> float | None:
    """Mean similarity of each answer to the next row's reference; None for fewer than two rows."""
    n = len(questions)
    if n < 2:
        return None
    others = [questions[(i + 1) % n].reference for i in range(n)]
    return sum(map(similarity, answers, others)) / n


def _answer_figures(
    judgement: Judgement, questions: Sequence[Question], form: Format | None
) -> Figures:
    answers, references = judgement.answers, [q.reference for q in questions]
    pairs = list(zip(answers, references, strict=True))
    found: Figures = {"stops_by_itself": _rate(judgement.stopped)}
    if form is not None:
        found["follows_format"] = _rate([form.follows(a.strip()) for a in answers])
        wanted = [form.parts(r) for r in references]
        # A choice that is the same in all references says nothing.
        if len(set(wanted) - {None}) > 1:
            given = [form.parts(a) for a in answers]
            right = [g is not None and g == w for g, w in zip(given, wanted, strict=True)]
            found["choices_match"] = _rate(right)
    if median(q.reference_tokens for q in questions) <= SHORT_ANSWER:
        found["exact_match"] = _rate([normalised(a) == normalised(r) for a, r in pairs])
    elif _short_last_lines(references):
        found["last_line_match"] = _rate([_last(a) == _last(r) for a, r in pairs])
    if form is not None and form.labels:
        found |= _label_figures(pairs, form.labels)
    if "exact_match" not in found:
        found["similarity"] = _mean([similarity(a, r) for a, r in pairs])
    found["repeats"] = _rate([repeats(a) for a in answers])
    lengths = zip(judgement.tokens, questions, strict=True)
    found["length_ratio"] = _ratio([(n, q.reference_tokens) for n, q in lengths])
    return found


def _label_figures(pairs: Sequence[tuple[str, str]], labels: Sequence[str]) -> Figures:
    number = {label: i for i, label in enumerate(labels)}
    given = [number.get(label_in(a, labels) or "", -1) for a, _ in pairs]
    # A reference outside the set can never be met; it counts as a label of its own.
    wanted = [number.setdefault(normalised(r), len(number)) for _, r in pairs]
    return {
        "accuracy": _rate([g == w for g, w in zip(given, wanted, strict=True)]),
        "macro_f1": Labels(np.array(wanted), np.array(given)),
    }


def _short_last_lines(references: Sequence[str]) -> bool:
    """Whether the references end in a short line of their own that says something."""
    lasts = [_last(r) for r in references]
    several = sum("\n" in r.strip() for r in references) > 0.9 * len(references)
    short = median(len(words(last)) for last in lasts) <= SHORT_LINE
    return several and short and len(set(lasts)) > len(lasts) / 3


def _last(text: str) -> str:
    return normalised(text.strip().rpartition("\n")[2])


def _rows(
    judgement: Judgement,
) -> list[tuple[Sequence[float], Sequence[float]]]:
    return list(zip(judgement.swapped_losses, judgement.losses, strict=False))


def _rate(values: Sequence[bool]) -> Series:
    return Series(np.array(values, dtype=float), np.ones(len(values)), "rate")


def _mean(values: Sequence[float]) -> Series:
    return Series(np.array(values, dtype=float), np.ones(len(values)), "mean")


def _ratio(pairs: Sequence[Sequence[float]]) -> Series:
    values, over = np.array(pairs, dtype=float).reshape(-1, 2).T
    return Series(values, over)
