"""The proof at start: it holds for a dozen architectures, and catches a layer that leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from biddable.engine.attention import NAME
from biddable.engine.proof import Proof, prove
from biddable.errors import BiddableError
from tiny import CONFIGS, tiny


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_proof_holds_and_leaves_the_model_as_it_was(kind: str) -> None:
    model = tiny(kind, ours=True, dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    proof = prove(model, "x")
    assert (proof.name, proof.prefixes) == ("flat", True)
    assert proof.error < 1e-5
    assert model.config._attn_implementation == NAME
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


class _Mixing(nn.Module):
    """A layer that gives each token a little of the one before it (or behind), whosever that is."""

    def __init__(self, layer: nn.Module, behind: bool) -> None:
        super().__init__()
        self.layer, self.behind = layer, behind

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        gap = torch.zeros_like(hidden[:, :1])
        parts = [hidden[:, 1:], gap] if self.behind else [gap, hidden[:, :-1]]
        return self.layer(hidden + 0.01 * torch.cat(parts, 1), *args, **kwargs)


PLACES: dict[str, Callable[[Any], tuple[nn.Module, str]]] = {
    "the first layer's norm": lambda model: (model.model.layers[0], "input_layernorm"),
    "the second layer's feed-forward": lambda model: (model.model.layers[1], "mlp"),
    "the last norm": lambda model: (model.model, "norm"),
}


def leaking(place: str, *, behind: bool) -> Any:
    model = tiny("llama", ours=True, dtype=torch.float32)
    parent, name = PLACES[place](model)
    setattr(parent, name, _Mixing(getattr(parent, name), behind))
    return model


@pytest.mark.parametrize("place", PLACES)
def test_a_layer_that_mixes_neighbors_is_never_fed_flat(place: str) -> None:
    model = leaking(place, behind=False)
    assert prove(model, "x").name == "beside"
    assert model.config._attn_implementation != NAME


@pytest.mark.parametrize("place", PLACES)
def test_a_layer_that_looks_ahead_is_refused_wherever_it_stands(place: str) -> None:
    with pytest.raises(BiddableError) as caught:
        prove(leaking(place, behind=True), "my-base")
    assert caught.value.finding.code == "not_proven"
    assert "my-base (llama)" in caught.value.finding.message


def test_a_proof_is_said_in_one_line() -> None:
    assert str(Proof("flat", 8e-7, prefixes=True)) == (
        "flat, proven on this model (8e-07); prefixes shared"
    )
