"""Which architectures the engine may train, and why the others are refused.

An architecture is on the list when the laws in tests/test_engine_laws.py hold for a tiny random
model of it: the gradient of a flat micro-batch equals that of its examples alone, and examples do
not see each other. Whatever mixes tokens outside the attention interface (state-space, linear
attention, short convolutions) would carry one example into the next, so it is refused by name.
"""

from __future__ import annotations

from typing import Any

from biddable.errors import BiddableError

SUPPORTED: dict[str, str] = {
    "llama": "Llama, SmolLM, SmolLM2, TinyLlama and relatives",
    "mistral": "sliding window honored",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3 (dense)",
    "gemma2": "sliding window and soft caps honored",
    "gemma3_text": "sliding window honored",
    "phi3": "Phi-3, Phi-4 (dense)",
    "gpt2": "dropout is off in training",
    "gpt_neox": "Pythia; dropout is off in training",
    "smollm3": "",
    "olmo2": "",
    "granite": "logit, embedding and residual multipliers honored",
}

_STATEFUL = (
    "mamba", "rwkv", "xlstm", "recurrent_gemma", "jamba", "bamba", "zamba", "lfm2", "falcon_h1",
    "qwen3_next", "qwen3_5", "granitemoehybrid", "nemotron_h", "minimax", "kimi_linear",
)  # fmt: skip
# Rotary scalings that make an example's result depend on the longest row beside it.
_UNSTABLE_ROPES = {"dynamic", "longrope"}


def check_kind(kind: str, where: str) -> None:
    """Refuses a kind of model that the engine was not proven on, by its name alone.

    Args:
        kind: `model_type` of config.json.
        where: the base's name or path, for the message.

    Raises:
        BiddableError: `not_causal_lm`, `unsupported_layers` or `unsupported_architecture`.
    """
    if kind in SUPPORTED:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as KINDS

    base, known = f"the base {where} ({kind[:80]})", ", ".join(sorted(SUPPORTED))
    if kind in KINDS and kind not in CAUSAL:
        code, what = "not_causal_lm", "is not a causal language model"
    elif kind.startswith(_STATEFUL):
        code = "unsupported_layers"
        what = (
            "mixes tokens in state-space, linear-attention or convolution layers, which would "
            "carry one example into the next"
        )
    else:
        code, what = "unsupported_architecture", "is of a kind on which the engine is not proven"
    raise BiddableError(code, f"{base} {what}", f"take a base of a tested architecture: {known}")


def check_supported(config: Any, where: str) -> None:
    """Refuses a transformers configuration that the engine was not proven on.

    Raises:
        BiddableError: as `check_kind`, or `unsupported_rope`.
    """
    check_kind(str(config.model_type), where)
    rope = getattr(config, "rope_parameters", None) or {}
    records = [rope, *(r for r in rope.values() if isinstance(r, dict))]
    if bad := _UNSTABLE_ROPES & {str(record.get("rope_type")) for record in records}:
        raise BiddableError(
            "unsupported_rope",
            f"the base {where} uses {bad.pop()} rotary scaling, which makes an example's result "
            "depend on the longest row beside it",
            "take a base with default, linear, llama3 or yarn rotary positions",
        )
