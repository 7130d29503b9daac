"""The options of `compare`, the limits that `--fail-under` sets, and what is wrong with a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from biddable.data.conversation import Conversation
from biddable.dataset.prepared import shared_system_prompt
from biddable.errors import BiddableError
from biddable.judging.scorecard import NAMES, Scorecard
from biddable.models.base import SYSTEM_PROMPT_FILE, Base, trained_system_prompt
from biddable.settings import ANSWERS, MOST, refuse_out_of_range
from biddable.terminal import console, line


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What `compare` can be told; each field is an option of the same name."""

    data: str = ""
    """Held-out rows in any format that `check` reads; empty takes those of the run folder TUNED."""
    train: str = ""
    """Rows that TUNED was trained on; empty takes those of the run folder TUNED, if it is one."""
    map: str = ""
    """Columns of the data, as for `check`."""
    encoding: str = ""
    """Of text files; if empty, UTF-8 or what a byte order mark says."""
    system: str = ""
    """System prompt for rows without one."""
    template: str = ""
    """The chat template for both; empty takes that of TUNED."""
    format: str = ""
    """The format rule: a regular expression, labels:a,b, keys:a,b or schema:FILE; else learned."""
    few_shot: int = 0
    """Training examples in base's prompt: a third column."""
    probe_frame: bool = False
    """Also asks TUNED without system message and with renamed roles."""
    fail_under: tuple[str, ...] = ()
    """METRIC=X: fails where tuned is worse than X."""
    metric: str = ""
    """FILE.py:FUNCTION of (reference, answer) that gives a number; higher is better."""
    answers: int = ANSWERS
    """Prompts that are answered."""
    max_new_tokens: int = 0
    """The limit of an answer; 0 takes a quarter more than the longest reference."""
    html: str = ""
    """Where to write the report as a page; nothing is written if empty."""
    redact: bool = False
    """Leave every text out of the page."""
    device: str = "auto"
    precision: str = "fp32"


def read_options(given: Mapping[str, Any]) -> Options:
    """The options, by name.

    Raises:
        BiddableError: there is none of that name, or a value is out of range.
    """
    unknown = sorted(set(given) - {f.name for f in fields(Options)})
    if unknown:
        raise BiddableError("option", f"compare has no option {unknown[0]}", "")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    asked = replace(Options(), **values)
    for name in ("few_shot", "answers", "max_new_tokens"):
        refuse_out_of_range(name, getattr(asked, name), (0, MOST), whole=True)
    if asked.precision not in ("auto", "fp32", "bf16"):
        raise BiddableError(
            "option", f"--precision is '{asked.precision}'", "give fp32, bf16 or auto"
        )
    return asked


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
