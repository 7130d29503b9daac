"""How each content metric stands, from its tests against base and against no model at all.

Content is learned only where it beats both for certain, all content metrics taken together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from biddable.judging.intervals import ALPHA, fewest_gained, holm
from biddable.judging.metric import Metric

# Surely better than base and than the baseline.
LEARNED = "learned"
# Surely worse than base.
LOST = "lost"
# Base was right nearly always, and nothing is surely lost.
KEPT = "kept"
# Surely better than the baseline, but not than base.
HELD = "held"
# Even answers that are all right could not beat the baseline for certain: it is right too often.
CLOSED = "closed"
# No better than the baseline, as far as these rows show.
CHANCE = "chance"
# Better than the baseline, but not for certain.
UNSURE = "unsure"

# Of what base or the baseline has wrong, the share that has to be right for a gain to count.
LEAST_GAIN = 0.1
# Up to this share, a gain that is not certain is chance.
CHANCE_GAIN = 0.25
# Points that have to be gained or lost for a change to count, less what rounding may take.
RATE_CHANGE = 0.1
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Examined:
    """A content metric with its tests.

    Args:
        metric: with p against base.
        p_baseline: against the best answer without a model; `p_relation`: that answers have to do
            with their prompts at all.
        room: clusters of rows in which the baseline is wrong; None where answers are not right or
            wrong.
        scaled: whether 1 is all right and 0 all wrong.
    """

    metric: Metric
    p_baseline: float
    p_relation: float = 0.0
    room: int | None = None
    scaled: bool = True

    @property
    def p_gain(self) -> float:
        """The p-value of a gain on base and baseline; 1 where there is no gain."""
        metric = self.metric
        if metric.tuned <= metric.base or metric.tuned <= (metric.baseline or 0.0):
            return 1.0
        return max(1.0 if metric.p is None else metric.p, self.p_baseline, self.p_relation)

    def gain_on(self, rival: float) -> float:
        """The share that is right of what a rival has wrong."""
        if not self.scaled:
            return 1.0 if self.metric.tuned > rival else 0.0
        return (self.metric.tuned - rival) / (1 - rival) if rival < 1 else 0.0


def with_standings(tests: Mapping[str, Examined]) -> dict[str, Metric]:
    """The metrics with their standing, the whole first and then its parts."""
    gains = holm([test.p_gain for test in tests.values()])
    # The test for a loss of the whole is not corrected for the number of its parts.
    falls = [1.0 if test.metric.p is None else test.metric.p for test in tests.values()]
    falls = [*falls[:1], *holm(falls[1:])]
    return {
        name: replace(
            test.metric, p_content=gain, standing=_standing(test, gain, fall, ALPHA / len(tests))
        )
        for (name, test), gain, fall in zip(tests.items(), gains, falls, strict=True)
    }


def _standing(test: Examined, p_gain: float, p_fall: float, alpha: float) -> str:
    metric, baseline = test.metric, test.metric.baseline or 0.0
    least = RATE_CHANGE if test.scaled else 0.0
    gain = test.gain_on(baseline)
    better = max(test.p_baseline, test.p_relation) < ALPHA and gain >= LEAST_GAIN - ROUNDING
    if (
        p_fall < ALPHA
        and metric.tuned < metric.base
        and metric.base - metric.tuned >= least - ROUNDING
    ):
        return LOST
    if p_gain < ALPHA and min(gain, test.gain_on(metric.base)) >= LEAST_GAIN - ROUNDING:
        return LEARNED
    if test.scaled and metric.base > 1 - RATE_CHANGE:
        return KEPT
    # A gain that only the correction leaves in doubt is not held: base itself is surely beaten.
    if better and (metric.p is None or metric.p >= ALPHA):
        return HELD
    if test.room is not None and test.room < fewest_gained(alpha):
        return CLOSED
    # Surely below the baseline, or one answer to everything, is no gain in doubt.
    none = gain <= 0 or test.p_relation >= 1
    return CHANCE if none or (gain < CHANCE_GAIN and test.p_baseline >= ALPHA) else UNSURE
