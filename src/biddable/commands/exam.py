"""The held-out rows as base and tuned are judged on them, and the report of the comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from biddable.data.split import cluster_numbers
from biddable.dataset.prepared import SplitPart
from biddable.display.report import Report, shown_tokens, sources_of, training_answers
from biddable.encoding.encode import Example
from biddable.judging.judge import (
    Judgement,
    LossRows,
    Question,
    judge,
    loss_rows,
    make_questions,
    reference_places,
    summed_losses,
)
from biddable.judging.own_metric import try_metric
from biddable.judging.scorecard import Scorecard, Terms, score
from biddable.template.template import Template

# Training examples whose loss is measured, to tell learning from memorizing: as many as are held
# out, within these.
FEWEST_COMPARED, MOST_COMPARED = 32, 64
# Held-out examples among which that of the first question is looked for.
FIRST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Exam:
    """What both models are judged with.

    Args:
        terms: how answers are judged, and which held-out examples belong together.
        max_new_tokens: longest answer; 0 takes a quarter more than the longest reference.
    """

    tokenizer: Any
    template: Template
    held_out: SplitPart
    train: SplitPart
    questions: Sequence[Question]
    terms: Terms
    max_new_tokens: int = 0

    def judged(
        self, model: Any, known: Judgement | None = None, kept: LossRows | None = None
    ) -> Judgement:
        """The model measured on all held-out rows and on some of training.

        Args:
            known: the same model's judgement by an exam of the same key.
            kept: the same rows for the model's top layers alone.
        """
        if known is not None:
            return replace(known, train_losses=summed_losses(model, self.compared()))
        rows = kept or self.loss_rows(model)
        return judge(
            model, self.tokenizer, self.template, self.questions, rows,
            max_new_tokens=self.max_new_tokens,
        )  # fmt: skip

    def loss_rows(self, model: Any) -> LossRows:
        """What the losses of a model are measured on, where it feeds tokens."""
        return loss_rows(model, self.tokenizer, self.held_out.examples, self.compared())

    def compared(self) -> Sequence[Example]:
        """The training examples whose loss is measured."""
        count = min(MOST_COMPARED, max(FEWEST_COMPARED, len(self.held_out.examples)))
        return self.train.examples[:count]

    def first_row(self) -> Example | None:
        """The held-out example that the first question is from, if its prompt begins it."""
        examples = self.held_out.examples[:FIRST_ROWS]
        (place,) = reference_places(self.questions[:1], examples, [e.input_ids for e in examples])
        return None if place is None else examples[place]

    def key(self) -> str:
        """The same for all exams that measure a model alike but for its training rows."""
        rows = [[list(e.input_ids), list(e.weights)] for e in self.held_out.examples]
        prompts = [[list(q.prompt), q.reference_tokens] for q in self.questions]
        text = json.dumps([self.template.text, self.max_new_tokens, rows, prompts])
        return hashlib.sha256(text.encode()).hexdigest()

    def scored(
        self, base: Judgement, tuned: Judgement, few_shot: Judgement | None = None
    ) -> Scorecard:
        """The two models compared."""
        answers = [answer for answer, _ in training_answers(self.train.conversations)]
        return score(base, tuned, self.questions, answers, few_shot=few_shot, terms=self.terms)

    def report(self, title: str, card: Scorecard, judgements: Mapping[str, Judgement]) -> Report:
        """The report of the comparison, without the facts about a run."""
        examples = self.held_out.examples
        return Report(
            title=title,
            card=card,
            questions=self.questions,
            base=judgements["base"],
            tuned=judgements["tuned"],
            few_shot=judgements.get("few-shot"),
            examples=examples,
            tokens=shown_tokens(examples, self.tokenizer, self.template),
            training_answers=training_answers(self.train.conversations),
            sources=sources_of(self.held_out.conversations),
        )


def set_exam(
    tokenizer: Any,
    template: Template,
    held_out: SplitPart,
    train: SplitPart,
    most: int,
    terms: Terms,
) -> Exam:
    """The exam on at most `most` of the held-out rows."""
    rows = held_out.conversations
    clusters = cluster_numbers(rows)
    questions = make_questions(rows, tokenizer, template, most=most, clusters=clusters)
    try_metric(terms.user_metric, questions)
    places = {(c.file, c.line): number for c, number in zip(rows, clusters, strict=True)}
    terms = replace(terms, clusters=[places[e.file, e.line] for e in held_out.examples])
    return Exam(tokenizer, template, held_out, train, questions, terms)
