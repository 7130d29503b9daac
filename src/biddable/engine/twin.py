"""A tiny model of the same kind as another: its configuration, with every size cut down.

What the two have in common is all that is no size: which layers follow each other, soft caps,
multipliers, norms, ties. A window or a chunk becomes shorter than the rows that are fed, or they
would prove nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

VOCABULARY = 97
_LAYERS, _MOST_LAYERS = 4, 8
# What a setting becomes, under any of its names.
_SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input n_vocab",
    64: "hidden_size d_model n_embd embedding_size dim emb_dim model_dim embed_dim lru_width "
    "word_embed_proj_dim decoder_hidden_size backbone_hidden_size embedding_dim",
    48: "intermediate_size ffn_dim n_inner d_inner d_ff decoder_ffn_dim encoder_ffn_dim "
    "ffn_hidden_size mlp_hidden_size dim_ff shared_intermediate_size "
    "shared_expert_intermediate_size block_ff_dim dff feed_forward_size dense_intermediate_size "
    "expert_ffn_hidden_size n_inner_dim",
    24: "moe_intermediate_size expert_intermediate_size moe_shared_expert_intermediate_size "
    "intermediate_size_mlp",
    _LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_decoder_layers num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads swa_num_attention_heads linear_num_value_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts ffn_num_experts num_routed_experts "
    "mamba_dt_rank time_step_rank linear_num_heads num_blocks",
    2: "num_key_value_heads n_kv_heads num_kv_heads swa_num_key_value_heads attention_kv_heads "
    "num_global_key_value_heads num_experts_per_tok moe_topk moe_top_k moe_k num_selected_experts "
    "num_experts_per_token experts_per_token num_active_experts top_k_experts "
    "linear_num_key_heads index_n_heads num_kv_shared_layers",
    1: "first_k_dense_replace n_group topk_group num_expert_group n_shared_experts "
    "moe_num_shared_experts num_shared_experts num_nextn_predict_layers moe_layer_start_index "
    "num_expert_groups num_limited_groups mamba_n_groups mamba_ngroups n_groups num_dense_layers",
    16: "head_dim d_kv kv_channels dim_head swa_head_dim swa_v_head_dim global_head_dim "
    "q_lora_rank kv_lora_rank o_lora_rank mamba_d_state state_size "
    "ssm_state_size mamba_state_size rotary_dim mamba_d_head mamba_head_dim mamba_headdim "
    "index_head_dim linear_head_dim qk_head_dim d_head",
    8: "qk_nope_head_dim qk_rope_head_dim v_head_dim attention_chunk_size chunk_size "
    "mamba_chunk_size linear_key_head_dim linear_value_head_dim mamba_n_heads mamba_num_heads "
    "n_mamba_heads "
    "hidden_size_per_layer_input index_topk",
    7: "sliding_window attention_window_size sliding_window_size window_size swa_window_size "
    "floor_scale",
    32: "attention_head_dim",
    128: "mamba_d_ssm attention_hidden_size max_position_embeddings n_positions n_ctx max_seq_len "
    "max_sequence_length seq_length",
}
SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEPT_ROPES = {"default", "linear", "llama3", "yarn"}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def twin_of(kind: Any, config: Any, attention: str) -> Any:
    """A random fp32 model of a class with a small configuration, on the CPU.

    Args:
        attention: name of its attention function.

    Raises:
        Exception: whatever the class raises at a configuration that it does not take.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = kind._from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in twin.parameters():
                # Larger than the usual start, so that attention and norms are far from flat.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return twin.float().eval()


def small_settings(config: Any) -> dict[str, Any]:
    """The settings of a configuration, with small sizes."""
    return _small(config.to_dict())


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    layers = next((settings[n] for n in _LAYER_COUNTS if _is_count(settings.get(n))), 0)
    numbers = {k: v for k, v in settings.items() if _are_layer_numbers(k, v, layers)}
    lists = [
        v
        for k, v in settings.items()
        if isinstance(v, (list, tuple)) and len(v) == layers and k not in numbers
    ]
    lists += [[i in v for i in range(layers)] for v in numbers.values()]
    kept = kept_layers(lists, layers)
    heads = next((settings[n] for n in _HEADS if _is_count(settings.get(n))), 0)
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and name.startswith("rope_"):
            small[name] = _small_rope(value)
        elif isinstance(value, dict) and "model_type" in value:
            small[name] = _small(value)
        elif name in numbers:
            small[name] = [kept.index(i) for i in value if i in kept]
        elif isinstance(value, (list, tuple)) and len(value) == layers > 1:
            small[name] = [_small_value(name, value[i], heads) for i in kept]
        elif isinstance(value, dict) and name == "per_layer_config":
            small[name] = {kept.index(int(i)): v for i, v in value.items() if int(i) in kept}
        elif name in _LAYER_COUNTS and _is_count(value):
            small[name] = len(kept)
        else:
            small[name] = _small_value(name, value, heads)
    return _fitted(settings, small)


def _are_layer_numbers(name: str, value: Any, layers: int) -> bool:
    """Whether a list names layers by their numbers."""
    return (
        isinstance(value, (list, tuple))
        and ("layer" in name or "idx" in name)
        and len(value) > 0
        and all(type(i) is int and 0 <= i < layers for i in value)
        and sorted(set(value)) == list(value)
    )


def _fitted(settings: Mapping[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Small settings, of which those that depend on others fit them."""
    if "qk_rope_head_dim" in small and "head_dim" in small:
        # The width of what is turned, or of a query.
        turned = settings["head_dim"] == settings["qk_rope_head_dim"]
        small["head_dim"] = small["qk_rope_head_dim"] * (1 if turned else 2)
    if "expand" in small and "num_heads" in small:
        # Mamba 2: as many heads as are as wide as its inner width.
        small["num_heads"] = small["expand"] * small["hidden_size"] // small["head_dim"]
    return {name: value for name, value in small.items() if name not in ("rope_scaling", "dtype")}


def _small_value(name: str, value: Any, heads: int) -> Any:
    """One setting: a size becomes small, an id a small one, and a share of dropout none."""
    if name in _SPECIAL or (name.endswith(("_token_id", "_token_index")) and _is_count(value)):
        return _SPECIAL.get(name, 0)
    if "drop" in name and type(value) in (int, float):
        return type(value)(0)
    if name == "num_key_value_heads" and value is None:
        return _LAYERS
    if name not in SMALL or not _is_count(value):
        return value
    if SMALL[name] == 2 and value in (1, heads):
        return 1 if value == 1 else _LAYERS
    return SMALL[name]


def kept_layers(lists: Sequence[Sequence[Any]], layers: int) -> list[int]:
    """Which layers the twin has, in their order: one of each kind, and as far as they are few two,
    for layers may share what they have."""
    if not layers:
        return []
    kinds = [str([values[i] for values in lists]) for i in range(layers)]
    order = sorted(range(layers), key=lambda i: (min(kinds[:i].count(kinds[i]), 2), i))
    different = len(set(kinds))
    return sorted(order[: min(max(_LAYERS, different), _MOST_LAYERS)])


def _small_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings without those that belong to a head of another width."""
    if any(isinstance(value, dict) for value in rope.values()):
        return {name: value and _small_rope(value) for name, value in rope.items()}
    small = {name: value for name, value in rope.items() if not isinstance(value, (list, tuple))}
    if small.get("rope_type", "default") not in _KEPT_ROPES:
        small = {"rope_type": "default", "rope_theta": rope.get("rope_theta", 10_000.0)}
    return small


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
