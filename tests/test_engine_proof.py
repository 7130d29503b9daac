"""The proof at start: it holds for a dozen architectures, and catches a layer that leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from biddable.engine.attention import NAME
from biddable.engine.proof import Proof, prove
from biddable.errors import BiddableError
from tiny import CONFIGS, small_model, tiny


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


# Kinds that each differ from the others: a factor before the head, a layer before it, a soft cap
# under another name, sinks, values of another width, experts, chunks, states, no rotary angles.
KINDS = {
    "minicpm3": "flat", "modernbert-decoder": "flat", "recurrent_gemma": "beside",
    "gpt_oss": "flat", "deepseek_v3": "flat", "qwen3_moe": "flat", "llama4_text": "beside",
    "qwen3_next": "beside", "cohere2": "flat", "gemma3n_text": "flat", "bloom": "beside",
    "falcon_h1": "beside",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_differ_take_the_path_of_the_table(kind: str) -> None:
    proof = prove(small_model(kind), "x")
    assert proof.name == KINDS[kind]
    assert proof.error < 1e-5


class _Odd(LlamaForCausalLM):
    """Its logits are no line, and no soft cap, of what its head gives."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + 0.1 * torch.sin(out.logits)
        return out


def test_a_head_that_cannot_be_computed_is_refused() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    odd = _Odd(model.config)
    odd.load_state_dict(model.state_dict())
    assert prove(model, "x").name == "flat"
    with pytest.raises(BiddableError) as caught:
        prove(odd.eval(), "x")
    assert caught.value.finding.code == "not_proven"


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
