"""A line of the scorecard: its figures, its name, which way is better, how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]
Kind = Literal["rate", "mean", "ratio", "macro_f1"]
FIELD = "field:"
# The metrics in the order in which they are shown: the key, its name, and which way is better.
NAMES: Mapping[str, tuple[str, Better]] = {
    "held_out_loss": ("eval loss", "lower"),
    "stops_by_itself": ("ends with a stop token", "higher"),
    "follows_format": ("format match", "higher"),
    "json_valid": ("valid JSON", "higher"),
    "user_metric": ("your metric", "higher"),
    "json_match": ("whole object right", "higher"),
    "choices_match": ("all parts right", "higher"),
    "accuracy": ("label accuracy", "higher"),
    "macro_f1": ("macro F1", "higher"),
    "exact_match": ("exact match", "higher"),
    "last_line_match": ("last line right", "higher"),
    "similarity": ("ROUGE-L", "higher"),
    "relevance": ("answer relevance", "higher"),
    "copied": ("8-gram overlap with training", "neither"),
    "longest_copied": ("longest overlap, words", "neither"),
    "repeats": ("repeats itself", "lower"),
    "length_ratio": ("length ratio", "neither"),
    "train_loss": ("training loss", "lower"),
    "general_loss": ("general text loss (forgetting)", "lower"),
}
_ORDER = list(NAMES)


def title(name: str) -> str:
    """What users read; a field's is its path."""
    return name.removeprefix(FIELD) if name.startswith(FIELD) else NAMES[name][0]


def place_of(name: str) -> int:
    """The place of a metric on the scorecard; fields follow the whole that they are parts of."""
    return _ORDER.index("choices_match" if name.startswith(FIELD) else name)


def figure(kind: Kind, value: float, digits: int = 2) -> str:
    """A rate in percent, anything else with `digits` decimals."""
    return f"{100 * value:.0f} %" if kind == "rate" else f"{value:z.{digits}f}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the scorecard.

    Args:
        base, tuned: the figure of each model.
        n: rows that it was measured on, the same for both.
        low, high: the 95 % interval of tuned - base over those rows; None where rows are too few.
        kind: a `rate` of rows, a `mean` over rows, a `ratio` of two sums, or `macro_f1`.
        baseline: the same figure of the best answer without a model, where it has one.
        gained, lost: rows that only tuned and only base has right; of rates.
        p: the exact two-sided p-value of tuned against base, of rates and means.
        p_content: of content, the largest of the p-values against base, against the baseline and
            of no relation to the references, corrected for the number of content metrics (Holm).
        standing: of content, what the p-values and figures come to; see standings.py.
        clusters: independent clusters of rows, where they are fewer than n.
        few_shot: the figure of base with training examples in its prompt.
        few_shot_low, few_shot_high: the interval of tuned - few_shot.
    """

    base: float
    tuned: float
    n: int
    low: float | None = None
    high: float | None = None
    kind: Kind = "ratio"
    baseline: float | None = None
    gained: int | None = None
    lost: int | None = None
    p: float | None = None
    p_content: float | None = None
    standing: str = ""
    clusters: int | None = None
    few_shot: float | None = None
    few_shot_low: float | None = None
    few_shot_high: float | None = None

    @property
    def independent(self) -> int:
        """Rows that are independent of each other."""
        return self.n if self.clusters is None else self.clusters
