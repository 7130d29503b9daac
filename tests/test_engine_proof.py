"""The proof at start: it holds for a dozen architectures, and catches a layer that leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

from biddable.engine.attention import NAME
from biddable.engine.proof import Proof, prove
from biddable.engine.twin import small_settings
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
    "falcon_h1": "beside", "diffllama": "flat",
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


class _OddHead(nn.Linear):
    """A head of this one model, which its twin does not have."""

    def forward(self, hidden: Tensor) -> Tensor:
        given = super().forward(hidden)
        return given + 0.1 * torch.sin(given)


def test_the_head_of_the_very_model_counts() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    odd = _OddHead(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    odd.load_state_dict(model.lm_head.state_dict())
    model.lm_head = odd
    with pytest.raises(BiddableError, match="what enters its head differs"):
        prove(model, "x")


class _Counting(LlamaForCausalLM):
    """It looks at how many tokens are fed, once they are more than its window has."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        factor = 1 + 0.1 * (inputs_embeds.shape[1] // self.config.sliding_window)
        return super().forward(inputs_embeds=inputs_embeds * factor, **kwargs)


def test_what_only_long_rows_show_is_found_on_the_twin() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    model.config.sliding_window = 64
    counting = _Counting(model.config)
    counting.load_state_dict(model.state_dict())
    with pytest.raises(BiddableError, match="in a tiny model of its kind the gradient"):
        prove(counting.eval(), "x")


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


def test_in_half_precision_a_leak_that_rounding_would_hide_is_found() -> None:
    model = leaking("the last norm", behind=False).bfloat16()
    assert prove(model, "x").name == "beside"
    assert prove(tiny("llama", ours=True, dtype=torch.bfloat16), "x").name == "flat"


def test_looking_ahead_is_found_though_padding_hides_it() -> None:
    model = leaking("the first layer's norm", behind=True)
    with torch.no_grad():
        # So that what stands behind the shorter row is no longer seen there.
        model.model.embed_tokens.weight[0] = 0
    with pytest.raises(BiddableError) as caught:
        prove(model, "x")
    assert caught.value.finding.code == "not_proven"


def test_the_windows_of_a_twin_are_shorter_than_its_rows() -> None:
    """Or a step of it would prove nothing about them; of all kinds of causal models."""
    for kind in sorted(NAMES):
        try:
            config = CONFIG_MAPPING[kind]().get_text_config()
            twin = type(config).from_dict(small_settings(config))
        except Exception:
            continue  # Without a configuration of its own.
        for name in ("sliding_window", "window_size", "attention_chunk_size", "floor_scale"):
            size = getattr(twin, name, None)
            assert type(size) is not int or size < 18, (kind, name)


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
