"""`compare`: base against tuned on held-out rows, with a verdict."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from biddable.commands.comparing import (
    check_tokenizers,
    failures_of,
    read_limit,
    tell_of_system_prompt,
)
from biddable.commands.judged_rows import JudgedRows, judged_rows
from biddable.commands.task import clusters_at
from biddable.data.conversation import Conversation
from biddable.dataset.early import refuse_early
from biddable.dataset.encode_all import encode_all
from biddable.display.outcome import samples, show_outcome, show_smallest_difference
from biddable.display.report import Report, page, shown_tokens, training_answers, versions
from biddable.encoding.encode import Example
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.errors import BiddableError
from biddable.judging.format import given_format
from biddable.judging.judge import Judgement, Question, ask, judge
from biddable.judging.metric import title
from biddable.judging.own_metric import load_metric, try_metric
from biddable.judging.probes import Probe, probes, with_shots
from biddable.judging.scorecard import Scorecard, Terms, score
from biddable.judging.verdict import Verdict
from biddable.models.base import Base, load_config, load_tokenizer, resolve_base
from biddable.options import with_values
from biddable.settings import CompareSettings, Printing
from biddable.template.template import Template
from biddable.terminal import console, line, write_json

# Training rows whose loss is taken, to tell learning from memorizing.
MOST_TRAIN_ROWS = 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `compare`.

    Args:
        scorecard: metrics and verdict.
        rows: one record per answered prompt: prompt, reference, the answer of each model.
        probes: figures of tuned under other frames, by probe and metric.
        failures: what `fail_under` found.
    """

    scorecard: Scorecard
    rows: Sequence[dict[str, Any]]
    probes: Mapping[str, Mapping[str, float]]
    failures: Sequence[str]

    @property
    def verdict(self) -> Verdict:
        """What an expert would say to the figures."""
        return self.scorecard.verdict

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The object that `compare --json` prints: the scorecard, with the probes' figures."""
        found = self.scorecard.record()
        for probe, values in self.probes.items():
            for name, value in values.items():
                found[name][probe] = value
        return found


def compare(base: str, tuned: str, **options: Any) -> Comparison:
    """Judges two models on the same held-out rows, one in memory at a time.

    Args:
        base, tuned: run folder, model folder, hub id, .gguf file or packaged base.
        options: fields of `biddable.settings.CompareSettings`, by name.

    Raises:
        BiddableError: a model, the data or an option cannot be used.
    """
    asked = with_values(CompareSettings(), {"base": base, "tuned": tuned, **options})
    base, tuned = asked.base, asked.tuned
    refuse_early(asked)
    limits = [read_limit(text) for text in asked.fail_under]
    device = choose_device(asked.device)
    form = given_format(asked.format) if asked.format else None
    metric = load_metric(asked.metric)
    before, after = resolve_base(base), resolve_base(tuned)
    tokenizer = load_tokenizer(after)
    check_tokenizers(load_tokenizer(before), tokenizer, base)
    template = Template.load(asked.template or None, tokenizer)
    line(console(), "reading", "the rows to judge on")
    rows = judged_rows(asked, tuned, console())
    tell_of_system_prompt(after, rows.held_out)
    context = min(int(load_config(b).max_position_embeddings) for b in (before, after))
    judging = _Judging(asked, tokenizer, template, rows, context, device)
    try_metric(metric, judging.questions)
    show_smallest_difference(judging.questions, console())
    shots = with_shots(rows.held_out, rows.train, asked.few_shot)
    first, rival = _judge_base(judging, before, shots)
    second, probed = _judge_tuned(judging, after)
    answers = training_answers(rows.train)
    clusters = clusters_at(rows.held_out, rows.clusters, judging.examples)
    terms = Terms(form=form, clusters=clusters, leaked=rows.leaked, user_metric=metric)
    card = score(first, second, judging.questions, answers, few_shot=rival, terms=terms)
    judgements = {"base": first, **({"few-shot": rival} if rival else {}), "tuned": second}
    result = Comparison(
        card,
        samples(judging.questions, judgements),
        _probe_figures(probed, judging.questions, answers, card, terms),
        failures_of(card, limits),
    )
    _show(result, judging.questions, judgements)
    if asked.html:
        facts = {"base": base, "tuned": tuned, "data": asked.data, **versions()}
        _write_page(judging, card, judgements, facts)
    return result


class _Judging:
    """What both models are judged with; the rows are encoded once."""

    def __init__(
        self,
        asked: CompareSettings,
        tokenizer: Any,
        template: Template,
        rows: JudgedRows,
        context: int,
        device: torch.device,
    ) -> None:
        self.asked, self.tokenizer, self.template = asked, tokenizer, template
        self.context, self.rows, self.out = context, rows, console()
        self.questions = ask(
            rows.held_out, tokenizer, template, most=asked.answers, clusters=rows.clusters
        )
        self.examples = self.encoded(rows.held_out)
        self.train = self.encoded(rows.train[:MOST_TRAIN_ROWS])
        self.device = device

    def encoded(self, conversations: Sequence[Conversation]) -> list[Example]:
        """The examples of conversations.

        Raises:
            BiddableError: the first fault that was found.
        """
        found = encode_all(conversations, self.tokenizer, self.template, max_length=self.context)
        for finding in found.findings:
            if finding.severity == "error":
                raise BiddableError.of(finding)
        return found.examples

    def load(self, base: Base) -> Any:
        """A model in memory."""
        line(self.out, "loading", f"'{base.name}'")
        dtype = choose_dtype(self.asked.precision, self.device)  # type: ignore[arg-type]
        return load_model(base, self.device, dtype)

    def judged(
        self, model: Any, questions: Sequence[Question], examples: Sequence[Example], train: bool
    ) -> Judgement:
        """One judgement."""
        told = f"{len(questions)} prompts, measuring {len(examples)} held-out rows"
        line(self.out, "answering", told)
        return judge(
            model, self.tokenizer, self.template, questions, examples,
            train_examples=self.train if train else (),
            max_new_tokens=self.asked.max_new_tokens,
        )  # fmt: skip


def _judge_base(
    judging: _Judging, base: Base, shots: Sequence[Conversation]
) -> tuple[Judgement, Judgement | None]:
    """Base, and base with examples in its prompts if that was asked for."""
    model = judging.load(base)
    plain = judging.judged(model, judging.questions, judging.examples, train=True)
    rival = None
    if shots:
        most = len(judging.questions)
        asked = ask(shots, judging.tokenizer, judging.template, most=most)
        rival = judging.judged(model, asked, [], train=False)
    del model
    gc.collect()
    return plain, rival


def _judge_tuned(judging: _Judging, tuned: Base) -> tuple[Judgement, list[tuple[Probe, Judgement]]]:
    """Tuned, and tuned under the frames it was not trained with if that was asked for."""
    model = judging.load(tuned)
    plain = judging.judged(model, judging.questions, judging.examples, train=True)
    probed = []
    if judging.asked.probe_frame:
        for probe in probes(judging.rows.held_out, judging.template):
            asked = ask(
                probe.conversations, judging.tokenizer, probe.template, most=len(judging.questions)
            )
            probed.append((probe, judging.judged(model, asked, [], train=False)))
    del model
    gc.collect()
    return plain, probed


def _probe_figures(
    probed: Sequence[tuple[Probe, Judgement]],
    questions: Sequence[Question],
    answers: Sequence[str],
    card: Scorecard,
    terms: Terms,
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for probe, judgement in probed:
        # Held against itself: only its own figures count here.
        metrics = score(judgement, judgement, questions, answers, terms=terms).metrics
        found[probe.name] = {
            name: metric.tuned
            for name, metric in metrics.items()
            if name in card.metrics and name != "general_loss"
        }
    return found


def _write_page(
    judging: _Judging,
    card: Scorecard,
    judgements: Mapping[str, Judgement],
    facts: Mapping[str, str],
) -> None:
    """Writes the report where it was asked for.

    Raises:
        BiddableError: `output_not_writable`, it cannot be written there.
    """
    asked = judging.asked
    report = Report(
        title=f"{facts['base']} and {facts['tuned']}",
        card=card,
        questions=judging.questions,
        base=judgements["base"],
        tuned=judgements["tuned"],
        few_shot=judgements.get("few-shot"),
        examples=judging.examples,
        tokens=shown_tokens(judging.examples, judging.tokenizer, judging.template),
        training_answers=training_answers(judging.rows.train),
        lengths=[len(e.input_ids) for e in judging.examples],
        limit=judging.context,
        facts=facts,
    )
    try:
        Path(asked.html).write_text(page(report, redact=asked.redact), encoding="utf-8")
    except OSError as error:
        raise BiddableError(
            "output_not_writable",
            f"the report {asked.html} cannot be written: {error.strerror}",
            "give a path in a folder where you may write",
        ) from error


def _show(
    result: Comparison, questions: Sequence[Question], judgements: Mapping[str, Judgement]
) -> None:
    """Scorecard, three answers, verdict, probes and failures on standard error."""
    out = console()
    show_outcome(result.scorecard, questions, judgements, out)
    for probe, values in result.probes.items():
        told = ", ".join(f"{title(name)} {value:.2f}" for name, value in values.items())
        line(out, probe.replace("_", " "), told)
    for failure in result.failures:
        line(out, "failed", failure)


def run(options: dict[str, Any], printing: Printing) -> int:
    """Compares; returns 1 where --fail-under found something."""
    comparison = compare(**options)
    if printing.json:
        write_json(comparison.as_json())
    return 1 if comparison.failures else 0
