"""The decision: an ordered list of rules, of which the first that holds gives the outcome. Pure.

docs/verdict.md has them as a table, with the real runs that they were set by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from biddable.judging.case import HAD_FORM, LOSS_CHANGE, Case, change, proof, rival
from biddable.judging.metric import FIELD, Metric, title
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

FEWEST_ROWS = 8
# Training loss below this share of eval loss, and lower by this many nats, counts as memorized.
MEMORY, MEMORY_GAP = 0.5, 0.3
# Of answers with several parts, the share that has to be right as a whole.
MOSTLY_RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the decision table.

    Args:
        when: the condition in words.
        holds: the condition.
        outcome: what then happened.
        sentence: the outcome in words, with the figure that proves it.
        advice: what to try next, unless an entry of `ADVICE` fits better.
    """

    when: str
    holds: Callable[[Case], bool]
    outcome: Outcome
    sentence: Callable[[Case], str]
    advice: str = ""


def _learned(case: Case) -> bool:
    if not case.standing(LEARNED) or any(
        m.standing in (CHANCE, UNSURE) for m in case.parts.values()
    ):
        return False
    wholes = case.whole_answer.values() if case.parts else ()
    return all(m.standing == LEARNED and m.tuned >= MOSTLY_RIGHT for m in wholes)


def _overfit(case: Case) -> bool:
    train, loss = case.metrics.get("train_loss"), case.loss
    if train is None or case.standing(HELD, KEPT):
        return False
    gap = loss.tuned - train.tuned
    return train.tuned <= MEMORY * loss.tuned and gap >= MEMORY_GAP - ROUNDING


def _is_flat(case: Case) -> bool:
    low, high = case.loss.low, case.loss.high
    return low is not None and high is not None and high - low < 4 * LOSS_CHANGE * case.loss.base


def _loss(case: Case) -> str:
    return proof({"held_out_loss": case.loss}) if case.loss.n else "no eval rows"


def _fallen(metrics: Mapping[str, Metric]) -> str:
    return f"{change(metrics)} on {next(iter(metrics.values())).n} eval rows"


def _learned_sentence(case: Case) -> str:
    if case.whole_answer and case.standing(LEARNED).keys() >= case.whole_answer.keys():
        return f"Learned: {proof(case.whole_answer)}."
    shown = [f"{change({n: m})}, {rival(n, m)}" for n, m in case.parts.items()]
    return f"Learned: {'; '.join(shown)}; on {case.loss.n} eval rows."


def _partly_sentence(case: Case) -> str:
    groups = {"": LEARNED, "at chance: ": CHANCE, "not certain: ": UNSURE}
    listed = [
        head + ", ".join(names)
        for head, standing in groups.items()
        if (names := [title(n) for n in case.standing(standing) if n.startswith(FIELD)])
    ]
    return f"Partly learned: {_joined(*listed, proof(case.whole_answer), _but_lost(case))}."


def _format_sentence(case: Case) -> str:
    gained = {n: m for n, m in case.forms.items() if m.tuned - m.base >= RATE_CHANGE}
    # A format says more than stops, which every format has.
    first = next((n for n in ("follows_format", "json_valid", *gained) if n in gained), "")
    form = change({first: gained[first]}) if first else ""
    if case.fixed:
        what = "Learned the fixed answer, which is the same in all training rows"
    elif case.kept:
        what = "Learned the format; the content was right before"
    elif case.doubtful:
        what = "Learned the format; these rows cannot show content for certain"
    else:
        what = "Learned the format, not the content"
    return f"{what}: {_joined(form, proof(case.whole_answer), _but_lost(case))}."


def _loss_sentence(case: Case) -> str:
    what = "the answers not for certain" if case.doubtful else "the answers not"
    what = (
        f"Loss improved, {what}" if case.whole_answer else "Loss improved; no answers were compared"
    )
    return f"{what}: {_joined(_loss(case), proof(case.whole_answer), _but_lost(case))}."


def _but_lost(case: Case) -> str:
    """A form that was lost on the way, for the sentences that are not about it."""
    return f"but {change(case.lost_forms)}" if case.lost_forms else ""


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


SMALLER_RATE = "a smaller learning rate; look at the data with `biddable check`"
MORE_ROWS = "hold out more rows, or give them with --eval"
POINTS = f"by {100 * RATE_CHANGE:.0f} points or more"

RULES = (
    Rule(
        "the eval loss of tuned is no finite number",
        lambda case: not isfinite(case.loss.tuned), "worse",
        lambda case: f"Worse: {_loss(case)}.", SMALLER_RATE,
    ),
    Rule(
        "training knew every eval row", lambda case: case.leaked, "leaked",
        lambda case: f"Leaked: training knew all {case.loss.n} eval rows, so they say nothing "
        "about new ones.",
        "give rows that training does not know, with --eval or --data",
    ),
    Rule(
        f"fewer than {FEWEST_ROWS} independent rows were judged or answered",
        lambda case: case.independent_rows < FEWEST_ROWS, "too_few",
        lambda case: f"Too few eval rows to tell: {case.independent_rows} independent ones.",
        MORE_ROWS,
    ),
    Rule(
        f"content surely fell, {POINTS}",
        lambda case: bool(case.standing(LOST)), "worse",
        lambda case: f"Worse: {_fallen(case.standing(LOST))}.", SMALLER_RATE,
    ),
    Rule(
        f"some content is learned, but stops, format or valid JSON surely fell, {POINTS}",
        lambda case: bool(case.standing(LEARNED)) and bool(case.lost_forms), "partly",
        _partly_sentence, "more epochs, so that answers also keep their form",
    ),
    Rule(
        f"stops, format or valid JSON surely fell, which at least {100 * HAD_FORM:.0f} % of base's "
        "answers had; or which fewer had, but content is held or kept, or the eval loss did not "
        "fall",
        lambda case: case.form_taken, "worse",
        lambda case: f"Worse: {_fallen(case.lost_forms)}.", SMALLER_RATE,
    ),
    Rule(
        "content is learned: the whole answer, or of answers in parts the whole for at least "
        f"{100 * MOSTLY_RIGHT:.0f} % of rows and no part at chance or unsure",
        _learned, "learned", _learned_sentence,
    ),
    Rule(
        "some content is learned", lambda case: bool(case.standing(LEARNED)), "partly",
        _partly_sentence,
        "more rows for what is not learned yet; where nothing in the prompt decides it, leave it "
        "out",
    ),
    Rule(
        f"training loss is at most {MEMORY:g} of eval loss and {MEMORY_GAP:g} nats per token below "
        "it, and no content is held or kept",
        _overfit, "overfit",
        lambda case: f"Overfit: training loss {case.metrics['train_loss'].tuned:.2f}, "
        f"{_loss(case)}.",
        "more rows, or fewer epochs",
    ),
    Rule(
        f"eval loss surely rose, by more than {100 * LOSS_CHANGE:.0f} %",
        lambda case: case.loss_rose, "worse",
        lambda case: f"Worse: {_loss(case)}.", SMALLER_RATE,
    ),
    Rule(
        f"stops, format, valid JSON or likeness to the references surely rose, {POINTS}",
        lambda case: case.formed, "format_only", _format_sentence,
        "look at whether the prompts decide the answers; if so, more rows or more epochs, or a "
        "larger base",
    ),
    Rule(
        "base was right before and tuned still is (content is kept)",
        lambda case: case.kept, "no_change",
        lambda case: f"No change: the base was right already: {proof(case.whole_answer)}.",
    ),
    Rule(
        f"eval loss surely fell, by more than {100 * LOSS_CHANGE:.0f} %",
        lambda case: case.loss_fell, "loss_only", _loss_sentence,
        "read the answers; more epochs, or a larger learning rate while the eval loss still falls",
    ),
    Rule(
        "the interval of the eval loss is narrow enough to call it unchanged",
        _is_flat, "no_change",
        lambda case: f"No change: {_loss(case)}.", "a larger learning rate, or more epochs",
    ),
    Rule(
        "anything else", lambda case: True, "too_few",
        lambda case: f"Too few eval rows to tell: {case.independent_rows} independent ones, and "
        "nothing changed for certain.",
        MORE_ROWS,
    ),
)  # fmt: skip

# (outcomes, condition, what to try next) that replace a rule's own advice; the first that fits.
ADVICE: tuple[tuple[tuple[Outcome, ...], Callable[[Case], bool], str], ...] = (
    (
        ("learned", "partly", "format_only"), lambda case: case.few_shot_as_good,
        "examples in the prompt alone do as well: the tuning was not needed",
    ),
    (
        ("worse", "loss_only"),
        lambda case: bool(case.lost_forms) and case.loss_fell and not case.standing(LOST),
        "more steps: the eval loss still falls, and answers may lose their form on the way",
    ),
    (
        ("format_only",), lambda case: case.fixed,
        "a fixed answer needs no model; for more, give rows with different answers",
    ),
    (
        ("format_only", "loss_only"), lambda case: case.doubtful,
        "hold out more rows, with answers that differ more",
    ),
    (
        ("no_change", "format_only"), lambda case: case.kept,
        "harder rows would show more: the base has these right",
    ),
)  # fmt: skip


def advice(rule: Rule, case: Case) -> str:
    """What to try next, empty where nothing is to be done."""
    fitting = (text for outcomes, fits, text in ADVICE if rule.outcome in outcomes and fits(case))
    return next(fitting, rule.advice)


def table() -> str:
    """The decision table as Markdown."""
    rows = [f"| {i} | {rule.when} | `{rule.outcome}` |" for i, rule in enumerate(RULES, 1)]
    return "\n".join(["| | the first that holds | outcome |", "|---|---|---|", *rows])
