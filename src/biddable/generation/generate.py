"""Answers to many prompts at once: shared beginnings fed once, rows leave as they finish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from biddable.engine.layout import Layout, Prefix
from biddable.engine.loss import head_logits, head_of
from biddable.engine.plan import Segment, plan_step
from biddable.engine.row_attention import Rows, start_rows
from biddable.engine.step import feed, feed_prefixes
from biddable.errors import BiddableError
from biddable.generation.sampler import Sampler, make_sampler
from biddable.models.support import context_of

# Rows decoded together: more cost memory for their caches and bring no speed.
BATCH_ROWS = 64
# Tokens of one flat pass over prompts.
BATCH_TOKENS = 2048
# Rows leave the batch when this share of it has finished: moving the caches costs a little.
LEAVE_SHARE = 0.1


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


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt as the plan wants it: the token after it is to be predicted, nothing else."""

    input_ids: Sequence[int]
    weights: Sequence[float]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Answer]:
    """The model's answer to each prompt, in order.

    Greedy answers are those of transformers' `generate`; no answer depends on the other prompts.

    Raises:
        BiddableError: `prompt_too_long`, a prompt leaves no room in the model's context.
    """
    sample = make_sampler(temperature, top_p, seed)
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
    room = [min(max_new_tokens, r) for r in rooms(model, prompts)]
    if max_new_tokens < 1 or not prompts:
        return
    with torch.no_grad():
        rows, order, logits = _prefill(model, prompts)
    # Positions in `order` of the rows in the batch; those that finished are None until they leave.
    batch: list[int | None] = list(range(len(order)))
    for count in range(1, max_new_tokens + 1):
        tokens = sample(logits, [-1 if r is None else names[order[r]] for r in batch])
        yield [(order[r], t) for r, t in zip(batch, tokens, strict=True) if r is not None]
        for place, (row, token) in enumerate(zip(batch, tokens, strict=True)):
            if row is not None and (token in stop_ids or count == room[order[row]]):
                batch[place] = None
        on = [place for place, row in enumerate(batch) if row is not None]
        if not on:
            return
        with torch.no_grad():
            if len(batch) - len(on) > LEAVE_SHARE * len(batch):
                rows.keep(on)
                batch, tokens = [batch[i] for i in on], [tokens[i] for i in on]
            logits = _next(model, rows, tokens)


def rooms(model: Any, prompts: Sequence[Sequence[int]]) -> list[int]:
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


def _prefill(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Rows, list[int], Tensor]:
    """Feeds the prompts: (rows, the prompt of each row, (N, V) logits of the first new token)."""
    examples = [_Prompt([*p, 0], [0.0] * len(p) + [1.0]) for p in prompts]
    plan = plan_step(examples, BATCH_TOKENS)
    prefixes, _ = feed_prefixes(model, plan)
    own: list[Prefix] = []
    ends: list[Tensor] = []
    for segments in plan.micro_batches:
        kept = [Prefix(len(s)) for s in segments]
        layout = Layout([len(s) for s in segments], [s.group for s in segments], prefixes, kept)
        hidden = feed(model, *_tensors(prompts, segments, model.device), layout)
        last = torch.tensor([len(s) for s in segments], device=model.device).cumsum(0) - 1
        ends.append(hidden[last])
        own += kept
    segments = tuple(s for batch in plan.micro_batches for s in batch)
    rows = start_rows(own, [s.group for s in segments], prefixes)
    return rows, [s.example for s in segments], head_logits(torch.cat(ends), head_of(model))


def _tensors(
    prompts: Sequence[Sequence[int]], segments: Sequence[Segment], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(1, T) token ids and positions of the segments."""
    ids = [i for s in segments for i in prompts[s.example][s.start : s.stop]]
    positions = [p for s in segments for p in range(s.start, s.stop)]
    return torch.tensor([ids], device=device), torch.tensor([positions], device=device)


def _next(model: Any, rows: Rows, tokens: Sequence[int]) -> Tensor:
    """(N, V) logits after one more token of each row."""
    ids = torch.tensor([tokens], device=model.device)
    hidden = feed(model, ids, rows.positions()[None, :], rows)
    rows.step()
    return head_logits(hidden, head_of(model))
