"""Answers to many prompts at once: shared beginnings fed once, rows leave as they finish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from biddable.engine.plan import Trainable
from biddable.errors import BiddableError
from biddable.generation.batch import Batch
from biddable.generation.sampler import Sampler, make_sampler
from biddable.models.support import context_of

# Rows decoded together: more cost memory for their caches and bring no speed.
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote after one prompt.

    Args:
        ids: the tokens, without the stop token.
        stopped: whether a stop token ended it, rather than the limit of length.
        losses: CE of each trained token of the prompt's row, where one was given.
    """

    ids: tuple[int, ...]
    stopped: bool
    losses: tuple[float, ...] = field(default=(), compare=False)

    @property
    def finish(self) -> Literal["stop", "length"]:
        """As the OpenAI interface names it."""
        return "stop" if self.stopped else "length"


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    references: Sequence[Trainable | None] = (),
) -> list[Answer]:
    """The model's answer to each prompt, in order.

    Greedy answers are those of transformers' `generate`; no answer depends on the other prompts.

    Args:
        references: for each prompt the row that it begins, with a trained token behind it, or None;
            for greedy answers only. What the losses on a row tell of the answer is not decoded, and
            the losses are returned.

    Raises:
        BiddableError: `prompt_too_long`, a prompt leaves no room in the model's context.
        RuntimeError: references for answers that are drawn.
    """
    if references and temperature > 0:
        raise RuntimeError("a reference tells nothing of an answer that is drawn")
    sample = make_sampler(temperature, seed=seed)
    # Equal beginnings side by side; a batch boundary would feed a prefix twice.
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    most = [min(max_new_tokens, room) for room in remaining_context(model, prompts)]
    written: list[list[int]] = [[] for _ in prompts]
    losses: list[tuple[float, ...]] = [()] * len(prompts)
    for start in range(0, len(order), BATCH_ROWS):
        names = [i for i in order[start : start + BATCH_ROWS] if most[i] > 0]
        if not names:
            continue
        batch, rows = Batch(model), [references[i] for i in names] if references else ()
        known = batch.join([prompts[i] for i in names], names, rows)
        for i, what in zip(names, known, strict=True):
            written[i], losses[i] = _to_stop(what.start, stop_ids)[: most[i]], what.losses
        batch.leave([i for i in names if _is_whole(written[i], most[i], stop_ids)])
        left = {i: most[i] - len(written[i]) for i in names}
        for step in decode(batch, left, stop_ids, sample):
            for i, token in step:
                written[i].append(token)
    return [_answer(ids, stop_ids, ce) for ids, ce in zip(written, losses, strict=True)]


def _to_stop(ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """The ids to the first stop token, which is among them."""
    end = next((i for i, token in enumerate(ids, 1) if token in stop_ids), len(ids))
    return list(ids[:end])


def _is_whole(ids: Sequence[int], most: int, stop_ids: Collection[int]) -> bool:
    return len(ids) >= most or (len(ids) > 0 and ids[-1] in stop_ids)


def _answer(ids: Sequence[int], stop_ids: Collection[int], losses: tuple[float, ...]) -> Answer:
    """The answer of ids that may end with a stop token."""
    stopped = len(ids) > 0 and ids[-1] in stop_ids
    return Answer(tuple(ids[:-1] if stopped else ids), stopped, losses)


def decode(
    batch: Batch, most: Mapping[int, int], stop_ids: Collection[int], sample: Sampler
) -> Iterator[list[tuple[int, int]]]:
    """Yields (name, next token) of the rows of a batch that still run, step by step.

    A row ends with its stop token, which is yielded, or after as many tokens as it may have.

    Args:
        most: new tokens that the row of each name may have, at least 1; by the name the sampler
            knows it.
    """
    count = 0
    while batch:
        count += 1
        tokens = sample(batch.logits, [-1 if name is None else name for name in batch.names])
        rows = zip(batch.names, tokens, strict=True)
        step = [(name, token) for name, token in rows if name is not None]
        yield step
        batch.leave({name for name, token in step if token in stop_ids or count == most[name]})
        if batch:
            batch.step(tokens)


def remaining_context(model: Any, prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens the model's context leaves after each prompt.

    Raises:
        BiddableError: `prompt_too_long`, it leaves none.
    """
    context = context_of(model.config)
    for prompt in prompts:
        if len(prompt) >= context:
            raise BiddableError(
                "prompt_too_long",
                f"a prompt of {len(prompt)} tokens leaves no room in the model's context of "
                f"{context}: {len(prompt) - context + 1} too many",
                "shorten the prompt",
            )
    return [context - len(prompt) for prompt in prompts]
