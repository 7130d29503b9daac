"""One model measured on held-out rows: losses, answers, nothing compared yet.

A judgement is plain numbers and texts, so that base and tuned need not be in memory together: base
is judged before training starts, its judgement kept in the run folder, and tuned judged at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from biddable.generation.sure_start import sure_start
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
        questions: the same for base and tuned. What the losses already tell of their answers is
            not decoded again.
        rows: what losses are measured on.
        max_new_tokens: the limit of an answer; 0 takes a quarter more than the longest reference.
    """
    # Side by side, an example and its prompt with another answer share the prompt's pass.
    pairs = [e for pair in zip(rows.held_out, rows.swapped, strict=False) for e in pair]
    fed = _losses(rows.model, [*pairs, *rows.held_out[len(rows.swapped) :]])
    losses, others = fed[: len(pairs) : 2] + fed[len(pairs) :], fed[1 : len(pairs) : 2]
    answers = generate(
        model,
        [q.prompt for q in questions],
        stop_ids=stop_ids_of(model, tokenizer, template),
        max_new_tokens=max_new_tokens or answer_limit(questions),
        starts=sure_starts(questions, rows.held_out, rows.token_ids, [ce for _, ce in losses]),
    )
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


def sure_starts(
    questions: Sequence[Question],
    examples: Sequence[Example],
    token_ids: Sequence[Sequence[int]],
    losses: Sequence[Sequence[float]],
) -> list[tuple[int, ...]]:
    """How the greedy answer to each question begins, by the losses of the row that it is from.

    Args:
        examples, token_ids, losses: rows, the ids of each, and CE of each of its trained tokens.
    """
    rows_at: dict[tuple[str, int], list[int]] = {}
    for i, example in enumerate(examples):
        rows_at.setdefault((example.file, example.line), []).append(i)
    starts = []
    for q in questions:
        known = (
            sure_start(q.prompt, token_ids[i], examples[i].weights, losses[i])
            for i in rows_at.get((q.file, q.line), ())
        )
        starts.append(max(known, key=len, default=()))
    return starts


def answer_limit(questions: Sequence[Question]) -> int:
    """A quarter more tokens than the longest reference: a longer answer is taken for a loop."""
    longest = max((q.reference_tokens for q in questions), default=0)
    return min(LONGEST_ANSWER, max(SHORTEST_LIMIT, ceil(1.25 * longest)))


def summed_losses(model: Any, examples: Sequence[Example]) -> list[tuple[float, float]]:
    """(sum of w * CE, sum of w) of each example."""
    return [sums for sums, _ in _losses(model, examples)]


def _losses(
    model: Any, examples: Sequence[Example]
) -> list[tuple[tuple[float, float], list[float]]]:
    """((sum of w * CE, sum of w), CE of each trained token) of each example."""
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
