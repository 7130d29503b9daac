"""A scorecard as lines of text."""

from __future__ import annotations

from biddable.judging.intervals import wilson
from biddable.judging.scorecard import NAMES, Scorecard
from biddable.judging.series import Metric

LONGEST_RULE = 300


def card_lines(card: Scorecard) -> list[str]:
    """The scorecard as lines of text."""
    rival = any(m.few_shot is not None for m in card.metrics.values())
    heads = ["base", *(["few-shot"] if rival else []), "tuned"]
    shown = [f"{'':22}" + "".join(f"{head:>22}" for head in heads) + "   difference, 95 %"]
    for name, metric in card.metrics.items():
        cells = [metric.base, *([metric.few_shot] if rival else []), metric.tuned]
        text = "".join(f"{cell(metric, value):>22}" for value in cells)
        note = f"   references: {number(metric, metric.reference)}" if metric.reference else ""
        shown.append(f"{NAMES[name][0]:22}{text}   {difference(metric)}{note}")
    if card.format:
        long = len(card.format) > LONGEST_RULE
        shown.append(f"format rule: {card.format[:LONGEST_RULE]}{'…' if long else ''}")
    return shown


def cell(metric: Metric, value: float | None) -> str:
    """A figure, for rates with its own 95 % interval."""
    if value is None:
        return "-"
    if metric.kind != "rate":
        return number(metric, value)
    low, high = wilson(round(value * metric.n), metric.n)
    return f"{number(metric, value)} ({100 * low:.0f} to {100 * high:.0f})"


def number(metric: Metric, value: float) -> str:
    return f"{100 * value:.0f} %" if metric.kind == "rate" else f"{value:z.3f}"


def difference(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"n {metric.n}"
    low, high = metric.low, metric.high
    if metric.kind == "rate":
        return f"{100 * low:+.0f} to {100 * high:+.0f} points, n {metric.n}"
    return f"{low:+.3f} to {high:+.3f}, n {metric.n}"
