"""An outcome in words, with the figure that proves it, its evidence and what to try next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from biddable.judging.metric import FIELD, Metric, figure, title
from biddable.judging.rules import FORMS, Case, Outcome, broken, few, kept, loss_fell, lost_forms
from biddable.judging.standings import CHANCE, CLOSED, LEARNED, LOST, RATE_CHANGE, UNSURE

# Few-shot within this of tuned is as good.
AS_GOOD = 0.05


def few_shot_as_good(case: Case) -> bool:
    """Whether base with examples in its prompt has as much content as tuned."""
    shown = [m for _, m in case.contents() if m.few_shot is not None]
    return bool(shown) and all(m.tuned - (m.few_shot or 0.0) < AS_GOOD for m in shown)


def _doubtful(case: Case) -> bool:
    """Whether answers are better than without a model, but too few to be sure of it."""
    return any(
        metric.standing in (CLOSED, UNSURE)
        and metric.tuned > max(metric.base, metric.baseline or 0)
        for _, metric in case.contents()
    )


def _change(name: str, metric: Metric) -> str:
    shown = [figure(metric.kind, value) for value in (metric.base, metric.tuned)]
    return f"{title(name)} {shown[0]} -> {shown[1]}"


def _rival(name: str, metric: Metric) -> str:
    if metric.baseline is None:
        return ""
    rows = metric.kind == "mean" and name != "user_metric"
    words = "another row's answer" if rows else "most frequent answer"
    return f"; {words} {figure(metric.kind, metric.baseline)}"


def _proof(name: str, metric: Metric) -> str:
    return f"{_change(name, metric)} on {metric.n} eval rows{_rival(name, metric)}"


def _said_learned(case: Case) -> str:
    whole = case.whole
    if whole and whole[1].standing == LEARNED:
        return f"Learned: {_proof(*whole)}."
    shown = [_change(n, m) + _rival(n, m).replace(";", ",") for n, m in case.parts.items()]
    return f"Learned: {'; '.join(shown)}; on {case.loss.n if case.loss else 0} eval rows."


def _said_partly(case: Case) -> str:
    groups = (
        ("", (LEARNED,)), ("at chance: ", (CHANCE,)), ("not certain: ", (UNSURE,)),
    )  # fmt: skip
    parts = [
        head + ", ".join(title(n) for n in names)
        for head, standings in groups
        if (names := [n for n in case.standing(*standings) if n.startswith(FIELD)])
    ]
    whole = [_proof(*case.whole)] if case.whole else []
    return f"Partly learned: {'; '.join([*parts, *whole])}{_but_lost(case)}."


def _but_lost(case: Case) -> str:
    """A form that was lost on the way, for the sentences that are not about it."""
    return "".join(f"; but {_change(*lost)}" for lost in lost_forms(case)[:1])


def _said_format(case: Case) -> str:
    gained = [
        (n, case.metrics[n])
        for n in ("follows_format", "json_valid", "stops_by_itself")
        if n in case.metrics and case.metrics[n].tuned - case.metrics[n].base >= RATE_CHANGE
    ]
    form = _change(*gained[0]) if gained else ""
    whole = _proof(*case.whole) if case.whole else ""
    figures = "; ".join(text for text in (form, whole) if text) + _but_lost(case)
    if case.fixed:
        return f"Learned the fixed answer, which is the same in all training rows: {figures}."
    if kept(case):
        return f"Learned the format; the content was right before: {figures}."
    if _doubtful(case):
        return f"Learned the format; these rows cannot show content for certain: {figures}."
    return f"Learned the format, not the content: {figures}."


def _said_loss(case: Case) -> str:
    if case.whole is None:
        return f"Loss improved; no answers were compared: {_loss(case)}{_but_lost(case)}."
    answers = "not for certain" if _doubtful(case) else "not"
    figures = f"{_loss(case)}; {_proof(*case.whole)}{_but_lost(case)}"
    return f"Loss improved, the answers {answers}: {figures}."


def _said_worse(case: Case) -> str:
    fallen = [(n, case.metrics[n]) for n in case.standing(LOST)] or lost_forms(case)
    if broken(case) or not fallen:
        return f"Worse: {_loss(case)}."
    return f"Worse: {_change(*fallen[0])} on {fallen[0][1].n} eval rows."


def _said_overfit(case: Case) -> str:
    train = case.metrics["train_loss"]
    return f"Overfit: training loss {train.tuned:.2f}, {_loss(case)}."


def _said_no_change(case: Case) -> str:
    if kept(case) and case.whole:
        return f"No change: the base was right already: {_proof(*case.whole)}."
    return f"No change: {_loss(case)}."


def _said_few(case: Case) -> str:
    rows = case.independent_rows()
    doubt = "" if few(case) else ", and nothing changed for certain"
    return f"Too few eval rows to tell: {rows} independent ones{doubt}."


def _loss(case: Case) -> str:
    loss = case.loss
    return f"{_change('held_out_loss', loss)} on {loss.n} eval rows" if loss else "no eval rows"


def _said_leaked(case: Case) -> str:
    rows = case.loss.n if case.loss else 0
    return f"Leaked: training knew all {rows} eval rows, so they say nothing about new ones."


SENTENCES: Mapping[Outcome, Callable[[Case], str]] = {
    "learned": _said_learned,
    "partly": _said_partly,
    "format_only": _said_format,
    "loss_only": _said_loss,
    "overfit": _said_overfit,
    "worse": _said_worse,
    "no_change": _said_no_change,
    "too_few": _said_few,
    "leaked": _said_leaked,
}

SUGGESTIONS: Mapping[Outcome, str] = {
    "learned": "",
    "partly": "more rows for what is not learned yet; where nothing in the prompt decides it, leave"
    " it out",
    "format_only": "look at whether the prompts decide the answers; if so, more rows or more epochs"
    ", or a larger base",
    "loss_only": "read the answers; more epochs, or a larger learning rate while the eval loss"
    " still falls",
    "overfit": "more rows, or fewer epochs",
    "worse": "a smaller learning rate; look at the data with `biddable check`",
    "no_change": "a larger learning rate, or more epochs",
    "too_few": "hold out more rows, or give them with --eval",
    "leaked": "give rows that training does not know, with --eval or --data",
}


def suggestion(outcome: Outcome, case: Case) -> str:
    form_lost = bool(lost_forms(case)) and not case.standing(LOST)
    advice = (
        (
            outcome in ("learned", "partly", "format_only") and few_shot_as_good(case),
            "examples in the prompt alone do as well: the tuning was not needed",
        ),
        (outcome == "partly" and form_lost, "more epochs, so that answers also keep their form"),
        (
            outcome in ("worse", "loss_only") and form_lost and loss_fell(case),
            "more steps: the eval loss still falls, and answers may lose their form on the way",
        ),
        (
            outcome == "format_only" and case.fixed,
            "a fixed answer needs no model; for more, give rows with different answers",
        ),
        (
            outcome in ("format_only", "loss_only") and _doubtful(case),
            "hold out more rows, with answers that differ more",
        ),
        (
            outcome in ("no_change", "format_only") and kept(case),
            "harder rows would show more: the base has these right",
        ),
    )
    return next((text for fits, text in advice if fits), SUGGESTIONS[outcome])


def evidence(case: Case) -> str:
    judged = ("held_out_loss", "train_loss", *FORMS, *dict(case.contents()))
    shown = [_tested(name, m) for name, m in case.metrics.items() if name in judged]
    closed = [title(name) for name in case.standing(CLOSED)]
    if closed:
        shown.append(f"too few different rows to tell: {', '.join(closed)}")
    loss = case.loss
    rows = loss.n if loss else 0
    independent = loss.independent if loss else 0
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
    return _change(name, metric) + (f" ({', '.join(notes)})" if notes else "")
