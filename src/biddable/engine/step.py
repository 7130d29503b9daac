"""The gradient of one optimizer step, pass by pass, and the losses of examples without gradient.

The model's weights do not change within a step, so a prefix that several examples share is fed once
for all its micro-batches: its pass keeps the graph, the suffixes run against its keys and values as
detached leaves, and what they collect there goes through the prefix once at the end. Where all of
the step fits into one pass, the prefix is simply in it. Both are exact; see docs/design.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from biddable.engine.attention import laid_out
from biddable.engine.beside import feed_beside, is_flat
from biddable.engine.embedding import embed, tokens_of
from biddable.engine.head import Head, forward_to_head
from biddable.engine.layout import Layout, Prefix
from biddable.engine.loss import loss_sum, row_losses
from biddable.engine.plan import Segment, StepPlan, Trainable, plan_step, trained_count
from biddable.engine.row_attention import Rows
from biddable.engine.varlen import to_device

T = TypeVar("T")


class RunPass(Protocol):
    """Calls one pass of the model; with sharded weights, inside the hooks that gather them."""

    def __call__(self, work: Callable[[], T]) -> T: ...


def directly(work: Callable[[], T]) -> T:
    """Calls a pass of a model that holds all of its weights."""
    return work()


@dataclass(frozen=True, slots=True)
class Flat:
    """The tensors of one micro-batch.

    Args:
        input_ids, position_ids: (1, T), those of joined prefixes first.
        rows: (R,) which of the T rows predict a trained token.
        targets, weights: (R,) what they should predict, and how much it counts.
        segments: the segments fed, in order.
    """

    input_ids: Tensor
    position_ids: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    segments: tuple[Segment, ...]


def backward_step(
    model: Any, examples: Sequence[Trainable], plan: StepPlan, run: RunPass = directly
) -> tuple[float, float, list[float]]:
    """Adds the gradient of sum(w * CE) over the examples to the parameters' `.grad`.

    The sum is not divided by the weight sum: the caller does so once, after all ranks are added.

    Returns:
        (loss sum, weight sum, the mean loss of each example).
    """
    prefixes, end = _prefixes(model, plan, run)
    leaves = prefixes if plan.joined else [p.leaves() for p in prefixes]
    fed: list[tuple[Flat, Tensor, Tensor]] = []
    for flat, layout in _passes(model, examples, plan, leaves):
        part, losses = run(partial(_loss_of, model, flat, layout))
        part.backward()  # type: ignore[no-untyped-call]
        fed.append((flat, part.detach(), losses))
    if not plan.joined:
        _backward_prefixes(prefixes, leaves, end if plan.even else None)
    # Read last: CUDA works while the passes are called, and to read a number is to wait for it.
    loss, weight, means = 0.0, 0.0, [0.0] * len(examples)
    for flat, part, losses in fed:
        loss += part.item()
        weight += float(flat.weights.sum())
        for example, own, weights in _by_example(flat, examples, losses):
            means[example] = float((own * weights).sum() / weights.sum())
    return loss, weight, means


@torch.no_grad()
def example_losses(
    model: Any, examples: Sequence[Trainable], plan: StepPlan, run: RunPass = directly
) -> list[tuple[Tensor, Tensor]]:
    """(losses, weights) of the trained tokens of each example, in the order of the examples."""
    pairs: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(examples)
    prefixes, _ = _prefixes(model, plan, run)
    for flat, layout in _passes(model, examples, plan, prefixes):
        losses = run(partial(_losses_of, model, flat, layout))
        for example, own, weights in _by_example(flat, examples, losses):
            pairs[example] = (own, weights)
    return pairs


def _loss_of(model: Any, flat: Flat, layout: Layout) -> tuple[Tensor, Tensor]:
    hidden, head = feed(model, flat.input_ids, flat.position_ids, layout)
    targets = tokens_of(model.get_input_embeddings(), flat.targets)
    return loss_sum(hidden[flat.rows], head, targets, flat.weights)


def _losses_of(model: Any, flat: Flat, layout: Layout) -> Tensor:
    hidden, head = feed(model, flat.input_ids, flat.position_ids, layout)
    targets = tokens_of(model.get_input_embeddings(), flat.targets)
    return row_losses(hidden[flat.rows], head, targets)


def _by_example(
    flat: Flat, examples: Sequence[Trainable], losses: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(example, losses, weights) of each segment of a micro-batch with its (R,) losses."""
    counts = [trained_count(examples[segment.example]) for segment in flat.segments]
    parts = (torch.split(t.cpu(), counts) for t in (losses, flat.weights))
    for segment, own, weights in zip(flat.segments, *parts, strict=True):
        yield segment.example, own, weights


def _passes(
    model: Any, examples: Sequence[Trainable], plan: StepPlan, prefixes: Sequence[Prefix]
) -> Iterator[tuple[Flat, Layout]]:
    """Each micro-batch, and how it is cut."""
    for segments in plan.micro_batches:
        # An idle pass feeds no prefix either.
        lead = plan.prefixes if plan.joined and segments else ()
        lengths = [*map(len, lead), *map(len, segments)] or [1]
        prefix_of = [-1] * len(lead) + [s.group for s in segments] or [-1]
        layout = Layout(
            lengths, prefix_of, prefixes if segments else (), keep=prefixes if lead else ()
        )
        yield flatten(examples, segments, model.device, lead), layout


def flatten(
    examples: Sequence[Trainable],
    segments: Sequence[Segment],
    device: torch.device,
    prefixes: Sequence[Sequence[int]] = (),
) -> Flat:
    """The tensors of a micro-batch of these prefixes and segments. If both are empty, one dummy
    token."""
    ids = [i for p in prefixes for i in p]
    positions = [i for p in prefixes for i in range(len(p))]
    # The token behind each one, and its weight; nothing is trained right behind a prefix.
    following, counts = [0] * len(ids), [0.0] * len(ids)
    for s in segments:
        example = examples[s.example]
        ids += example.input_ids[s.start : s.stop]
        positions += range(s.start, s.stop)
        # Position i - 1 predicts token i; the plan keeps every such row inside the segment.
        following += example.input_ids[s.start + 1 : s.stop + 1]
        counts += example.weights[s.start + 1 : s.stop + 1]
    behind = _integers(following)
    weights = torch.frombuffer(array("d", counts or [0.0]), dtype=torch.float64)
    rows = (weights > 0).nonzero()[:, 0]
    return Flat(
        to_device(_integers(ids)[None], device),
        to_device(_integers(positions)[None], device),
        to_device(rows, device),
        to_device(behind[rows], device),
        to_device(weights[rows].to(_float(device)), device),
        tuple(segments),
    )


def _integers(numbers: Sequence[int]) -> Tensor:
    """(N,) numbers, or one zero if there are none. By an array: torch.tensor(list) takes four times
    as long, which a GPU would wait for."""
    return torch.frombuffer(array("q", numbers or [0]), dtype=torch.long)


def _float(device: torch.device) -> torch.dtype:
    """Weights are kept in fp64 where the device has it; Apple's has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def feed(
    model: Any, input_ids: Tensor, position_ids: Tensor, layout: Layout | Rows
) -> tuple[Tensor, Head]:
    """(T, D) of what enters the vocabulary head, by the path that the model takes; and the head."""
    if not is_flat(model):
        return feed_beside(model, input_ids, _lengths_alone(layout))
    fed: dict[str, Tensor] = {"input_ids": input_ids}
    if not getattr(model.config.get_text_config(), "hidden_size_per_layer_input", 0):
        fed = {"inputs_embeds": embed(model.get_input_embeddings(), input_ids)}
    with laid_out(layout):
        hidden, head = forward_to_head(model, {**fed, "position_ids": position_ids})
    return hidden[0], head


def _lengths_alone(layout: Layout | Rows) -> Sequence[int]:
    """The lengths of the segments, none of which continues a prefix.

    Raises:
        RuntimeError: one does; only what is fed flat can.
    """
    if isinstance(layout, Rows) or layout.prefixes or layout.keep:
        raise RuntimeError("rows beside each other share no prefix")
    return layout.lengths


def plan_for(model: Any, examples: Sequence[Trainable], batch_tokens: int) -> StepPlan:
    """The plan of a step for the path that the model takes."""
    return plan_step(examples, batch_tokens, share=is_flat(model))


def _prefixes(model: Any, plan: StepPlan, run: RunPass) -> tuple[list[Prefix], Tensor | None]:
    """The plan's prefixes: fed, unless their tokens are part of the one micro-batch."""
    if plan.joined:
        return [Prefix(len(ids)) for ids in plan.prefixes], None
    return feed_prefixes(model, plan, run)


def feed_prefixes(
    model: Any, plan: StepPlan, run: RunPass = directly
) -> tuple[list[Prefix], Tensor | None]:
    """One flat pass over all prefixes of the step.

    Returns:
        Their keys and values, and a scalar that depends on every parameter of the trunk; None where
        there are no prefixes.
    """
    prefixes = [Prefix(len(ids)) for ids in plan.prefixes]
    if not prefixes:
        return [], None
    flat = flatten((), (), model.device, plan.prefixes)
    layout = Layout([p.length for p in prefixes], [-1] * len(prefixes), keep=prefixes)
    return prefixes, run(partial(_end_of, model, flat, layout))


def _end_of(model: Any, flat: Flat, layout: Layout) -> Tensor:
    hidden, _ = feed(model, flat.input_ids, flat.position_ids, layout)
    return hidden[-1].sum()


def _backward_prefixes(
    prefixes: Sequence[Prefix], leaves: Sequence[Prefix], end: Tensor | None
) -> None:
    """Sends what the suffixes collected in the leaves through the prefixes, once.

    Args:
        end: where ranks share the weights, the pass's last number: the hooks that gather them sit
            on what a layer gives, so a backward from keys and values alone would find none.
    """
    tensors: list[Tensor] = [] if end is None else [end]
    grads: list[Tensor] = [torch.zeros_like(t) for t in tensors]
    for prefix, leaf in zip(prefixes, leaves, strict=True):
        for graph, cut in ((prefix.keys, leaf.keys), (prefix.values, leaf.values)):
            for layer, tensor in graph.items():
                grad = cut[layer].grad
                if grad is not None:
                    tensors.append(tensor)
                    grads.append(grad)
    if tensors:
        torch.autograd.backward(tensors, grads)
