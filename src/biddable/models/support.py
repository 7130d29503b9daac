"""What a configuration alone says of a base: whether it may be a causal model, and its context.

Whether the engine gives such a model's gradient is no list: it is proven on the model itself
(`engine/proof.py`). Refused here is what no proof could save.
"""

from __future__ import annotations

from typing import Any

from biddable.errors import BiddableError

# The positions of a model whose configuration names no limit.
UNLIMITED = 1 << 27
# Rotary scalings that give every token of a row other angles once the row is longer than the
# length that the model was first trained with.
_CHANGING_ROPES = {"dynamic", "longrope"}


def check_kind(kind: str, where: str) -> None:
    """Refuses a kind of model that is no causal language model, by its name alone.

    Args:
        kind: `model_type` of config.json.
        where: the base's name or path, for the message.

    Raises:
        BiddableError: `not_causal_lm` or `unsupported_architecture`.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MULTIMODAL,
    )
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as KINDS

    if kind in CAUSAL or kind in MULTIMODAL:
        return
    if kind in KINDS:
        raise _not_causal(kind, where)
    raise BiddableError(
        "unsupported_architecture",
        f"the base {where} ({kind[:80]}) is of a kind that this transformers does not have",
        "take a base of a kind of docs/guide/models.md, or a newer transformers",
    )


def check_supported(config: Any, where: str) -> None:
    """Refuses a transformers configuration that is not of a causal language model.

    Raises:
        BiddableError: as `check_kind`.
    """
    check_kind(str(config.model_type), where)
    if config.is_encoder_decoder:
        raise _not_causal(str(config.model_type), where)


def auto_class(kind: str) -> Any:
    """The class of transformers that loads a kind of model with its vocabulary head."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    return AutoModelForCausalLM if kind in CAUSAL else AutoModelForImageTextToText


def setting_of(config: Any, name: str) -> Any:
    """A setting of a configuration; None where it has none, or one for each layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return None


def context_of(config: Any) -> int:
    """The most tokens of a row: the model's positions, or fewer where its rotary angles change.

    A row longer than what a `longrope` or `dynamic` scaling begins at has other angles from its
    first token on; those with a fixed `alpha` (Hunyuan) only share the name.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    limits = [getattr(text, "max_position_embeddings", None)]
    for record in [rope, *(r for r in rope.values() if isinstance(r, dict))]:
        if record.get("rope_type") in _CHANGING_ROPES and not record.get("alpha"):
            limits.append(record.get("original_max_position_embeddings"))
    return min([limit for limit in limits if type(limit) is int and limit > 0] or [UNLIMITED])


def _not_causal(kind: str, where: str) -> BiddableError:
    return BiddableError(
        "not_causal_lm",
        f"the base {where} ({kind[:80]}) is not a causal language model",
        "take a base that writes text token by token; docs/guide/models.md lists kinds",
    )
