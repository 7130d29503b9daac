"""One model measured on held-out rows: losses, answers, nothing compared yet.

A judgement is plain numbers and texts, so that base and tuned need not be in memory together: base
is judged before training starts, its judgement kept in the run folder, and tuned judged at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from biddable.data.conversation import Conversation
from biddable.data.fields import origin_place
from biddable.encoding.encode import Example, encode_prompt
from biddable.engine.plan import first_trained
from biddable.generation.batch import BATCH_TOKENS
from biddable.generation.generate import generate
from biddable.generation.stream import text_decoder
from biddable.judging.general import GENERAL_TEXT
from biddable.models.model_files import stop_ids_of
from biddable.models.support import context_of
from biddable.settings import ANSWERS
from biddable.template.template import Template
from biddable.training.evaluate import token_losses

# Examples fed a second time, with another's answer.
MOST_SWAPPED = 128
# Examples whose loss is kept token by token, to be looked at.
MOST_SHOWN = 12
LONGEST_ANSWER = 512
SHORTEST_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out conversation up to its last answer.

    Args:
        prompt: the ids that chat would send.
        text: the last message before the answer, to be shown.
        reference: the answer that the row gives.
        reference_tokens: its length.
        file, line: where the row came from.
        source, url: where a mined row's answer stands, `docs/a.md:3-9`, and its address.
        cluster: rows of one number (one group, near duplicates) are not independent of each
            other; None for a row that stands alone.
    """

    prompt: Sequence[int]
    text: str
    reference: str
    reference_tokens: int
    file: str = ""
    line: int = 0
    cluster: int | None = None
    source: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one model does on the held-out rows.

    Args:
        losses: per held-out example (sum of w * CE, sum of w) over its trained tokens.
        swapped_losses: of the first of them, with another row's answer behind the row's own prompt.
        train_losses: the same for some training examples; empty where there were none.
        general: (loss sum, tokens) of paragraphs that have nothing to do with the data.
        token_losses: CE of each trained token of the first examples.
        answers: greedy answers to the questions, in order.
        stopped: whether the model ended the answer by itself.
        tokens: the length of each answer, without the stop token.
    """

    losses: Sequence[Sequence[float]]
    swapped_losses: Sequence[Sequence[float]]
    train_losses: Sequence[Sequence[float]]
    general: Sequence[Sequence[float]]
    token_losses: Sequence[Sequence[float]]
    answers: Sequence[str]
    stopped: Sequence[bool]
    tokens: Sequence[int]

    def mean_loss(self) -> float:
        """Held-out loss per trained token."""
        return sum(s for s, _ in self.losses) / sum(w for _, w in self.losses)


@dataclass(frozen=True, slots=True)
class LossRows:
    """What losses are measured on.

    Args:
        model: what feeds these rows: the judged model, or its top layers, fed with kept states.
        held_out: all held-out examples.
        token_ids: those of each of them; held-out examples may hold numbers of kept states instead.
        swapped: the first of them with another's answer.
        train: some of those trained on, to tell learning from memorizing.
        general: paragraphs that have nothing to do with the data.
    """

    model: Any
    held_out: Sequence[Example]
    token_ids: Sequence[Sequence[int]]
    swapped: Sequence[Example]
    train: Sequence[Example]
    general: Sequence[Example]


def loss_rows(
    model: Any, tokenizer: Any, held_out: Sequence[Example], train: Sequence[Example] = ()
) -> LossRows:
    """The examples that a model's losses are measured on."""
    swaps = swapped(held_out[:MOST_SWAPPED])
    ids = [e.input_ids for e in held_out]
    return LossRows(model, held_out, ids, swaps, train, _general(model, tokenizer))


def make_questions(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: Template,
    *,
    most: int = ANSWERS,
    clusters: Sequence[int] | None = None,
) -> list[Question]:
    """The questions of the first `most` conversations that end in an answer.

    Args:
        clusters: one number for each conversation, the same for those that belong together.
    """
    questions: list[Question] = []
    for i, conversation in enumerate(conversations):
        messages = conversation.messages
        last = max((k for k, m in enumerate(messages) if m.role == "assistant"), default=0)
        if len(questions) == most:
            break
        # A call of a tool is no text that could be compared.
        if last == 0 or (not messages[last].content and "tool_calls" in messages[last].extra):
            continue
        reference = messages[last].content
        questions.append(
            Question(
                encode_prompt(messages[:last], tokenizer, template, tools=conversation.tools),
                messages[last - 1].content,
                reference,
                len(tokenizer.encode(reference, add_special_tokens=False)),
                conversation.file,
                conversation.line,
                None if clusters is None else clusters[i],
                *origin_place(conversation),
            )
        )
    return questions


def judge(
    model: Any,
    tokenizer: Any,
    template: Template,
    questions: Sequence[Question],
    rows: LossRows,
    *,
    max_new_tokens: int = 0,
) -> Judgement:
    """Measures one model.

    Args:
        questions: the same for base and tuned. Their rows are fed once, for the losses and the
            answers.
        rows: what losses are measured on.
        max_new_tokens: the limit of an answer; 0 takes a quarter more than the longest reference.
    """
    places = reference_places(questions, rows.held_out, rows.token_ids)
    references = [
        None if i is None else Example(rows.token_ids[i], rows.held_out[i].weights) for i in places
    ]
    answers = generate(
        model,
        [q.prompt for q in questions],
        stop_ids=stop_ids_of(model, tokenizer, template),
        max_new_tokens=max_new_tokens or answer_limit(questions),
        references=references,
    )
    fed = {i: a.losses for i, a in zip(places, answers, strict=True) if i is not None and a.losses}
    losses, others = _other_losses(rows, fed)
    text = text_decoder(tokenizer)
    return Judgement(
        losses=[sums for sums, _ in losses],
        swapped_losses=[sums for sums, _ in others],
        train_losses=summed_losses(rows.model, rows.train),
        general=summed_losses(rows.model, rows.general),
        token_losses=[tokens for _, tokens in losses[:MOST_SHOWN]],
        answers=[text(a.ids) for a in answers],
        stopped=[a.stopped for a in answers],
        tokens=[len(a.ids) for a in answers],
    )


def reference_places(
    questions: Sequence[Question], examples: Sequence[Example], token_ids: Sequence[Sequence[int]]
) -> list[int | None]:
    """For each question the index of an example from its place that the prompt begins, with a
    trained answer directly behind it.

    Args:
        token_ids: those of each example.
    """
    examples_at: dict[tuple[str, int], list[int]] = {}
    for i, example in enumerate(examples):
        examples_at.setdefault((example.file, example.line), []).append(i)
    places: list[int | None] = []
    for q in questions:
        count = len(q.prompt)
        own = (
            i
            for i in examples_at.get((q.file, q.line), ())
            if list(token_ids[i][:count]) == list(q.prompt) and any(examples[i].weights[count:][:1])
        )
        places.append(next(own, None))
    return places


Loss = tuple[tuple[float, float], list[float]]
"""((sum of w * CE, sum of w), CE of each trained token) of an example."""


def _other_losses(
    rows: LossRows, fed: Mapping[int, Sequence[float]]
) -> tuple[list[Loss], list[Loss]]:
    """The losses of all held-out examples, and of those with another's answer.

    Args:
        fed: losses of held-out examples that were fed already, by index.
    """
    examples = {(i, 0): e for i, e in enumerate(rows.held_out) if i not in fed}
    examples |= {(i, 1): e for i, e in enumerate(rows.swapped)}
    # Side by side, an example and its prompt with another answer share the prompt's pass.
    places = sorted(examples)
    measured = dict(zip(places, _losses(rows.model, [examples[p] for p in places]), strict=True))
    for i, losses in fed.items():
        weights = [w for w in rows.held_out[i].weights if w > 0]
        total = sum(w * ce for w, ce in zip(weights, losses, strict=True))
        measured[i, 0] = (total, sum(weights)), [round(ce, 4) for ce in losses]
    own = [measured[i, 0] for i in range(len(rows.held_out))]
    return own, [measured[i, 1] for i in range(len(rows.swapped))]


def answer_limit(questions: Sequence[Question]) -> int:
    """A quarter more tokens than the longest reference: a longer answer is taken for a loop."""
    longest = max((q.reference_tokens for q in questions), default=0)
    return min(LONGEST_ANSWER, max(SHORTEST_LIMIT, ceil(1.25 * longest)))


def summed_losses(model: Any, examples: Sequence[Example]) -> list[tuple[float, float]]:
    """(sum of w * CE, sum of w) of each example."""
    return [sums for sums, _ in _losses(model, examples)]


def _losses(model: Any, examples: Sequence[Example]) -> list[Loss]:
    return [
        (
            (float((losses.double() * weights).sum()), float(weights.sum())),
            [round(x, 4) for x in losses.tolist()],
        )
        for losses, weights in token_losses(model, examples, BATCH_TOKENS)
    ]


def swapped(examples: Sequence[Example]) -> list[Example]:
    """Each example's prompt with the answer of the next example that has another answer.

    Empty where all answers are the same. A model that knows which answer belongs to which prompt
    finds these less likely; one that learned only what all answers have in common does not.
    """
    cuts = [first_trained(e) for e in examples]
    answers = [tuple(e.input_ids[cut:]) for e, cut in zip(examples, cuts, strict=True)]
    swaps: list[Example] = []
    for i, (example, cut) in enumerate(zip(examples, cuts, strict=True)):
        others = (j % len(examples) for j in range(i + 1, i + len(examples)))
        other = next((j for j in others if answers[j] != answers[i]), None)
        if other is None:
            return []
        weights = [0.0] * cut + list(examples[other].weights[cuts[other] :])
        swaps.append(Example([*example.input_ids[:cut], *answers[other]], weights))
    return swaps


def _general(model: Any, tokenizer: Any) -> list[Example]:
    """The paragraphs of the general text as examples, cut to the model's context."""
    context = context_of(model.config)
    texts = [tokenizer.encode(text)[:context] for text in GENERAL_TEXT.split("\n\n")]
    return [Example(ids, [0.0] + [1.0] * (len(ids) - 1)) for ids in texts if len(ids) > 1]
