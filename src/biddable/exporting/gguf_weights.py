"""A model's weights and settings as llama.cpp wants them, one record per architecture.

llama.cpp has some of an architecture built in: which layers look through a window, which turn no
positions. A model that differs there would load without a word and answer wrongly: it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from biddable.errors import BiddableError

# Any setting of a GGUF file.
Value = str | int | float | bool | list[str] | list[int] | list[float]
# In the names of an adapter's tensors, before A and B.
ADAPTER = ".lora_"
_SILU, _GELU = ("silu", "swish"), ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}


@dataclass(frozen=True, slots=True)
class Family:
    """What llama.cpp does with an architecture.

    Args:
        name: llama.cpp's name of it.
        interleaved: it turns neighbors of a head, where transformers turns its two halves.
        shifted: it multiplies by a norm's weight, where transformers adds 1 to it first.
        activations: of the MLP.
        window_every: of so many layers, all but the last look through the window; 0: no layer does.
        scaled_parts: it reads a factor for each rotary frequency.
        tied: the head is the embedding, whatever the file holds.
        own_head: the file has to hold a head, even where it is the embedding.
    """

    name: str
    interleaved: bool = False
    shifted: bool = False
    activations: tuple[str, ...] = _SILU
    window_every: int = 0
    scaled_parts: bool = False
    tied: bool = False
    own_head: bool = False


FAMILIES = {
    "llama": Family("llama", interleaved=True, scaled_parts=True),
    "mistral": Family("llama", interleaved=True, scaled_parts=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma2": Family("gemma2", shifted=True, activations=_GELU, window_every=2, tied=True),
    "gemma3_text": Family("gemma3", shifted=True, activations=_GELU, window_every=6),
    "phi3": Family("phi3"),
    "gpt2": Family("gpt2", activations=_GELU),
    "gpt_neox": Family("gptneox", activations=_GELU),
    "smollm3": Family("smollm3", interleaved=True),
    "olmo2": Family("olmo2", own_head=True),
    "granite": Family("granite", interleaved=True, scaled_parts=True),
}
# Layers of which every fourth turns no positions.
_NO_ROPE_EVERY = 4
# llama.cpp knows the one model of a family that scales its attention otherwise by its layers.
_SCALED_OTHERWISE = {"gemma2": 46, "gemma3_text": 62}
_SCALES = {
    "logits_scaling": "logit_scale",
    "residual_multiplier": "residual_scale",
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "use_parallel_residual": "use_parallel_residual",
}


def not_expressible(why: str) -> BiddableError:
    """The error for a model that llama.cpp would run otherwise than it was trained."""
    return BiddableError(
        "not_expressible",
        f"llama.cpp cannot run this model as it was trained: {why}",
        "export it with --to hf, which vLLM and transformers read",
    )


def family_of(config: Any) -> Family:
    """The architecture's record, once nothing of the model differs from what is built in there.

    Raises:
        BiddableError: `not_expressible`.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise not_expressible(f"its architecture {kind} is not among {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    activation = next(
        getattr(config, name)
        for name in ("hidden_activation", "hidden_act", "activation_function")
        if getattr(config, name, None)
    )
    if activation not in family.activations:
        raise not_expressible(f"its activation is {activation}")
    _refuse_other_windows(config, family)
    _refuse_other_rope(config, family)
    if kind in _SCALED_OTHERWISE:
        plain = config.num_hidden_layers != _SCALED_OTHERWISE[kind]
        width = head_width(config) if plain else config.hidden_size // config.num_attention_heads
        if config.query_pre_attn_scalar != width:
            raise not_expressible(f"its query_pre_attn_scalar is not {width}")
    if kind == "gemma2" and config.attn_logit_softcapping is None:
        raise not_expressible("it has no attn_logit_softcapping")
    if family.tied and not config.tie_word_embeddings:
        raise not_expressible("its head is not tied to its embedding")
    return family


def head_width(config: Any) -> int:
    """Of one attention head."""
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _refuse_other_windows(config: Any, family: Family) -> None:
    layers, every = range(config.num_hidden_layers), family.window_every
    built_in = [bool(every) and (i + 1) % every != 0 for i in layers]
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(layers)
    # A window as wide as the context hides nothing; but layers with one may turn otherwise.
    hides = bool(window) and (bool(every) or window < config.max_position_embeddings)
    if [hides and kind == "sliding_attention" for kind in kinds] != built_in:
        raise not_expressible("it has a sliding window in other layers than llama.cpp")
    turned = getattr(config, "no_rope_layers", None)
    if turned and [bool(t) for t in turned] != [(i + 1) % _NO_ROPE_EVERY != 0 for i in layers]:
        raise not_expressible("it leaves positions out in other layers than llama.cpp")


def _ropes(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rotary settings of layers without and with a window."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope), rope.get("sliding_attention", {})


def _refuse_other_rope(config: Any, family: Family) -> None:
    rope, local = _ropes(config)
    kind = rope.get("rope_type", "default")
    known = ("default", "linear", "yarn", *(["llama3"] if family.scaled_parts else []))
    if kind not in known or local.get("rope_type", "default") != "default":
        raise not_expressible(f"its rotary scaling is {kind}")
    standard = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    for name in set(rope) - standard - {"partial_rotary_factor", "type"}:
        if kind == "yarn" and rope[name] not in (None, _YARN.get(name)):
            raise not_expressible(f"its rotary scaling has {name} = {rope[name]}")


def settings_of(config: Any, family: Family) -> dict[str, Value]:
    """The settings of a GGUF file that describe the model, by key."""
    heads, width = config.num_attention_heads, head_width(config)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    values: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": inner or 4 * config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.key_length": width,
        "attention.value_length": width,
    }
    for ours, theirs in _SCALES.items():
        if (value := getattr(config, ours, None)) is not None:
            values[theirs] = value if isinstance(value, bool) else float(value)
    if family.window_every:
        values["attention.sliding_window"] = config.sliding_window
    rope, local = _ropes(config)
    if rope:
        part = rope.get("partial_rotary_factor") or 1.0
        values["rope.freq_base"] = float(rope["rope_theta"])
        values["rope.dimension_count"] = int(width * part)
    if local:
        values["rope.freq_base_swa"] = float(local["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        values["rope.scaling.type"] = rope["rope_type"]
        values["rope.scaling.factor"] = float(rope["factor"])
    if rope.get("rope_type") == "yarn":
        before = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        values["rope.scaling.original_context_length"] = before
    return {f"{family.name}.{key}": value for key, value in values.items()}


def tensors_of(model: Any, family: Family) -> Iterator[tuple[str, Tensor]]:
    """(name, weights) as llama.cpp wants them, in fp32, without those of an adapter.

    Raises:
        BiddableError: `not_expressible`, it knows no such tensor.
    """
    config, change = model.config, _change_of(model.config, family)
    written = set()
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            continue
        # Where an adapter is, the layer itself stands one level deeper.
        own = name.replace(".frozen.", ".")
        theirs = _their_name(own, config, family)
        written.add(theirs)
        yield theirs, change(own, parameter.detach().float().cpu())
    if family.own_head and "output.weight" not in written:
        yield "output.weight", model.get_output_embeddings().weight.detach().float().cpu()
    rope, _ = _ropes(config)
    if rope.get("rope_type") == "llama3":
        turns = next(m.inv_freq for m in model.modules() if hasattr(m, "inv_freq")).float().cpu()
        width = head_width(config)
        plain = rope["rope_theta"] ** (-torch.arange(0, width, 2).float() / width)
        yield "rope_freqs.weight", plain / turns


def adapter_tensors_of(model: Any, family: Family) -> Iterator[tuple[str, Tensor]]:
    """(name, weights) of the adapter in a model, in fp32.

    Raises:
        BiddableError: `not_expressible`, llama.cpp knows no such tensor.
    """
    change = _change_of(model.config, family)
    for name, parameter in model.named_parameters():
        layer, side, letter = name.partition(ADAPTER)
        if side:
            weights = parameter.detach().float().cpu()
            theirs = _their_name(f"{layer}.weight", model.config, family)
            # B has the outputs of the layer, in whose order they have to be.
            weights = change(name, weights) if letter == "B" else weights
            yield f"{theirs}.lora_{letter.lower()}", weights


def _their_name(name: str, config: Any, family: Family) -> str:
    theirs: str | None = _names(family.name, config.num_hidden_layers).get_name(
        name, try_suffixes=(".weight", ".bias")
    )
    if theirs is None:
        raise not_expressible(f"it has a tensor {name}")
    return theirs


@lru_cache
def _names(family: str, layers: int) -> Any:
    import gguf

    arch = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    return gguf.get_tensor_name_map(arch, layers)


def _change_of(config: Any, family: Family) -> Callable[[str, Tensor], Tensor]:
    """The function of a tensor's name and weights that gives them in llama.cpp's order."""
    heads = config.num_attention_heads
    groups = {"q_proj": heads, "k_proj": getattr(config, "num_key_value_heads", heads)}

    def change(name: str, weights: Tensor) -> Tensor:
        module, kind = name.rsplit(".", 2)[-2:]
        if family.interleaved and module in groups:
            halves = weights.reshape(groups[module], 2, -1, *weights.shape[1:])
            return halves.transpose(1, 2).reshape(weights.shape)
        if family.shifted and module.endswith("norm"):
            return weights + 1
        if config.model_type == "gpt2" and module in ("c_attn", "c_proj", "c_fc"):
            return weights.T if kind == "weight" else weights
        if module == "query_key_value":
            # Query, key and value of each head in turn; llama.cpp wants all queries first.
            parts = weights.reshape(heads, 3, -1, *weights.shape[1:])
            return parts.transpose(0, 1).reshape(weights.shape)
        return weights

    return change
