"""LoRA adapters: a small trained product beside each frozen linear layer, in PEFT's format.

Letters: I and O are the inputs and outputs of a linear layer, r the rank, s the scale 2 (PEFT's
`lora_alpha` is twice the rank). A layer computes W x + s B (A x), with A (r, I) and B (O, r) in
fp32. B begins as zero, so that an untrained adapter changes nothing. The layers are all linear ones
of the decoder blocks; embeddings and head, which many models tie, stay frozen and unchanged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from biddable.errors import BiddableError
from biddable.models.adapter_files import BASE, CONFIG, WEIGHTS
from biddable.models.four_bits import FourBits, linear_layers
from biddable.models.model_files import write_files
from biddable.models.vetting import damaged, first_names, read_object
from biddable.storage import AtomicFolder, write_tensors

SCALE = 2
MOST_RANK = 1024
# What PEFT puts before the names of transformers.
_PREFIX = "base_model.model."
# A model folder's file that would make the adapter look like a model of its own.
_NOT_BESIDE_ADAPTERS = {"config.json"}


class Lora(nn.Module):
    """A frozen linear layer with an adapter beside it."""

    def __init__(self, frozen: nn.Module, rank: int, draws: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        weight = frozen.packed if isinstance(frozen, FourBits) else frozen.weight
        assert isinstance(weight, Tensor)
        outputs, inputs = _shape(frozen)
        down = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=draws)
        self.lora_A = nn.Parameter(down.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = _Beside.apply(rows, self.lora_A, self.lora_B, self.frozen)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])


class _Beside(torch.autograd.Function):
    """W x + s B (A x) of rows (N, I), where A and B learn and W does not.

    Both ways to a row's gradient are one sum, formed by the product that adds to its result;
    autograd would form each, and go over the rows once more to add them.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, a: Tensor, b: Tensor, frozen: nn.Module) -> Tensor:
        down, up = a.to(rows.dtype), b.to(rows.dtype)
        low = rows @ down.T
        y: Tensor = frozen(rows)
        ctx.save_for_backward(rows, low, down, up)
        ctx.frozen, ctx.held = frozen, a.dtype
        return y.addmm_(low, up.T, alpha=SCALE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, down, up = ctx.saved_tensors
        back, d_rows = SCALE * (grad @ up), None
        if ctx.needs_input_grad[0]:
            d_rows = (grad @ _matrix(ctx.frozen).to(grad.dtype)).addmm_(back, down)
        d_a, d_b = back.T @ rows, SCALE * (grad.T @ low)
        return d_rows, d_a.to(ctx.held), d_b.to(ctx.held), None


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers: the list of as many as the configuration says, else the outermost."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.get_decoder().modules() if isinstance(m, nn.ModuleList)]
    return next((m for m in lists if len(m) == count), lists[0])


def add_adapter(model: Any, rank: int, seed: int) -> Any:
    """Freezes the model and puts a new adapter beside its linear layers; returns the model.

    The adapter that was there before goes: adapters take turns on one base.

    Raises:
        BiddableError: `option`, there are no linear layers.
    """
    remove_adapter(model)
    model.requires_grad_(False)
    draws = torch.Generator().manual_seed(seed)
    experts = _names_in_experts(model)
    layers = [at for at in linear_layers(decoder_layers(model)) if at[1] not in experts]
    if not layers:
        what = f"--lora finds no linear layer in a {type(model).__name__} to stand beside"
        raise BiddableError("option", what, "leave --lora out, or take another base")
    for parent, name, layer in layers:
        setattr(parent, name, Lora(layer, rank, draws))
    return model


def _names_in_experts(model: Any) -> set[str]:
    """Names of layers that PEFT looks for in the experts alone, which transformers joins: under one
    of them an adapter of a dense layer would be lost as PEFT loads it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    changes = get_model_conversion_mapping(model, add_legacy=False)
    joined = [p for c in changes if isinstance(c, WeightConverter) for p in c.source_patterns]
    names = {p.removesuffix(".weight").rpartition(".")[2] for p in joined if ".experts.*." in p}
    return {*names, "gate"} if names else names


def remove_adapter(model: Any) -> None:
    """Leaves the frozen base, as it was before `add_adapter`."""
    for parent, name, layer in list(_children(model)):
        if isinstance(layer, Lora):
            setattr(parent, name, layer.frozen)


def dequantize_base(model: Any) -> None:
    """Gives the layers of a base in four bits that have an adapter their dequantized weights."""
    for _, _, layer in list(_children(model)):
        if isinstance(layer, Lora) and isinstance(layer.frozen, FourBits):
            layer.frozen = layer.frozen.dequantized()


@torch.no_grad()
def merge_adapter(model: Any) -> None:
    """Adds the adapter to the weights and removes it: a plain model that computes the same.

    A base in four bits becomes the plain model of its dequantized weights: the sums would be lost
    if they were quantized again.
    """
    dequantize_base(model)
    for _, _, layer in list(_children(model)):
        if isinstance(layer, Lora):
            change = SCALE * (layer.lora_B @ layer.lora_A)
            weight = layer.frozen.weight
            assert isinstance(weight, Tensor)
            weight += (change.T if _is_transposed(layer.frozen) else change).to(weight.dtype)
    remove_adapter(model)


def save_adapter(
    model: Any,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str],
    base: tuple[str, str],
    folder: Path,
) -> None:
    """Writes an adapter as PEFT, vLLM and llama.cpp read it; the folder appears whole or not.

    Args:
        model: the one with the adapter.
        tensors: A and B by their names in the model.
        files: texts by file name, as for a model folder.
        base: the name that loads the base elsewhere, and the text that `adapter_files` gives.
    """
    beside = {name: text for name, text in files.items() if name not in _NOT_BESIDE_ADAPTERS}
    config = {**_config(model), "base_model_name_or_path": base[0]}
    beside[CONFIG] = json.dumps(config, indent=2, sort_keys=True) + "\n"
    beside[BASE] = base[1]
    with AtomicFolder(folder, manifest=False) as aside:
        write_tensors({_peft(name): t for name, t in tensors.items()}, aside / WEIGHTS)
        write_files(beside, aside)


@torch.no_grad()
def load_adapter(model: Any, folder: Path, name: str) -> Any:
    """Puts a saved adapter beside the linear layers of its base; returns the model.

    Raises:
        BiddableError: `base_damaged`, its files are not those that `save_adapter` writes.
    """
    config, fix = read_object(folder / CONFIG, name), "train the adapter anew"
    rank = config.get("r")
    if not isinstance(rank, int) or not 1 <= rank <= MOST_RANK:
        raise damaged(name, f"{CONFIG} has r {str(rank)[:40]}", fix)
    add_adapter(model, rank, 0)
    changed = {key for key, value in _config(model).items() if config.get(key) != value}
    if changed:
        raise damaged(name, f"{CONFIG} has other values: {first_names(changed)}", fix)
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise damaged(name, f"{WEIGHTS} cannot be read: {str(error)[:200]}", fix) from error
    trained = {_peft(key): p for key, p in model.named_parameters() if _is_adapter(key)}
    wrong = {k for k in {*trained, *tensors} if _shape_in(trained, k) != _shape_in(tensors, k)}
    wrong |= {key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())}
    if wrong:
        raise damaged(name, f"{WEIGHTS} does not fit its base: {first_names(wrong)}", fix)
    for key, parameter in trained.items():
        parameter.copy_(tensors[key])
    return model.requires_grad_(False)


def _config(model: Any) -> dict[str, Any]:
    """PEFT's record of the adapter in a model, without the base's name."""
    modules = dict(model.named_modules())
    paths = [path for path, module in modules.items() if isinstance(module, Lora)]
    names = {path.rpartition(".")[2] for path in paths}
    # PEFT takes a name for every layer whose path ends so, whatever part of the model it is in.
    shared = any(k.rpartition(".")[2] in names and type(m) is not Lora for k, m in modules.items())
    first: Any = modules[paths[0]]
    rank = len(first.lora_A)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": SCALE * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": paths if shared else sorted(names),
        # GPT-2 keeps the weights of its linear layers transposed.
        "fan_in_fan_out": _is_transposed(first.frozen),
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _children(model: Any) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, child) of all that stands in the decoder layers."""
    for parent in decoder_layers(model).modules():
        if not isinstance(parent, Lora):
            for name, child in parent.named_children():
                yield parent, name, child


def _is_transposed(layer: nn.Module) -> bool:
    return layer.transposed if isinstance(layer, FourBits) else not isinstance(layer, nn.Linear)


def _matrix(layer: nn.Module) -> Tensor:
    """(O, I) the weights of a linear layer."""
    weight = layer.matrix() if isinstance(layer, FourBits) else layer.weight
    assert isinstance(weight, Tensor)
    return weight.T if not isinstance(layer, FourBits) and _is_transposed(layer) else weight


def _shape(layer: nn.Module) -> tuple[int, int]:
    """(O, I) of a linear layer."""
    if isinstance(layer, FourBits):
        return layer.out_features, layer.in_features
    weight = layer.weight
    assert isinstance(weight, Tensor)
    first, second = map(int, weight.shape)
    return (first, second) if isinstance(layer, nn.Linear) else (second, first)


def _is_adapter(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))


def _peft(name: str) -> str:
    """PEFT's name of a tensor."""
    return f"{_PREFIX}{name}.weight"


def _shape_in(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
