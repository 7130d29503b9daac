"""One sentence on what the tuning did, with the figure that proves it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from biddable.judging.case import Case, evidence
from biddable.judging.metric import Metric
from biddable.judging.rules import RULES, Outcome, advice


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened.

    Args:
        outcome: a stable name.
        sentence: the outcome in words.
        evidence: the figures that the rules looked at.
        suggestion: what to try next, empty where nothing is to be done.
    """

    outcome: Outcome
    sentence: str
    evidence: str
    suggestion: str = ""


INTERRUPTED = Verdict(
    "interrupted", "Interrupted before the end: not judged.", "", "go on with --resume"
)


def decide(metrics: Mapping[str, Metric], *, leaked: bool = False, fixed: bool = False) -> Verdict:
    """The verdict on a scorecard's metrics.

    Args:
        leaked: training knew every held-out row.
        fixed: all training answers are the same text.
    """
    case = Case(metrics, leaked, fixed)
    rule = next(rule for rule in RULES if rule.holds(case))
    return Verdict(rule.outcome, rule.sentence(case), evidence(case), advice(rule, case))
