"""One sentence on what the tuning did, with its evidence, from few rules. Pure.

The rules, in the order in which they are tried, are told in docs/verdict.md with the real runs that
they were set by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from biddable.judging.series import Metric

Outcome = Literal[
    "learned", "partly", "format_only", "loss_only", "overfit", "worse", "no_change", "too_few",
    "leaked", "interrupted",
]  # fmt: skip

SENTENCES: Mapping[Outcome, str] = {
    "learned": "It learnt it.",
    "format_only": "It learnt the format, not the content.",
    "loss_only": "It began to learn, but its answers do not show it.",
    "overfit": "It memorised the training rows.",
    "no_change": "No change.",
    "worse": "It got worse.",
    "too_few": "Too few held-out rows to tell.",
}
# Metrics that speak of content, the first that is there decides.
CONTENT = ("accuracy", "exact_match", "last_line_match", "choices_match", "relevance")
FEWEST_ROWS = 8
# A change of loss below this share of base's is none.
LOSS_CHANGE = 0.02
# A rate has to move by this much to count as moved.
RATE_CHANGE = 0.1
# Nats per token by which the own answer has to gain on another row's.
RELEVANCE_CHANGE = 0.02
# Training loss below this share of held-out loss is memory.
MEMORY = 0.5
# Share of 8-word runs that answers may take from training beyond what references share with it.
COPIED_MORE = 0.25
# Few-shot within this of tuned is as good.
AS_GOOD = 0.05


ADVICE: Mapping[Outcome, str] = {
    "learned": "",
    "format_only": "facts and skills need more rows, or a larger base; look at the answers",
    "loss_only": "more epochs, or a larger learning rate",
    "overfit": "more rows, or fewer epochs",
    "no_change": "a larger learning rate, or more epochs",
    "worse": "a smaller learning rate; look at the data with `biddable check`",
    "too_few": "hold out more rows, or give them with --eval",
}
# Metrics told as evidence, and their short names.
EVIDENCE = (
    ("held_out_loss", "held-out loss"),
    ("train_loss", "training loss"),
    ("stops_by_itself", "stops"),
    ("follows_format", "format"),
    ("accuracy", "accuracy"),
    ("exact_match", "exact"),
    ("last_line_match", "last line right"),
    ("choices_match", "choices right"),
    ("relevance", "fits its question"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened.

    Args:
        outcome: a stable name.
        sentence: the outcome in words.
        evidence: the figures that the rule looked at.
        suggestion: what to try next, empty where nothing is to be done.
    """

    outcome: Outcome
    sentence: str
    evidence: str
    suggestion: str = ""

    def as_json(self) -> dict[str, str]:
        """The object that scorecard.json and `--json` hold as `verdict`."""
        return asdict(self)


INTERRUPTED = Verdict(
    "interrupted", "Interrupted before the end: not judged.", "", "go on with --resume"
)


def decide(metrics: Mapping[str, Metric]) -> Verdict:
    """The verdict on a scorecard's metrics."""
    loss = metrics.get("held_out_loss")
    if loss is None or loss.n < FEWEST_ROWS:
        return _verdict("too_few", metrics, "hold out more rows, or give them with --eval")
    outcome = _outcome(metrics, loss)
    advice = ADVICE[outcome]
    if outcome in ("learned", "format_only") and few_shot_as_good(metrics):
        advice = "examples in the prompt alone do as well: the tuning was not needed"
    return _verdict(outcome, metrics, advice)


def _outcome(metrics: Mapping[str, Metric], loss: Metric) -> Outcome:
    fell, rose = _fell(loss), _rose(loss)
    content = next((metrics[name] for name in CONTENT if name in metrics), None)
    rates = [metrics[name] for name in ("stops_by_itself", "follows_format") if name in metrics]
    better = any(map(_gained, rates)) or (content is not None and _gained(content))
    worse = any(map(_lost, rates)) or (content is not None and _lost(content))
    proven = content is not None and content.kind == "rate" and _has_content(content)
    if memorised(metrics, loss, proven):
        return "overfit"
    if rose or (worse and not fell):
        return "worse"
    if content is not None and _has_content(content) and (fell or better):
        return "learned"
    if fell or better:
        return "format_only" if better or _in_form(metrics) else "loss_only"
    certain = loss.high is not None and loss.low is not None
    narrow = certain and loss.high - loss.low < 4 * LOSS_CHANGE * loss.base  # type: ignore[operator]
    return "no_change" if narrow else "too_few"


def memorised(metrics: Mapping[str, Metric], loss: Metric, proven: bool) -> bool:
    """Whether the rows of training are known by heart, and the others are none the better or
    nothing in the answers themselves shows it.

    Args:
        proven: answers to held-out prompts are right more often; losses alone do not say that.
    """
    train = metrics.get("train_loss")
    if train is None or train.tuned > MEMORY * loss.tuned:
        return False
    copied = metrics.get("copied")
    parrots = (
        copied is not None
        and copied.reference is not None
        and copied.tuned - copied.reference > COPIED_MORE
    )
    return not proven or not _fell(loss) or parrots


def few_shot_as_good(metrics: Mapping[str, Metric]) -> bool:
    """Whether base with examples in its prompt is as good as tuned in format and content."""
    names = ("follows_format", "stops_by_itself", *CONTENT)
    found = [m for m in (metrics.get(name) for name in names) if m and m.few_shot is not None]
    return bool(found) and all(
        m.few_shot is not None and m.tuned - m.few_shot < AS_GOOD for m in found
    )


def _has_content(metric: Metric) -> bool:
    """Whether content was gained, or was there before and was kept."""
    if metric.kind == "rate":
        return _gained(metric) or (metric.base > 1 - RATE_CHANGE and not _lost(metric))
    return _gained(metric)


def _in_form(metrics: Mapping[str, Metric]) -> bool:
    """Whether nearly all answers keep the format, where a rule of it is known."""
    form = metrics.get("follows_format")
    return form is None or form.tuned > 1 - RATE_CHANGE


def _fell(loss: Metric) -> bool:
    sure = loss.high is not None and loss.high < 0
    return sure and loss.tuned < (1 - LOSS_CHANGE) * loss.base


def _rose(loss: Metric) -> bool:
    sure = loss.low is not None and loss.low > 0
    # A model that gives infinities has no interval.
    broken = not math.isfinite(loss.tuned)
    return broken or (sure and loss.tuned > (1 + LOSS_CHANGE) * loss.base)


def _gained(metric: Metric) -> bool:
    least = RATE_CHANGE if metric.kind == "rate" else RELEVANCE_CHANGE
    return metric.low is not None and metric.low > 0 and metric.tuned - metric.base >= least


def _lost(metric: Metric) -> bool:
    least = RATE_CHANGE if metric.kind == "rate" else RELEVANCE_CHANGE
    return metric.high is not None and metric.high < 0 and metric.base - metric.tuned >= least


def _verdict(outcome: Outcome, metrics: Mapping[str, Metric], advice: str) -> Verdict:
    told = []
    for name, words in EVIDENCE:
        metric = metrics.get(name)
        if metric is not None:
            percent = metric.kind == "rate"
            shown = [
                f"{100 * x:.0f} %" if percent else f"{x:z.2f}" for x in (metric.base, metric.tuned)
            ]
            told.append(f"{words} {shown[0]} -> {shown[1]}")
    held_out = metrics.get("held_out_loss")
    told.append(f"{held_out.n if held_out else 0} held-out rows")
    return Verdict(outcome, SENTENCES[outcome], ", ".join(told), advice)
