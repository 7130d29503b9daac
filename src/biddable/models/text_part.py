"""The text part of a multimodal checkpoint: what is trained of it, and what becomes of the rest.

Some checkpoints load as the whole, and their other parts are frozen and saved as they were; of
others transformers loads the text model alone, and what is saved is that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from biddable.errors import BiddableError

# What a processor of images and sounds is set up from.
_PROCESSORS = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip


def is_multimodal(model: Any) -> bool:
    """Whether text is only a part of what the model takes."""
    return model.config.get_text_config() is not model.config


def freeze_other_parts(model: Any) -> None:
    """Freezes the parameters that text does not use."""
    for parameter in _other_parts(model):
        parameter.requires_grad_(False)


def _other_parts(model: Any) -> list[nn.Parameter]:
    """The parameters of the towers and projectors of a multimodal model."""
    if not is_multimodal(model):
        return []
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    text = {id(p) for part in (model.get_decoder(), *ends) for p in part.parameters()}
    return [p for p in model.parameters() if id(p) not in text]


def refuse_shards(model: Any, name: str) -> None:
    """Refuses to shard a model with frozen parts.

    Raises:
        BiddableError: `option`.
    """
    if is_multimodal(model):
        what = f"--shard on cannot share out the base {name}, of which a part is frozen"
        raise BiddableError("option", what, "use --lora 16, or --shard off")


def router_note(model: Any) -> str:
    """A note for the user of a mixture of experts; empty for other models."""
    config = model.config.get_text_config()
    counts = {k: v for k, v in config.to_dict().items() if "experts" in k and "per_tok" not in k}
    if not any(type(count) is int and count > 1 for count in counts.values()):
        return ""
    turned_on = getattr(config, "output_router_logits", False)
    why = "though config.json turns it on" if turned_on else "as transformers has it by default"
    return f"trained without a loss of their router, {why}"


def text_part_note(model: Any, kind: str, *, adapter: bool) -> str:
    """A note for the user on parts that are not trained; empty where all are.

    Args:
        kind: `model_type` of the base's config.json.
        adapter: whether an adapter is trained and saved, and not the model.
    """
    saved = type(model).__name__
    if is_multimodal(model) and adapter:
        return f"the adapter is on it alone, by the names that it has in {saved}"
    if is_multimodal(model):
        count = sum(p.numel() for p in _other_parts(model))
        return f"trained; {count:,} other parameters are frozen, and saved unchanged in {saved}"
    if model.config.model_type != kind:
        return f"trained and saved alone, as {saved}; the result can no longer be loaded as {kind}"
    return ""


def processor_files(folder: Path, model: Any) -> Mapping[str, str]:
    """The settings of a multimodal base's processors, by file name, which its tuned model needs."""
    if not is_multimodal(model):
        return {}
    paths = [folder / name for name in _PROCESSORS]
    return {path.name: path.read_bytes().decode() for path in paths if path.is_file()}
