"""Writes a tuned model as a Hugging Face folder that runs elsewhere as it ran here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from biddable.models.aside import Aside, write_tensors


def save_model(
    model: Any,
    tensors: Mapping[str, Tensor],
    tokenizer: Any,
    *,
    chat_template: str | None,
    stop_ids: Sequence[int],
    texts: Mapping[str, str],
    folder: Path,
) -> None:
    """Writes weights, config, tokenizer, chat template, stop tokens, and texts about the model.

    The folder appears whole or not at all. Weights are written in the precision they were trained
    and judged in, fp32: a rounded copy would be another model than the one on the scorecard.

    Args:
        model: for its config, generation config and buffers.
        tensors: the fp32 parameters by name; tied ones once.
        stop_ids: at any of these, generation stops.
        texts: by file name; README.md is the model card.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {k: v for k, v in model.state_dict().items() if k not in parameters}
    with Aside(folder, manifest=False) as aside:
        write_tensors({**buffers, **tensors}, aside / "model.safetensors")
        _save_config(model, aside)
        _save_generation(model, stop_ids, aside)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(aside)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8", newline="")


def _save_config(model: Any, folder: Path) -> None:
    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype = "float32"
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def _save_generation(model: Any, stop_ids: Sequence[int], folder: Path) -> None:
    """The base's generation settings with our stop tokens."""
    from transformers import GenerationConfig

    settings = GenerationConfig.from_dict(model.generation_config.to_dict())
    settings.eos_token_id = list(stop_ids)
    if settings.pad_token_id is None:
        settings.pad_token_id = stop_ids[0]
    settings.save_pretrained(folder)
