"""A scorecard as lines of text, at most 80 columns wide, or 60 with the names above the figures."""

from __future__ import annotations

from biddable.judging.metric import Metric, figure, title
from biddable.judging.scorecard import Scorecard

LONGEST_RULE = 300
LONGEST_NAME = 30
# Columns of the figures, and those of the few-shot baseline among them.
FIGURES, FEW_SHOT = 41, 9


def card_lines(card: Scorecard, columns: int = 80) -> list[str]:
    """The scorecard as lines of text; beside the models the best answer without one."""
    rival = any(m.few_shot is not None for m in card.metrics.values())
    width = min(LONGEST_NAME, max((len(title(name)) for name in card.metrics), default=0))

    def row(name: str, cells: list[str], change: str) -> str:
        base, few_shot, tuned, baseline = cells
        shown = f"{base:>7}" + (f"{few_shot:>9}" if rival else "")
        figures = f"{shown}{tuned:>7}{baseline:>9}  {change}".rstrip()
        if width + FIGURES + FEW_SHOT * rival > columns:
            return f"{name}\n{figures}" if name else figures
        return f"{name[:width]:{width}}{figures}"

    lines = [row("", ["base", "few-shot", "tuned", "no model"], "change (95 % CI)")]
    for name, m in card.metrics.items():
        cells = [number(m, value) for value in (m.base, m.few_shot, m.tuned, m.baseline)]
        lines += row(title(name), cells, difference(m)).split("\n")
    if card.format:
        long = len(card.format) > LONGEST_RULE
        lines.append(f"format rule: {card.format[:LONGEST_RULE]}{'…' if long else ''}")
    return lines


def number(metric: Metric, value: float | None) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else figure(metric.kind, value)


def difference(metric: Metric) -> str:
    """The interval of tuned - base; of rates in points."""
    if metric.low is None or metric.high is None:
        return f"n {metric.n}"
    if metric.kind == "rate":
        return f"{100 * metric.low:+.0f} to {100 * metric.high:+.0f}"
    return f"{metric.low:+.2f} to {metric.high:+.2f}"
