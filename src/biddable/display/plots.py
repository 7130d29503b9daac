"""The loss curve of the report, as SVG in the page's own colors, and histograms."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

# Drawn in these colors, and then given those of the page.
_INK, _ACCENT = "#010203", "#010204"
_PAGE_COLORS = {_INK: "currentColor", _ACCENT: "var(--accent)"}
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

    return _svg(draw)


def histogram(values: Sequence[int], bins: int) -> list[int]:
    """How many values are in each of equal bins from 0 to the largest."""
    counts: list[int] = np.histogram(values, bins, (0, max(values, default=0) + 1))[0].tolist()
    return counts


def _held_out(axes: Any, evals: Sequence[Mapping[str, Any]]) -> None:
    places = [e["step"] for e in evals]
    losses = [e["held_out_loss"] for e in evals]
    best = min(range(len(evals)), key=losses.__getitem__)
    axes.plot(places, losses, "o-", color=_ACCENT, linewidth=1, markersize=4, label="held out")
    axes.plot(
        places[best], losses[best], "o", markersize=11, markerfacecolor="none", color=_INK,
        label=f"best: {losses[best]:.3f} at step {places[best]}",
    )  # fmt: skip
    if places[0] == 0:
        axes.annotate("base", (0, losses[0]), xytext=(6, 0), textcoords="offset points", color=_INK)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean without the bias of its start."""
    from scipy.signal import lfilter

    total, weight = (
        lfilter([1 - _SMOOTHING], [1, -_SMOOTHING], row) for row in (values, np.ones(len(values)))
    )
    smooth: list[float] = (total / weight).tolist()
    return smooth


def _svg(draw: Callable[[Any], None]) -> Markup:
    """One plot as an SVG element, the same bytes for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "biddable"}):
        figure = Figure(figsize=(7.5, 3.0), layout="constrained")
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
