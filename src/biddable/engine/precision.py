"""Loads a model for the engine, and chooses where and in what precision it is computed.

bf16 halves the cost of matrix products on hardware that has them, and is many times slower on
hardware that has not, so `auto` asks what the hardware has.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from biddable.engine.attention import NAME, register
from biddable.engine.norms import fuse_norms
from biddable.engine.proof import STOCK, Proof, prove
from biddable.errors import BiddableError, first_line
from biddable.models.adapters import decoder_layers, load_adapter
from biddable.models.base import Base, load_config
from biddable.models.completeness import load_pretrained, quiet, refuse_unlike
from biddable.models.four_bits import quantize_linears
from biddable.models.vetting import damaged, first_names
from biddable.terminal import console, line

Precision = Literal["auto", "fp32", "bf16"]
# Torch's names for the units of Intel's and AMD's servers. Arm's bf16 is left out: never tried.
_BF16_UNITS = ("amx_bf16", "avx512_bf16")


def load_model(base: Base, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """The model alone, without its proof."""
    return load_proven(base, device, dtype)[0]


def load_proven(
    base: Base, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Any, Proof]:
    """The base's weights, in evaluation mode, and the proof of how its rows may be fed.

    With its adapter, if it has one; in four bits, if it is to be held so.

    Evaluation mode is kept for training too: dropout would make the gradient depend on how rows
    fall into micro-batches, and no law of the engine could be shown.

    Raises:
        BiddableError: `base_damaged`, tensors are missing, left over, of another shape or not
            finite; `not_proven`, its gradient would be another.
    """
    register()
    if device.type == "cuda":
        # NVIDIA's containers turn TF32 on, which rounds factors to 10 bits; the proof would fail.
        torch.set_float32_matmul_precision("highest")
    config = load_config(base)
    try:
        stored = "auto" if base.bits else dtype
        model, report = load_pretrained(base.folder, config, attention=STOCK, dtype=stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(base.name, f"its weights cannot be loaded: {first_line(error)}") from error
    refuse_unlike(report, base.name)
    _refuse_unlearned(model, base.name)
    if base.bits:
        quantize_linears(decoder_layers(model), device, dtype)
        for parameter in model.parameters():
            # Not the buffers: rounded rotary angles would be those of another model.
            parameter.data = parameter.data.to(dtype)
    model = model.to(device).eval()
    if device.type == "cuda":
        fuse_norms(model)
    with quiet():
        proof = prove(model, base.name)
    if base.adapter:
        load_adapter(model, base.adapter, base.name)
    return model.to(device).eval(), proof


def _refuse_unlearned(model: Any, name: str) -> None:
    """Refuses a model with NaN or infinity among its numbers, or with one number throughout.

    A matrix of zeros is meant in some bases: layers that were put in and are still to learn. As an
    embedding or a head, or as most matrices, it is damage.

    Raises:
        BiddableError: `base_damaged`, with the tensors' names.
    """
    numbers = [*model.named_parameters(), *model.named_buffers()]
    filled = {key: t.detach() for key, t in numbers if t.is_floating_point() and t.numel()}
    limits = {key: t.aminmax() for key, t in filled.items()}
    if bad := {k for k, ends in limits.items() if not all(limit.isfinite() for limit in ends)}:
        raise damaged(name, f"tensors hold NaN or infinity: {first_names(bad)}")
    matrices = {
        key: p
        for key, p in model.named_parameters()
        if key in limits and p.ndim > 1 and p.shape[-1] > 1
    }
    flat = {key: p for key, p in matrices.items() if limits[key].min == limits[key].max}
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    ends = [getattr(part, "weight", None) for part in parts]
    what = f"every number is the same in {first_names(set(flat))}"
    if 2 * len(flat) > len(matrices) or any(p is end for p in flat.values() for end in ends):
        raise damaged(name, what)
    if flat:
        line(console(), "constant", f"{name}: {what}")


def new_model(config: Any, device: torch.device, seed: int) -> Any:
    """A model of a configuration with random fp32 weights and our attention function."""
    from transformers import AutoModelForCausalLM

    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME)
    if device.type == "cuda":
        fuse_norms(model)
    return model.to(device).eval()


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, else Apple's GPU, else the CPU.

    Raises:
        BiddableError: `no_device`, the one that is named is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name):
        known = {"cuda": "CUDA is not available", "mps": "Apple's GPU is not available"}
        what = known.get(name, f"there is no device '{name}'")
        raise BiddableError("no_device", what, "give --device auto or cpu")
    return torch.device(name)


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute dtype: as set, or bf16 where the device has units for its products.

    Nothing is measured, so the answer is the same each time. A processor without such units forms
    bf16 products at less than half the rate of fp32; Apple's GPU would gain memory only.
    """
    units = precision == "bf16" or (precision == "auto" and _has_bf16_units(device))
    return torch.bfloat16 if units else torch.float32


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return False
    has = torch.cpu.get_capabilities()
    return any(bool(has.get(name)) for name in _BF16_UNITS)
