"""Pictures for the report: SVG inside a page, in the page's own colors.

Readable without color: base is hollow and dashed, tuned is filled and solid.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from biddable.judging.intervals import wilson
from biddable.judging.metric import Metric, title

# Drawn in these colors, which nothing else has, and then replaced by those of the page.
_INK, _TUNED, _BASE = "#010203", "#010204", "#010205"
_PAGE_COLORS = {_INK: "currentColor", _TUNED: "var(--accent)", _BASE: "var(--caution)"}
_SMOOTHING = 0.8


def loss_curve(events: Sequence[Mapping[str, Any]]) -> Markup:
    """Training loss, faint and smoothed, with held-out loss as dots; the first dot is base.

    Args:
        events: those of log.jsonl; empty without a step.
    """
    steps = [e for e in events if e["event"] == "step"]
    evals = [e for e in events if e["event"] == "eval"]
    if not steps:
        return Markup()

    def draw(axes: Any) -> None:
        places = [e["step"] for e in steps]
        losses = [e["loss"] for e in steps]
        axes.plot(places, losses, color=_INK, alpha=0.25, linewidth=1)
        axes.plot(places, _smoothed(losses), color=_INK, linewidth=1.5, label="training, smoothed")
        for step, following in pairwise(steps):
            if int(following["epoch"]) > int(step["epoch"]):
                axes.axvline(following["step"], color=_INK, alpha=0.3, linestyle=":", linewidth=1)
        if evals:
            _held_out(axes, evals)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("step (dotted: an epoch begins)")
        axes.set_ylabel("loss per trained token")
        axes.legend(frameon=False, labelcolor=_INK)

    return _svg(draw, 3.0)


def lengths(tokens: Sequence[int], limit: int) -> Markup:
    """Histogram of example lengths, with the limit where it is near."""
    if not tokens:
        return Markup()

    def draw(axes: Any) -> None:
        axes.hist(tokens, bins=30, color=_TUNED, edgecolor=_INK, linewidth=0.4)
        if limit < 1.5 * max(tokens):
            axes.axvline(limit, color=_INK, linestyle="--")
            axes.annotate(f"limit {limit}", (limit, 0), color=_INK, rotation=90, va="bottom")
        axes.set_xlabel(f"tokens per example (limit {limit:,})")
        axes.set_ylabel("examples")

    return _svg(draw, 2.0)


def rates(metrics: Mapping[str, Metric]) -> Markup:
    """Each rate of base and tuned with its 95 % interval."""
    shown = [(title(name), m) for name, m in metrics.items() if m.kind == "rate"]
    if not shown:
        return Markup()

    def draw(axes: Any) -> None:
        for row, (_, metric) in enumerate(reversed(shown)):
            for value, shift, color, filled in (
                (metric.base, 0.16, _BASE, False),
                (metric.tuned, -0.16, _TUNED, True),
            ):
                low, high = (100 * x for x in wilson(value * metric.n, metric.n))
                line = "-" if filled else "--"
                axes.plot([low, high], [row + shift] * 2, color=color, linestyle=line)
                face = color if filled else "none"
                label = ("tuned" if filled else "base") if row == 0 else None
                axes.plot(
                    100 * value, row + shift, "o", color=color, markerfacecolor=face, label=label
                )
        axes.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)])
        axes.set_xlim(-2, 102)
        axes.set_xlabel("% of rows, with 95 % intervals")
        axes.legend(
            frameon=False, labelcolor=_INK, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2
        )

    return _svg(draw, 1.0 + 0.5 * len(shown))


def _held_out(axes: Any, evals: Sequence[Mapping[str, Any]]) -> None:
    places = [e["step"] for e in evals]
    losses = [e["held_out_loss"] for e in evals]
    best = min(range(len(evals)), key=losses.__getitem__)
    axes.plot(places, losses, "o-", color=_TUNED, linewidth=1, markersize=4, label="held out")
    axes.plot(
        places[best], losses[best], "o", markersize=11, markerfacecolor="none", color=_INK,
        label=f"best: {losses[best]:.3f} at step {places[best]}",
    )  # fmt: skip
    if places[0] == 0:
        axes.annotate("base", (0, losses[0]), xytext=(6, 0), textcoords="offset points", color=_INK)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean without the bias of its start."""
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + 1 - _SMOOTHING
        smooth.append(total / weight)
    return smooth


def _svg(draw: Callable[[Any], None], height: float) -> Markup:
    """One plot as an SVG element, the same bytes for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "biddable"}):
        mpl.rcParams["text.parse_math"] = False  # A name with dollar signs is no formula.
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        for name, spine in axes.spines.items():
            spine.set_color(_INK)
            spine.set_visible(name in ("left", "bottom"))
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    for placeholder, color in _PAGE_COLORS.items():
        drawn = drawn.replace(f": {placeholder}", f": {color}")
    # Matplotlib escapes the texts that it writes.
    return Markup(drawn[drawn.index("<svg") :])
