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
    starts: Sequence[Sequence[int]] = (),
) -> list[Answer]:
    """The model's answer to each prompt, in order.

    Greedy answers are those of transformers' `generate`; no answer depends on the other prompts.

    Args:
        starts: how the answers begin, where that is known, a stop token included; else all are
            decoded from their first token on.

    Raises:
        BiddableError: `prompt_too_long`, a prompt leaves no room in the model's context.
    """
    sample = make_sampler(temperature, seed=seed)
    answers: list[Answer] = []
    # Equal beginnings side by side; a batch boundary would feed a prefix twice.
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    most = [min(max_new_tokens, room) for room in remaining_context(model, prompts)]
    written = [_to_stop(start, stop_ids) for start in starts or [()] * len(prompts)]
    written = [ids[:limit] for ids, limit in zip(written, most, strict=True)]
    for start in range(0, len(order), BATCH_ROWS):
        batch = order[start : start + BATCH_ROWS]
        names = [i for i in batch if not _is_whole(written[i], most[i], stop_ids)]
        continued = [[*prompts[i], *written[i]] for i in names]
        left = [most[i] - len(written[i]) for i in names]
        for step in decode(model, continued, names, stop_ids, left, sample):
            for row, token in step:
                written[names[row]].append(token)
        answers += [_answer(written[i], stop_ids) for i in batch]
    back = sorted(range(len(order)), key=order.__getitem__)
    return [answers[i] for i in back]


def _to_stop(ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """The ids to the first stop token, which is among them."""
    end = next((i for i, token in enumerate(ids, 1) if token in stop_ids), len(ids))
    return list(ids[:end])


def _is_whole(ids: Sequence[int], most: int, stop_ids: Collection[int]) -> bool:
    return len(ids) >= most or (len(ids) > 0 and ids[-1] in stop_ids)


def _answer(ids: Sequence[int], stop_ids: Collection[int]) -> Answer:
    """The answer of ids that may end with a stop token."""
    stopped = len(ids) > 0 and ids[-1] in stop_ids
    return Answer(tuple(ids[:-1] if stopped else ids), stopped)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[int],
    stop_ids: Collection[int],
    most: Sequence[int],
    sample: Sampler,
) -> Iterator[list[tuple[int, int]]]:
    """Yields (index of the prompt, next token) of the rows that still run, step by step.

    A row ends with its stop token, which is yielded, after as many tokens as it may have, or where
    the model's context is full.

    Args:
        names: the number by which the sampler knows each prompt.
        most: new tokens that each row may have at most.
    """
    room = [min(pair) for pair in zip(most, remaining_context(model, prompts), strict=True)]
    rows = [row for row, count in enumerate(room) if count > 0]
    if not rows:
        return
    batch = Batch(model)
    batch.join([prompts[row] for row in rows], rows)
    for count in range(1, max(room) + 1):
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
