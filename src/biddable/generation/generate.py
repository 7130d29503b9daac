"""Answers to many prompts at once: shared beginnings fed once, rows leave as they finish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """

    ids: tuple[int, ...]
    stopped: bool

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
) -> list[Answer]:
    """The model's answer to each prompt, in order.

    Greedy answers are those of transformers' `generate`; no answer depends on the other prompts.

    Raises:
        BiddableError: `prompt_too_long`, a prompt leaves no room in the model's context.
    """
    sample = make_sampler(temperature, seed=seed)
    answers: list[Answer] = []
    # Equal beginnings side by side; a batch boundary would feed a prefix twice.
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    for start in range(0, len(order), BATCH_ROWS):
        batch = [list(prompts[i]) for i in order[start : start + BATCH_ROWS]]
        names = order[start : start + BATCH_ROWS]
        ids: list[list[int]] = [[] for _ in batch]
        stopped = [False] * len(batch)
        for step in decode(model, batch, names, stop_ids, max_new_tokens, sample):
            for row, token in step:
                stopped[row] = token in stop_ids
                if not stopped[row]:
                    ids[row].append(token)
        answers += [Answer(tuple(i), s) for i, s in zip(ids, stopped, strict=True)]
    back = sorted(range(len(order)), key=order.__getitem__)
    return [answers[i] for i in back]


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[int],
    stop_ids: Collection[int],
    max_new_tokens: int,
    sample: Sampler,
) -> Iterator[list[tuple[int, int]]]:
    """Yields (index of the prompt, next token) of the rows that still run, step by step.

    A row ends with its stop token, which is yielded, after `max_new_tokens`, or where the model's
    context is full.

    Args:
        names: the number by which the sampler knows each prompt.
    """
    room = [min(max_new_tokens, r) for r in remaining_context(model, prompts)]
    if max_new_tokens < 1 or not prompts:
        return
    batch = Batch(model)
    batch.join(prompts, range(len(prompts)))
    for count in range(1, max_new_tokens + 1):
        places = list(batch.names)
        tokens = sample(batch.logits, [-1 if r is None else names[r] for r in places])
        step = [(r, t) for r, t in zip(places, tokens, strict=True) if r is not None]
        yield step
        batch.leave({row for row, token in step if token in stop_ids or count == room[row]})
        if not batch:
            return
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
