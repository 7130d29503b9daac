"""A norm is replaced only where the fused one gives the same, and a model stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from biddable.engine.norms import FusedNorm, fuse_norms
from biddable.engine.plan import plan_step
from biddable.engine.step import backward_step
from tiny import CONFIGS, reference_step, rows_of, small_model, tiny, worst_difference

# (1 + weight), LayerNorm with a bias, and LayerNorm again: none of them is a plain RMS norm.
OTHERS = {"gemma2", "gemma3_text", "gpt2", "gpt_neox"}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_step_with_fused_norms_is_that_of_the_model(kind: str) -> None:
    rows = rows_of(1)
    loss, _, grads = reference_step(tiny(kind, ours=False), rows)
    model = tiny(kind, ours=True)
    names = list(model.state_dict())
    count = fuse_norms(model)
    assert (count == 0) == (kind in OTHERS)
    assert count == sum(isinstance(m, FusedNorm) for m in model.modules())
    assert list(model.state_dict()) == names
    own, _, _ = backward_step(model, rows, plan_step(rows, 10_000))
    # In fp64 transformers rounds inside its norm to fp32, the fused one does not.
    assert own == pytest.approx(float(loss), rel=1e-6)
    assert worst_difference(model, grads) < 1e-5


class Shifted(LlamaRMSNorm):
    """Looks like the norm that it inherits from, and is another."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight + 0.01, self.variance_epsilon)


class Gated(LlamaRMSNorm):
    """Takes a second tensor."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return rms_norm(x * gate, self.weight.shape, self.weight, self.variance_epsilon)


class OptionallyGated(LlamaRMSNorm):
    """Takes a second tensor, or none: the gated norms of state-space models."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x if gate is None else x * gate)


class WithBias(LlamaRMSNorm):
    """Adds a bias, which is zero when a model is new."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias


class Unforeseen(LlamaRMSNorm):
    """Raises what a model raises that needs more than a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        raise AttributeError(x)


class InHalf(LlamaRMSNorm):
    """Gives the dtype of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).bfloat16()


class OtherEpsilon(LlamaRMSNorm):
    """Computes with another epsilon than the one that it names: seen in small rows alone."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, 2 * self.variance_epsilon)


@pytest.mark.parametrize(
    "kind", [Shifted, Gated, OptionallyGated, WithBias, Unforeseen, InHalf, OtherEpsilon]
)
def test_what_computes_something_else_stays(kind: type[LlamaRMSNorm]) -> None:
    model = nn.Sequential(kind(16), LlamaRMSNorm(16))
    nn.init.normal_(model[0].weight)
    assert fuse_norms(model) == 1
    assert type(model[0]) is kind
    assert isinstance(model[1], FusedNorm)


@pytest.mark.parametrize("kind", ["mamba2", "bamba", "granitemoehybrid", "falcon_mamba"])
def test_state_space_models_run_with_what_was_replaced(kind: str) -> None:
    model = small_model(kind).eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits
        fuse_norms(model)
        after = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_the_weight_is_the_same_parameter() -> None:
    norm = LlamaRMSNorm(16, eps=1e-5)
    model = nn.Sequential(norm)
    fuse_norms(model)
    assert model[0].weight is norm.weight
    assert model[0].epsilon == 1e-5
    x = torch.randn(3, 16)
    torch.testing.assert_close(model(x), norm(x))
