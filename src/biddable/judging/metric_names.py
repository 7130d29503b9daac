"""What metrics are called, which way is better, and how their figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Better = Literal["higher", "lower", "neither"]
FIELD = "field:"
# The metrics in the order in which they are shown: the key, its name, and which way is better.
NAMES: Mapping[str, tuple[str, Better]] = {
    "held_out_loss": ("eval loss", "lower"),
    "stops_by_itself": ("ends with a stop token", "higher"),
    "follows_format": ("format match", "higher"),
    "json_valid": ("valid JSON", "higher"),
    "user_metric": ("your metric", "higher"),
    "json_match": ("whole object right", "higher"),
    "choices_match": ("all slots right", "higher"),
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


def figure(kind: str, value: float, digits: int = 2) -> str:
    """A rate as per cent, anything else with so many digits."""
    return f"{100 * value:.0f} %" if kind == "rate" else f"{value:z.{digits}f}"
