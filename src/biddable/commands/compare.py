"""`compare`: base against tuned on held-out rows, with a verdict."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from biddable.commands.exam import Exam, set_exam
from biddable.commands.judged_rows import JudgedRows, judged_rows
from biddable.commands.rows import with_files
from biddable.data.conversation import Conversation
from biddable.data.rows import number_of
from biddable.dataset.early import refuse_early
from biddable.dataset.encode_all import encode_all
from biddable.dataset.prepared import SplitPart, shared_system_prompt
from biddable.display.outcome import samples, show_outcome, show_smallest_difference
from biddable.display.report import card_table, page, versions
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.errors import BiddableError, did_you_mean
from biddable.judging.format import given_format
from biddable.judging.judge import Judgement, judge, loss_rows, make_questions
from biddable.judging.metric import NAMES, title
from biddable.judging.own_metric import load_metric
from biddable.judging.probes import probes, with_shots
from biddable.judging.scorecard import Scorecard, Terms
from biddable.judging.verdict import Verdict
from biddable.models.base import (
    SYSTEM_PROMPT_FILE,
    Base,
    load_config,
    load_tokenizer,
    resolve_base,
    trained_system_prompt,
)
from biddable.models.support import context_of
from biddable.options import with_values
from biddable.settings import CompareSettings, Printing
from biddable.storage import write_new
from biddable.template.template import Template
from biddable.terminal import console, line, write_json

# Training rows that are encoded, whose loss tells learning from memorizing.
MOST_TRAIN_ROWS = 64


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The result of `compare`.

    Args:
        scorecard: metrics and verdict.
        rows: one record per answered prompt: prompt, reference, the answer of each model.
        probes: figures of tuned under other frames, by probe and metric.
        failures: the limits of `fail_under` that were missed, a sentence each.
    """

    scorecard: Scorecard
    rows: Sequence[dict[str, Any]]
    probes: Mapping[str, Mapping[str, float]]
    failures: Sequence[str]

    def __repr__(self) -> str:
        return f"<{number_of(len(self.rows), 'prompt')}: {self.verdict.sentence}>"

    def _repr_html_(self) -> str:
        return card_table(self.scorecard)

    @property
    def verdict(self) -> Verdict:
        """The outcome of the comparison."""
        return self.scorecard.verdict

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The object that `compare --json` prints: the scorecard, with the probes' figures."""
        record = self.scorecard.record()
        for probe, values in self.probes.items():
            for name, value in values.items():
                record[name][probe] = value
        return record


def compare(base: str | PathLike[str], tuned: str | PathLike[str], **options: Any) -> Comparison:
    """Judges two models on the same held-out rows, one in memory at a time.

    Args:
        base, tuned: run folder, model folder, hub id, .gguf file or packaged base.
        options: fields of `biddable.settings.CompareSettings`, by name; `data` and `train` may be
            rows in memory.

    Raises:
        BiddableError: a model, the data or an option cannot be used.
    """
    values = {"base": base, "tuned": tuned, **with_files(options)}
    settings, out = with_values(CompareSettings(), values), console()
    limits = [_read_limit(text) for text in settings.fail_under]
    form = given_format(settings.format) if settings.format else None
    choose_device(settings.device)
    metric = load_metric(settings.metric)
    refuse_early(settings)
    before, after = resolve_base(settings.base), resolve_base(settings.tuned)
    tokenizer = load_tokenizer(after)
    _refuse_other_tokenizer(load_tokenizer(before), tokenizer, settings.base)
    line(out, "reading", settings.data or settings.tuned)
    rows = judged_rows(settings, out)
    _show_other_system_prompt(after, rows.held_out)
    terms = Terms(form=form, leaked=rows.leaked, user_metric=metric)
    template = Template.load(settings.template or None, tokenizer)
    context = min(context_of(load_config(b)) for b in (before, after))
    exam = _exam(settings, rows, (tokenizer, template), context, terms)
    show_smallest_difference(exam.questions, out)
    shots = with_shots(rows.held_out, rows.train, settings.few_shot)
    judgements = _base_judgements(settings, exam, before, shots)
    gc.collect()  # One model in memory at a time.
    model = _loaded(settings, after)
    judgements["tuned"] = exam.judged(model)
    card = exam.scored(judgements["base"], judgements["tuned"], judgements.get("few-shot"))
    probed = _probed(exam, model, card) if settings.probe_frame else {}
    failures = _failures(card, limits)
    comparison = Comparison(card, samples(exam.questions, judgements), probed, failures)
    show_outcome(card, exam.questions, judgements, out)
    if settings.html:
        _write_page(settings, exam, card, judgements, context)
    return comparison


def _base_judgements(
    settings: CompareSettings, exam: Exam, base: Base, shots: Sequence[Conversation]
) -> dict[str, Judgement]:
    model = _loaded(settings, base)
    judgements = {"base": exam.judged(model)}
    if shots:
        judgements["few-shot"] = _judged_answers(exam, model, shots, exam.template)
    return judgements


def _exam(
    settings: CompareSettings,
    rows: JudgedRows,
    texts: tuple[Any, Template],
    context: int,
    terms: Terms,
) -> Exam:
    """The exam on the held-out rows; some of the training rows are encoded with them."""
    tokenizer, template = texts

    def encoded(conversations: Sequence[Conversation]) -> Any:
        result = encode_all(conversations, tokenizer, template, max_length=context)
        for finding in result.findings:
            if finding.severity == "error":
                raise BiddableError.of(finding)
        return result.examples

    held_out = SplitPart(rows.held_out, encoded(rows.held_out))
    train = SplitPart(rows.train, encoded(rows.train[:MOST_TRAIN_ROWS]))
    exam = set_exam(tokenizer, template, held_out, train, settings.answers, terms)
    return replace(exam, max_new_tokens=settings.max_new_tokens)


def _loaded(settings: CompareSettings, base: Base) -> Any:
    line(console(), "loading", f"'{base.name}'")
    device = choose_device(settings.device)
    model = load_model(base, device, choose_dtype(settings.precision, device))  # type: ignore[arg-type]
    line(console(), "judging", f"'{base.name}'")
    return model


def _judged_answers(
    exam: Exam, model: Any, conversations: Sequence[Conversation], template: Template
) -> Judgement:
    """A model's answers to the same prompts in other words or frames."""
    questions = make_questions(conversations, exam.tokenizer, template, most=len(exam.questions))
    limit = exam.max_new_tokens
    rows = loss_rows(model, exam.tokenizer, [])
    return judge(model, exam.tokenizer, template, questions, rows, max_new_tokens=limit)


def _probed(exam: Exam, model: Any, card: Scorecard) -> dict[str, dict[str, float]]:
    """Figures of tuned under the frames that it was not trained with."""
    figures: dict[str, dict[str, float]] = {}
    for probe in probes(exam.held_out.conversations, exam.template):
        judgement = _judged_answers(exam, model, probe.conversations, probe.template)
        # Compared with itself: only its own figures count here.
        metrics = exam.scored(judgement, judgement).metrics
        figures[probe.name] = {
            name: metric.tuned
            for name, metric in metrics.items()
            if name in card.metrics and name != "general_loss"
        }
    return figures


def _write_page(
    settings: CompareSettings,
    exam: Exam,
    card: Scorecard,
    judgements: Mapping[str, Judgement],
    context: int,
) -> None:
    """Writes the report."""
    report = replace(
        exam.report(f"{settings.base} and {settings.tuned}", card, judgements),
        lengths=[len(e.input_ids) for e in exam.held_out.examples],
        limit=context,
        facts={n: getattr(settings, n) for n in ("base", "tuned", "data")} | versions(),
    )
    write_new(settings.html, [page(report, redact=settings.redact)])


def _read_limit(text: str) -> tuple[str, float]:
    """METRIC=X."""
    name, _, value = text.partition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if name not in NAMES or not math.isfinite(limit):
        what = f"--fail-under {text!r} is not METRIC=NUMBER{did_you_mean(name, NAMES)}"
        raise BiddableError("option", what, f"the metrics are {', '.join(NAMES)}")
    return name, limit


def _failures(card: Scorecard, limits: Sequence[tuple[str, float]]) -> list[str]:
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


def _refuse_other_tokenizer(base: Any, tuned: Any, name: str) -> None:
    """Refuses models whose losses cannot be compared token by token."""
    if base.get_vocab() != tuned.get_vocab():
        what = f"{name} has another tokenizer than the tuned model"
        fix = "compare a model with the base that it was tuned from"
        raise BiddableError("tokenizers_differ", what, fix)


def _show_other_system_prompt(tuned: Base, rows: Sequence[Conversation]) -> None:
    """Says so where the tuned model is not asked as it was trained."""
    trained = trained_system_prompt(tuned)
    if trained is not None and shared_system_prompt(rows) != trained:
        path = tuned.texts / SYSTEM_PROMPT_FILE
        text = f"TUNED was trained with the one in {path}, which not all of these rows begin with"
        line(console(), "system", text)


def run(options: dict[str, Any], printing: Printing) -> int:
    """Compares; returns 1 where a limit of --fail-under was missed."""
    comparison, out = compare(**options), console()
    for probe, values in comparison.probes.items():
        figures = ", ".join(f"{title(name)} {value:.2f}" for name, value in values.items())
        line(out, probe.replace("_", " "), figures)
    for failure in comparison.failures:
        line(out, "failed", failure)
    if printing.json:
        write_json(comparison.as_json())
    return 1 if comparison.failures else 0
