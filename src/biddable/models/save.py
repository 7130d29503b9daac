"""Writes a tuned model as a Hugging Face folder that runs elsewhere as it ran here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from biddable.models.model_files import write_files
from biddable.storage import AtomicFolder, write_tensors

# Where transformers 5 has another name for a tensor than the published files, which all else reads.
_PUBLISHED = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}


def save_model(
    model: Any, tensors: Mapping[str, Tensor], files: Mapping[str, str], folder: Path
) -> None:
    """Writes weights, and all that stands beside them.

    The folder appears whole or not at all. Weights are written in the precision they were trained
    and judged in, fp32: a rounded copy would be another model than the one on the scorecard.

    Args:
        model: for its buffers.
        tensors: the fp32 parameters by name; tied ones once.
        files: by file name, those of `model_files` and texts about the model; README.md is the
            model card.
    """
    from transformers.core_model_loading import revert_weight_conversion

    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {k: v for k, v in model.state_dict().items() if k not in parameters}
    published = _PUBLISHED.get(model.config.model_type, {})
    named = {published.get(name, name): t for name, t in {**buffers, **tensors}.items()}
    # As it loads them transformers renames parts and joins experts, which published files name.
    named = revert_weight_conversion(model, named)
    with AtomicFolder(folder, manifest=False) as aside:
        write_tensors(named, aside / "model.safetensors")
        write_files(files, aside)
