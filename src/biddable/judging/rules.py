"""The decision: an ordered list of rules, of which the first that holds gives the outcome. Pure.

docs/verdict.md has them as a table, with the real runs that they were set by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from biddable.judging.intervals import ALPHA
from biddable.judging.metric import FIELD, Metric
from biddable.judging.standings import (
    CHANCE,
    HELD,
    KEPT,
    LEARNED,
    LOST,
    RATE_CHANGE,
    ROUNDING,
    UNSURE,
)

Outcome = Literal[
    "learned", "partly", "format_only", "loss_only", "overfit", "worse", "no_change", "too_few",
    "leaked", "interrupted",
]  # fmt: skip

# Ways to say that a whole answer is right; the first that is there decides.
WHOLES = (
    "user_metric", "json_match", "choices_match", "accuracy", "exact_match", "last_line_match",
    "similarity",
)  # fmt: skip
FORMS = ("stops_by_itself", "follows_format", "json_valid")
FEWEST_ROWS = 8
# A change of loss below this share of base's is none.
LOSS_CHANGE = 0.02
# Training loss below this share of eval loss, and by so many nats per token, is memory.
MEMORY, MEMORY_GAP = 0.5, 0.3
# Of answers with several parts, the share that has to be right as a whole.
MOSTLY_RIGHT = 0.5
# What base kept in a smaller share of its answers is no form that could be lost.
HAD_FORM = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules look at.

    Args:
        metrics: of the scorecard.
        leaked: training knew every held-out row.
        fixed: all training answers are the same text.
    """

    metrics: Mapping[str, Metric]
    leaked: bool = False
    fixed: bool = False

    @property
    def loss(self) -> Metric | None:
        """The eval loss."""
        return self.metrics.get("held_out_loss")

    @property
    def parts(self) -> dict[str, Metric]:
        """Fields, choices and slots that are judged on their own."""
        return {n: m for n, m in self.metrics.items() if n.startswith(FIELD) and m.standing != ""}

    @property
    def whole(self) -> tuple[str, Metric] | None:
        """The metric that says whether a whole answer is right.

        None for objects with prose in them: no prose is ever written twice.
        """
        name = next((n for n in WHOLES if n in self.metrics), None)
        prose = any(m.kind == "mean" for m in self.parts.values())
        return None if name is None or (prose and name == "json_match") else (
            name, self.metrics[name]
        )  # fmt: skip

    def contents(self) -> list[tuple[str, Metric]]:
        """The whole and its parts."""
        return [*([self.whole] if self.whole else []), *self.parts.items()]

    def standing(self, *standings: str) -> list[str]:
        """The contents that stand so, by name."""
        return [name for name, metric in self.contents() if metric.standing in standings]

    def independent_rows(self) -> int:
        """Independent rows behind the verdict."""
        measured = [self.loss, self.whole[1] if self.whole else self.loss]
        return min(0 if metric is None else metric.independent for metric in measured)


def deciding(names: Iterable[str]) -> list[str]:
    """Of the content metrics those that are tested together: the whole, and its parts."""
    listed = list(names)
    whole = [name for name in WHOLES if name in listed][:1]
    parts = [] if whole == ["user_metric"] else [n for n in listed if n.startswith(FIELD)]
    return [*whole, *parts]


def broken(case: Case) -> bool:
    return case.loss is not None and not isfinite(case.loss.tuned)


def few(case: Case) -> bool:
    return case.independent_rows() < FEWEST_ROWS


def lost_forms(case: Case) -> list[tuple[str, Metric]]:
    """Stops, format and valid JSON that surely fell."""
    forms = [(name, case.metrics[name]) for name in FORMS if name in case.metrics]
    return [(name, metric) for name, metric in forms if fell_surely(metric)]


def _form_lost(case: Case) -> bool:
    """Whether base had a form, or content, that a lost form takes from the user."""
    lost = lost_forms(case)
    had = any(metric.base >= HAD_FORM for _, metric in lost) or bool(case.standing(HELD, KEPT))
    return bool(lost) and (had or not loss_fell(case))


def _learned(case: Case) -> bool:
    if not case.standing(LEARNED) or any(
        metric.standing in (CHANCE, UNSURE) for metric in case.parts.values()
    ):
        return False
    if not case.parts or case.whole is None:
        return True
    return case.whole[1].standing == LEARNED and case.whole[1].tuned >= MOSTLY_RIGHT


def _partly(case: Case) -> bool:
    return bool(case.standing(LEARNED))


def _overfit(case: Case) -> bool:
    train, loss = case.metrics.get("train_loss"), case.loss
    if train is None or loss is None or case.standing(HELD, KEPT):
        return False
    gap = loss.tuned - train.tuned
    return train.tuned <= MEMORY * loss.tuned and gap >= MEMORY_GAP - ROUNDING


def _rose(case: Case) -> bool:
    loss = case.loss
    sure = loss is not None and loss.low is not None and loss.low > 0
    return sure and loss is not None and loss.tuned > (1 + LOSS_CHANGE) * loss.base


def _formed(case: Case) -> bool:
    style = [case.whole[1]] if case.whole and case.whole[0] != "user_metric" else []
    return any(
        metric.p is not None
        and metric.p < ALPHA
        and metric.tuned - metric.base >= RATE_CHANGE - ROUNDING
        for metric in [*_forms(case), *style]
    )


def kept(case: Case) -> bool:
    return case.whole is not None and case.whole[1].standing == KEPT


def loss_fell(case: Case) -> bool:
    loss = case.loss
    sure = loss is not None and loss.high is not None and loss.high < 0
    return sure and loss is not None and loss.tuned < (1 - LOSS_CHANGE) * loss.base


def _flat(case: Case) -> bool:
    loss = case.loss
    if loss is None or loss.low is None or loss.high is None:
        return False
    return loss.high - loss.low < 4 * LOSS_CHANGE * loss.base


def _forms(case: Case) -> list[Metric]:
    return [case.metrics[name] for name in FORMS if name in case.metrics]


def fell_surely(metric: Metric) -> bool:
    sure = metric.p is not None and metric.p < ALPHA
    return sure and metric.base - metric.tuned >= RATE_CHANGE - ROUNDING


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the decision table.

    Args:
        when: the condition in words.
        holds: the condition.
        outcome: what then happened.
    """

    when: str
    holds: Callable[[Case], bool]
    outcome: Outcome


RULES = (
    Rule("the eval loss of tuned is no finite number", broken, "worse"),
    Rule("training knew every eval row", lambda case: case.leaked, "leaked"),
    Rule(f"fewer than {FEWEST_ROWS} independent rows were judged or answered", few, "too_few"),
    Rule(
        f"content surely fell, by {100 * RATE_CHANGE:.0f} points or more",
        lambda case: bool(case.standing(LOST)), "worse",
    ),
    Rule(
        "some content is learned, but stops, format or valid JSON surely fell, by "
        f"{100 * RATE_CHANGE:.0f} points or more",
        lambda case: _partly(case) and bool(lost_forms(case)), "partly",
    ),
    Rule(
        f"stops, format or valid JSON surely fell, which at least {100 * HAD_FORM:.0f} % of base's "
        "answers had; or which fewer had, but content is held or kept, or the eval loss did not "
        "fall",
        _form_lost, "worse",
    ),
    Rule(
        "content is learned: the whole answer, or of answers in parts the whole for at least "
        f"{100 * MOSTLY_RIGHT:.0f} % of rows and no part at chance or unsure",
        _learned, "learned",
    ),
    Rule("some content is learned", _partly, "partly"),
    Rule(
        f"training loss is at most {MEMORY:g} of eval loss and {MEMORY_GAP:g} nats per token below "
        "it, and no content is held or kept",
        _overfit, "overfit",
    ),
    Rule(f"eval loss surely rose, by more than {100 * LOSS_CHANGE:.0f} %", _rose, "worse"),
    Rule(
        "stops, format, valid JSON or likeness to the references surely rose, by "
        f"{100 * RATE_CHANGE:.0f} points or more",
        _formed, "format_only",
    ),
    Rule("base was right before and tuned still is (content is kept)", kept, "no_change"),
    Rule(f"eval loss surely fell, by more than {100 * LOSS_CHANGE:.0f} %", loss_fell, "loss_only"),
    Rule("the interval of the eval loss is narrow enough to call it unchanged", _flat, "no_change"),
    Rule("anything else", lambda case: True, "too_few"),
)  # fmt: skip


def table() -> str:
    """The decision table as Markdown."""
    rows = [f"| {i} | {rule.when} | `{rule.outcome}` |" for i, rule in enumerate(RULES, 1)]
    return "\n".join(["| | the first that holds | outcome |", "|---|---|---|", *rows])
