"""What the verdict's rules look at, and how their figures are written in a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from biddable.judging.intervals import ALPHA
from biddable.judging.metric import FIELD, Metric, figure, title
from biddable.judging.standings import CLOSED, HELD, KEPT, RATE_CHANGE, ROUNDING, UNSURE

# Ways to say that a whole answer is right; the first that is there decides.
WHOLES = (
    "user_metric", "json_match", "choices_match", "accuracy", "exact_match", "last_line_match",
    "similarity",
)  # fmt: skip
FORMS = ("stops_by_itself", "follows_format", "json_valid")
# A change of loss below this share of base's loss counts as none.
LOSS_CHANGE = 0.02
# A form can only be lost if base had it in at least this share of its answers.
HAD_FORM = 0.5
# Few-shot counts as good as tuned within this difference.
AS_GOOD = 0.05


def deciding(names: Iterable[str]) -> list[str]:
    """The content metrics that are tested together: the whole answer, and its parts."""
    listed = list(names)
    names = [name for name in WHOLES if name in listed][:1]
    parts = [] if names == ["user_metric"] else [n for n in listed if n.startswith(FIELD)]
    return [*names, *parts]


@dataclass(frozen=True, slots=True)
class Case:
    """A comparison to be judged.

    Args:
        metrics: of the scorecard.
        leaked: training knew every held-out row.
        fixed: all training answers are the same text.
    """

    metrics: Mapping[str, Metric]
    leaked: bool = False
    fixed: bool = False

    @property
    def loss(self) -> Metric:
        """The eval loss; a metric with n 0 where it was not measured."""
        return self.metrics.get("held_out_loss") or Metric(0.0, 0.0, 0)

    @property
    def parts(self) -> dict[str, Metric]:
        """Fields, choices and slots that are judged on their own."""
        return {n: m for n, m in self.metrics.items() if n.startswith(FIELD) and m.standing != ""}

    @property
    def whole_answer(self) -> dict[str, Metric]:
        """The metric that says whether a whole answer is right, if there is one.

        None for objects with prose in them: no prose is ever written twice.
        """
        name = next((n for n in WHOLES if n in self.metrics), "")
        prose = any(m.kind == "mean" for m in self.parts.values())
        return {} if not name or (prose and name == "json_match") else {name: self.metrics[name]}

    @property
    def contents(self) -> dict[str, Metric]:
        """The whole and its parts."""
        return self.whole_answer | self.parts

    def standing(self, *standings: str) -> dict[str, Metric]:
        """The contents with one of these standings."""
        return {n: m for n, m in self.contents.items() if m.standing in standings}

    @property
    def independent_rows(self) -> int:
        """Independent rows behind the verdict."""
        return min(m.independent for m in (self.loss, *self.whole_answer.values()))

    @property
    def forms(self) -> dict[str, Metric]:
        """Stops, format and valid JSON."""
        return {n: self.metrics[n] for n in FORMS if n in self.metrics}

    @property
    def lost_forms(self) -> dict[str, Metric]:
        """The forms that surely fell."""
        return {n: m for n, m in self.forms.items() if surely(m, m.base - m.tuned)}

    @property
    def form_taken(self) -> bool:
        """Whether a lost form takes from a user what base had: the form, or content in it."""
        lost = self.lost_forms
        had = any(m.base >= HAD_FORM for m in lost.values()) or bool(self.standing(HELD, KEPT))
        return bool(lost) and (had or not self.loss_fell)

    @property
    def formed(self) -> bool:
        """Whether a form, or likeness to the references, surely rose."""
        style = [m for n, m in self.whole_answer.items() if n != "user_metric"]
        return any(surely(m, m.tuned - m.base) for m in (*self.forms.values(), *style))

    @property
    def kept(self) -> bool:
        return any(m.standing == KEPT for m in self.whole_answer.values())

    @property
    def loss_fell(self) -> bool:
        high = self.loss.high
        fell = self.loss.tuned < (1 - LOSS_CHANGE) * self.loss.base
        return high is not None and high < 0 and fell

    @property
    def loss_rose(self) -> bool:
        low = self.loss.low
        rose = self.loss.tuned > (1 + LOSS_CHANGE) * self.loss.base
        return low is not None and low > 0 and rose

    @property
    def doubtful(self) -> bool:
        """Whether answers are better than without a model, but on too few rows to be sure."""
        better = self.standing(CLOSED, UNSURE).values()
        return any(m.tuned > max(m.base, m.baseline or 0) for m in better)

    @property
    def few_shot_as_good(self) -> bool:
        """Whether base with examples in its prompt has as much content as tuned."""
        shown = [m for m in self.contents.values() if m.few_shot is not None]
        return bool(shown) and all(m.tuned - (m.few_shot or 0.0) < AS_GOOD for m in shown)


def surely(metric: Metric, points: float) -> bool:
    """Whether a change of a rate is certain and large enough."""
    return metric.p is not None and metric.p < ALPHA and points >= RATE_CHANGE - ROUNDING


def change(metrics: Mapping[str, Metric]) -> str:
    """The first of the metrics, from base to tuned."""
    for name, metric in metrics.items():
        base, tuned = (figure(metric.kind, value) for value in (metric.base, metric.tuned))
        return f"{title(name)} {base} -> {tuned}"
    return ""


def proof(metrics: Mapping[str, Metric]) -> str:
    """The first of the metrics with its rows and the best answer without a model."""
    rows = [f" on {m.n} eval rows" for m in metrics.values()][:1]
    rivals = [f"; {rival(n, m)}" for n, m in metrics.items() if m.baseline is not None][:1]
    return "".join([change(metrics), *rows, *rivals])


def rival(name: str, metric: Metric) -> str:
    """The best answer without a model."""
    rows = metric.kind == "mean" and name != "user_metric"
    words = "another row's answer" if rows else "most frequent answer"
    return f"{words} {figure(metric.kind, metric.baseline or 0.0)}"


def evidence(case: Case) -> str:
    """The figures that the rules looked at."""
    judged = {"held_out_loss", "train_loss", *FORMS, *case.contents}
    shown = [_tested(name, m) for name, m in case.metrics.items() if name in judged]
    closed = [title(name) for name in case.standing(CLOSED)]
    if closed:
        shown.append(f"too few different rows to tell: {', '.join(closed)}")
    rows, independent = case.loss.n, case.loss.independent
    shown.append(
        f"{rows} eval rows" + (f" ({independent} independent)" if independent < rows else "")
    )
    return "; ".join(shown)


def _tested(name: str, metric: Metric) -> str:
    """A figure, of content with its baseline, of a whole with McNemar's counts and exact p."""
    notes = []
    if metric.standing and metric.baseline is not None:
        notes.append(f"no model {figure(metric.kind, metric.baseline)}")
    if metric.standing and not name.startswith(FIELD) and metric.gained is not None:
        p = 1.0 if metric.p is None else metric.p
        shown = "p < 0.001" if p < 0.001 else f"p {p:.2g}"
        notes.append(f"gained {metric.gained}, lost {metric.lost}, {shown}")
    return change({name: metric}) + (f" ({', '.join(notes)})" if notes else "")
