"""The limits that `--fail-under` sets, and what is wrong with a pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from biddable.data.conversation import Conversation
from biddable.dataset.prepared import shared_system_prompt
from biddable.errors import BiddableError
from biddable.judging.scorecard import NAMES, Scorecard
from biddable.models.base import SYSTEM_PROMPT_FILE, Base, trained_system_prompt
from biddable.terminal import console, line


def read_limit(text: str) -> tuple[str, float]:
    """METRIC=X.

    Raises:
        BiddableError: there is no such metric, or X is no number.
    """
    name, _, value = text.partition("=")
    try:
        if name not in NAMES:
            raise ValueError
        if not math.isfinite(float(value)):
            raise ValueError
        return name, float(value)
    except ValueError as error:
        raise BiddableError(
            "option",
            f"--fail-under {text!r} is not METRIC=NUMBER",
            f"the metrics are {', '.join(NAMES)}",
        ) from error


def failures_of(card: Scorecard, limits: Sequence[tuple[str, float]]) -> list[str]:
    """What is worse than its limit; a metric that could not be measured fails too."""
    failed = []
    for name, limit in limits:
        metric = card.metrics.get(name)
        lower = NAMES[name][1] == "lower"
        if metric is None:
            failed.append(f"{name} could not be measured on these rows")
        elif not (metric.tuned <= limit if lower else metric.tuned >= limit):
            failed.append(f"{name} is {metric.tuned:.4g}, wanted {'<=' if lower else '>='} {limit}")
    return failed


def check_tokenizers(base: Any, tuned: Any, name: str) -> None:
    """Refuses models whose losses cannot be compared token by token."""
    if base.get_vocab() != tuned.get_vocab():
        raise BiddableError(
            "tokenizers_differ",
            f"{name} has another tokenizer than the tuned model",
            "compare a model with the base that it was tuned from",
        )


def tell_of_system_prompt(tuned: Base, rows: Sequence[Conversation]) -> None:
    """Says so where the tuned model is not asked as it was trained."""
    trained = trained_system_prompt(tuned)
    if trained is not None and shared_system_prompt(rows) != trained:
        path = tuned.folder / SYSTEM_PROMPT_FILE
        told = f"TUNED was trained with the one in {path}, which not all of these rows begin with"
        line(console(), "system", told)
