"""Loads a model for the engine, and keeps fp32 master weights beside a bf16 compute copy.

bf16 halves the cost of matrix products on hardware that has them, and is many times slower on
hardware that has not, so `auto` asks what the hardware has. AdamW steps of a small learning rate
vanish in bf16 weights (they round to no change), so the optimizer always works on fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from biddable.engine.attention import NAME, register
from biddable.models.base import Base, load_config
from biddable.models.vetting import damaged
from biddable.models.whole import first_line, load_pretrained, refuse_not_finite, refuse_unlike

Precision = Literal["auto", "fp32", "bf16"]
# As torch names them: of Intel's and AMD's servers. An Arm processor's bf16 is not among them, for
# it was never tried here.
_BF16_UNITS = ("amx_bf16", "avx512_bf16")


def load_model(base: Base, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """The base's weights with our attention function, in evaluation mode.

    Evaluation mode is kept for training too: dropout would make the gradient depend on how rows
    fall into micro-batches, and no law of the engine could be shown.

    Raises:
        BiddableError: `base_damaged`, tensors are missing, left over, of another shape or not
            finite.
    """
    register()
    config = load_config(base)
    try:
        model, report = load_pretrained(base.folder, config, attention=NAME, dtype=dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(base.name, f"its weights cannot be loaded: {first_line(error)}") from error
    refuse_unlike(report, base.name)
    refuse_not_finite(model, base.name)
    return model.to(device).eval()


def new_model(config: Any, device: torch.device, seed: int) -> Any:
    """A model of a configuration with random fp32 weights and our attention function."""
    from transformers import AutoModelForCausalLM

    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME)
    return model.to(device).eval()


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, else Apple's GPU, else the CPU.

    Raises:
        BiddableError: the device asked for is not there.
    """
    from biddable.errors import BiddableError

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    if not there.get(name):
        known = {"cuda": "CUDA is not available", "mps": "Apple's GPU is not available"}
        raise BiddableError(
            "no_device", known.get(name, f"there is no device '{name}'"), "--device auto or cpu"
        )
    return torch.device(name)


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute dtype: as told, or bf16 where the device has units for its products.

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


class Weights:
    """A model in its compute dtype and the fp32 master weights that the optimizer changes.

    In fp32 they are the same tensors. In bf16 each parameter's gradient is added to its master's
    fp32 gradient as soon as a micro-batch has formed it, and `push` casts the masters back once a
    step.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.names = [name for name, _ in model.named_parameters()]
        self.masters: list[nn.Parameter] = list(model.parameters())
        self.model = model
        self._computed: list[Tensor] = []
        if dtype != torch.float32:
            # Tied parameters occur once in parameters(), so the copies stay tied too.
            self.masters = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
            # Parameters only: rounded rotary frequencies, which are buffers, would put every token
            # where the model that is served does not.
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
            self._computed = list(model.parameters())
            for compute, master in zip(self._computed, self.masters, strict=True):
                compute.register_post_accumulate_grad_hook(_adder(master))  # type: ignore[no-untyped-call]

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, fp32 master) of each parameter."""
        return zip(self.names, self.masters, strict=True)

    @torch.no_grad()
    def push(self) -> None:
        """Casts the masters into the compute copy."""
        if self._computed:
            torch._foreach_copy_(self._computed, [m.data for m in self.masters])

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites the masters, by name, and the compute copy."""
        for name, master in self.named():
            master.copy_(tensors[name])
        self.push()


def _adder(master: nn.Parameter) -> Any:
    def add(compute: Tensor) -> None:
        if compute.grad is None:
            return
        if master.grad is None:
            master.grad = compute.grad.to(master.dtype)
        else:
            master.grad.add_(compute.grad)
        compute.grad = None

    return add
