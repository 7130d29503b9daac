"""Which parameters `--top-layers` trains, and the proof that the rest need be run only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from biddable.encoding.encode import Example
from biddable.engine.beside import is_flat
from biddable.engine.kept_states import KeptStates, bottom_of, keep_states, numbered, top_of
from biddable.engine.proof import MODEL_ERRORS, feed_flat, relative_error
from biddable.errors import BiddableError, first_line
from biddable.models.adapters import decoder_layers

# Of what enters the head, relative: the same forward with other products side by side.
_CLOSE = 1e-5
_LENGTHS = (11, 7)


def freeze_below(model: Any, count: int, name: str) -> None:
    """Leaves the top `count` layers and the norm above them to be trained, and proves that their
    inputs are all that they need of what is below.

    Args:
        model: in fp32.
        name: of the base, for the message.

    Raises:
        BiddableError: `top_layers`, the model has too few layers or its layers are not enough.
    """
    layers = decoder_layers(model)
    if count >= len(layers):
        what = f"--top-layers {count} leaves none of the {len(layers)} layers of {name} frozen"
        raise BiddableError("top_layers", what, "Give a smaller number, or 0 to train all weights.")
    why = "its rows cannot be fed one after another"
    if is_flat(model):
        try:
            why = _freeze_proven(model, count)
        except MODEL_ERRORS as error:
            why = f"its top layers cannot be run alone ({first_line(error)})"
    if why:
        what = f"--top-layers cannot train the base {name} ({model.config.model_type}): {why}"
        raise BiddableError("top_layers", what, "Use --lora 16 instead, or train all weights.")


def _freeze_proven(model: Any, count: int) -> str:
    """Freezes what is not trained; returns what speaks against training the rest, or nothing."""
    ids = _random_rows(model)
    numbers, tokens = numbered({i: Example(row, [1.0] * len(row)) for i, row in enumerate(ids)})
    width = model.config.get_text_config().hidden_size
    kept = KeptStates(tokens, torch.zeros(len(tokens), width, dtype=model.dtype))
    rows = [numbers[i] for i in range(len(ids))]
    keep_states(bottom_of(model, count, kept), rows)
    model.requires_grad_(False)
    decoder_layers(model)[-count:].requires_grad_(True)
    norms = [p.requires_grad_(True) for p in _outside_vectors(model)]
    # The last token of a row is predicted, and nothing is kept of it.
    top, _ = feed_flat(top_of(model, count, kept), [row.input_ids[:-1] for row in rows])
    # A norm below the cut has no part in the top.
    grads = torch.autograd.grad(top.sum(), norms, allow_unused=True) if norms else ()
    for norm, grad in zip(norms, grads, strict=True):
        norm.requires_grad_(grad is not None)
    with torch.no_grad():
        error = relative_error(top, feed_flat(model, [row[:-1] for row in ids])[0])
    fault = f"what enters its head differs by {error:.0e} from that of the whole model"
    return "" if error <= _CLOSE else fault


def _random_rows(model: Any) -> Sequence[list[int]]:
    most = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(most, (n,), generator=draw).tolist() for n in _LENGTHS]


def _outside_vectors(model: Any) -> Iterator[nn.Parameter]:
    """Parameters of one dimension outside of the layers and of the head: those of norms."""
    inside = {id(p) for p in decoder_layers(model).parameters()}
    inside |= {id(p) for p in model.get_output_embeddings().parameters()}
    for parameter in model.parameters():
        if parameter.dim() == 1 and id(parameter) not in inside:
            yield parameter
