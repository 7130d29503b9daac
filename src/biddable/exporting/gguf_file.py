"""Writes a GGUF file, the whole of a model in the form that llama.cpp reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from biddable.exporting.gguf_weights import (
    ADAPTER,
    Value,
    adapter_tensors_of,
    family_of,
    settings_of,
    tensors_of,
)
from biddable.models.adapters import SCALE

TYPES = ("f32", "f16", "q8_0", "q4_0")
# Of these, the first two lose most where they are cut short.
_FINER = ("token_embd.weight", "output.weight")
_PLACES = "position_embd.weight"


def write_gguf(path: Path, model: Any, words: Mapping[str, Value], kind: str) -> None:
    """Writes the model.

    Args:
        words: the settings that describe tokenizer and template.
        kind: one of TYPES, of matrices; all else stays in fp32.

    Raises:
        BiddableError: `not_expressible`.
    """
    import gguf

    family = family_of(model.config)
    writer = gguf.GGUFWriter(path, family.name)
    settings: dict[str, Value] = {
        "general.file_type": {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}[kind],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **settings_of(model.config, family),
        **words,
    }
    for key, value in settings.items():
        _add(writer, key, value)
    for name, weights in tensors_of(model, family):
        array = np.ascontiguousarray(weights.numpy())
        stored = gguf.GGMLQuantizationType[_kind_of(name, array.shape, kind).upper()]
        writer.add_tensor(name, gguf.quantize(array, stored), raw_dtype=stored)
    _finish(writer)


def write_adapter(path: Path, model: Any) -> None:
    """Writes the adapter in a model, for llama.cpp's `--lora` beside the base's file, in fp32.

    Raises:
        BiddableError: `not_expressible`.
    """
    import gguf

    family = family_of(model.config)
    writer = gguf.GGUFWriter(path, family.name)
    tensors = dict(adapter_tensors_of(model, family))
    rank = next(len(weights) for name, weights in tensors.items() if name.endswith("lora_a"))
    _add(writer, "general.type", "adapter")
    _add(writer, "adapter.type", "lora")
    _add(writer, "adapter.lora.alpha", float(SCALE * rank))
    for name, weights in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(weights.numpy()))
    _finish(writer)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def round_weights(model: Any, kind: str) -> None:
    """Gives a model in memory the weights of its GGUF file; an adapter stays as it is."""
    import gguf
    import torch

    names = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for name, parameter in model.named_parameters():
        if name.endswith("wpe.weight") or parameter.dim() == 1 or ADAPTER in name:
            continue
        turned = model.config.model_type == "gpt2" and id(parameter) not in names
        weights = parameter.detach().T if turned else parameter.detach()
        array = np.ascontiguousarray(weights.float().numpy())
        theirs = _FINER[0] if id(parameter) in names else name
        stored = gguf.GGMLQuantizationType[_kind_of(theirs, array.shape, kind).upper()]
        rounded = torch.from_numpy(gguf.dequantize(gguf.quantize(array, stored), stored))
        with torch.no_grad():
            parameter.copy_(rounded.T if turned else rounded)


def _kind_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """In what type a tensor is stored: a row has to be a multiple of the 32 of a block."""
    if len(shape) == 1 or name == _PLACES or kind == "f32":
        return "f32"
    if shape[-1] % 32:
        return "f16"
    return "q8_0" if kind == "q4_0" and name in _FINER else kind


def _add(writer: Any, key: str, value: Value) -> None:
    """A setting under the type that Python's stands for."""
    adders = {
        bool: writer.add_bool,
        str: writer.add_string,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    adders[type(value)](key, value)
