"""Tiny random models of a dozen architectures, for the laws."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from biddable.engine.attention import NAME, register
from biddable.engine.proof import STOCK
from biddable.engine.twin import small_settings, twin_of

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 7, "head_dim": 8},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "gemma2": {
        **GROUPED, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **GROUPED, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": GROUPED,
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "gpt_neox": {**COMMON, "attention_dropout": 0.1, "hidden_dropout": 0.1},
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0, 1]},
    "olmo2": GROUPED,
    "granite": {
        **GROUPED, "logits_scaling": 3.0, "attention_multiplier": 0.2,
        "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
    },
}  # fmt: skip
LFM2 = {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]}
# fp64 is exact to 1e-10 unless the architecture itself casts norms or rotary angles to fp32.
ALL_FP64 = {"gpt2", "gpt_neox"}


@dataclass(frozen=True)
class Row:
    """An example for the engine."""

    input_ids: list[int]
    weights: list[float]


def tiny(kind: str, *, ours: bool, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A tiny random model with our attention function, or with transformers' own.

    Its eager attention casts the softmax to fp32 even in fp64; only soft caps leave no choice.
    """
    register()
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **CONFIGS[kind])
    attention = NAME if ours else "eager" if kind == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the usual start, so that attention and norms are far from flat.
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()


def small_model(kind: str, **changes: Any) -> Any:
    """A random tiny model of any type, with transformers' own attention: fed beside."""
    register()
    config = AutoConfig.for_model(kind)
    config = type(config).from_dict({**small_settings(config), **changes})
    return twin_of(AutoModelForCausalLM._model_mapping[type(config)], config, STOCK)


def reference_step(model: Any, rows: list[Row]) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss sum, weight sum and gradients by transformers itself, each example alone."""
    model.zero_grad()
    loss, weight = 0.0, 0.0
    for row in rows:
        ids = torch.tensor([row.input_ids], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        w = torch.tensor(row.weights[1:], dtype=logits.dtype, device=model.device)
        targets = ids[0, 1:]
        part = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * w).sum()
        part.backward()
        loss, weight = loss + part.item(), weight + sum(row.weights[1:])
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss, weight, grads


def rows_of(seed: int) -> list[Row]:
    """Ragged rows with float weights: two prefix groups, loners, gaps between trained tokens."""
    draw = random.Random(seed)

    def tokens(n: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(n)]

    rows = []
    for common in (tokens(19), tokens(24), []):
        for _ in range(draw.randrange(2, 5)):
            context, answer = tokens(draw.randrange(2, 9)), tokens(draw.randrange(1, 9))
            weights = [draw.choice([1.0, 0.25, 3.0, 0.0]) for _ in answer]
            weights[-1] = 1.0
            tail = tokens(draw.randrange(0, 3))
            ids = common + context + answer + tail
            rows.append(Row(ids, [0.0] * len(common + context) + weights + [0.0] * len(tail)))
    draw.shuffle(rows)
    return rows


def worst_difference(model: Any, grads: dict[str, torch.Tensor]) -> float:
    """Largest difference of a gradient, relative to the largest entry of that gradient."""
    return max(
        ((p.grad - grads[n]).abs().max() / grads[n].abs().max().clamp_min(1e-12)).item()
        for n, p in model.named_parameters()
        if n in grads
    )
