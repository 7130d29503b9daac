"""A base in four bits: it computes as its dequantized weights do, and is bitsandbytes' own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from biddable.engine.plan import plan_step
from biddable.engine.precision import load_model
from biddable.engine.step import backward_step
from biddable.errors import BiddableError
from biddable.models.adapters import Lora, add_adapter, decoder_layers, merge_adapter
from biddable.models.base import resolve_base
from biddable.models.four_bits import FourBits, largest_dequantized, quantize_linears
from folders import base_folder
from test_models_adapters import logits, trained
from tiny import CONFIGS, rows_of, tiny

CPU = torch.device("cpu")
RANK = 4


def quantized(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model in four bits under an adapter that changes what it computes."""
    model = tiny(kind, ours=True, dtype=torch.float32)
    quantize_linears(decoder_layers(model), CPU, dtype)
    add_adapter(model.to(dtype), RANK, 1)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def dequantized(model: Any) -> Any:
    """The same model and adapter over plain layers with the dequantized weights."""
    plain = deepcopy(model)
    for layer in plain.modules():
        if isinstance(layer, Lora):
            layer.frozen = layer.frozen.dequantized()
    return plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_loss_and_gradient_are_those_of_the_dequantized_weights(
    kind: str, dtype: torch.dtype
) -> None:
    model, rows = quantized(kind, dtype), rows_of(5)
    plain = dequantized(model)
    assert not any(isinstance(m, FourBits) for m in plain.modules())
    # In bf16 the two may add up a product in another order.
    bound = 1e-5 if dtype == torch.float32 else 0.05
    for budget in (10_000, 40):
        losses = []
        for one in (model, plain):
            one.zero_grad()
            losses.append(backward_step(one, rows, plan_step(rows, budget))[0])
        assert losses[0] == pytest.approx(losses[1], rel=bound)
        expected = {name: p.grad for name, p in trained(plain).items()}
        for name, parameter in trained(model).items():
            assert parameter.grad is not None
            difference = (parameter.grad - expected[name]).abs().max()
            assert difference <= bound * expected[name].abs().max(), (name, budget)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_merged_is_a_plain_model_that_computes_the_same(kind: str) -> None:
    model = quantized(kind)
    model.set_attn_implementation("sdpa")
    before, names = logits(model), {n for n, _ in tiny(kind, ours=False).named_parameters()}
    merge_adapter(model)
    assert torch.allclose(logits(model), before, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == names
    kinds = {type(m) for m in tiny(kind, ours=False).modules()}
    assert {type(m) for m in model.modules()} == kinds


def test_four_bits_are_held_and_nothing_else_of_the_layers() -> None:
    layers = decoder_layers(tiny("llama", ours=True, dtype=torch.float32))
    count = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear))
    quantize_linears(layers, CPU, torch.float32)
    held = [m for m in layers.modules() if isinstance(m, FourBits)]
    assert sum(m.packed.numel() for m in held) * 2 == count
    scales = sum(m.state.absmax.numel() * m.state.absmax.element_size() for m in held)
    assert scales * 64 <= count + 64 * len(held)
    assert not any(isinstance(m, nn.Linear | Conv1D) for m in layers.modules())
    assert largest_dequantized(layers) == 4 * 48 * 32
    assert largest_dequantized(tiny("llama", ours=True)) == 0


def test_the_bits_are_those_of_the_file_whatever_is_computed_in(tmp_path: Path) -> None:
    base = replace(resolve_base(base_folder(tmp_path / "base")), bits=4)
    single, half = (load_model(base, CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    pairs = zip(single.modules(), half.modules(), strict=True)
    layers = [(a, b) for a, b in pairs if isinstance(a, FourBits)]
    assert len(layers) == 2 * 7
    for one, other in layers:
        assert torch.equal(one.packed, other.packed)
        assert torch.equal(one.state.absmax, other.state.absmax)
    assert half.get_input_embeddings().weight.dtype == torch.bfloat16
    assert deepcopy(layers[0][0]) is layers[0][0]


def test_transformers_loads_the_same_model_in_four_bits(tmp_path: Path) -> None:
    """bitsandbytes through transformers is what QLoRA means elsewhere."""
    base = replace(resolve_base(base_folder(tmp_path / "base")), bits=4)
    theirs = AutoModelForCausalLM.from_pretrained(
        base.folder,
        attn_implementation="sdpa",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )  # fmt: skip
    ours = load_model(base, CPU)
    ours.set_attn_implementation("sdpa")
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    plain = load_model(replace(base, bits=0), CPU)
    plain.set_attn_implementation("sdpa")
    assert not torch.allclose(logits(plain), logits(ours), atol=1e-3)


def test_without_the_package_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = replace(resolve_base(base_folder(tmp_path / "base")), bits=4)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(BiddableError, match="needs the package bitsandbytes") as caught:
        load_model(base, CPU)
    assert caught.value.finding.code == "missing_extra"
    assert caught.value.finding.fix == "pip install 'biddable[bits]'"
