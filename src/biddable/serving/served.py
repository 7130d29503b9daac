"""The models that one process serves, each under a name; nothing else is ever loaded."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from biddable.data.conversation import Message
from biddable.encoding.encode import Encoder, make_encoder, prompt_ids
from biddable.engine.precision import load_model
from biddable.errors import BiddableError
from biddable.models.adapter_files import adapter_folder, base_name
from biddable.models.adapters import load_adapter
from biddable.models.base import Base, load_tokenizer, resolve_base, trained_system_prompt
from biddable.models.model_files import stop_ids_of
from biddable.models.support import context_of
from biddable.template.template import Template

CONFIG_FILE = "config.toml"


@dataclass(frozen=True, slots=True, repr=False)
class Served:
    """A model that answers under a name.

    Args:
        path: another name for it, as it was given.
        stop_ids: the tokens that end an answer.
        system: the system prompt of every training row, if they had the same.
        held: the ids with which every prompt begins that has this system prompt.
    """

    name: str
    path: str
    model: Any
    tokenizer: Any
    encoder: Encoder
    stop_ids: tuple[int, ...]
    system: str | None
    held: tuple[int, ...] = ()

    @property
    def context(self) -> int:
        """Positions of the model."""
        return context_of(self.model.config)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that `chat` sends for some messages.

        Raises:
            BiddableError: the template cannot express them.
        """
        return prompt_ids(self.encoder, messages)

    def plain(self, text: str) -> list[int]:
        """The ids of a text as it is, control tokens included, behind the tokenizer's own BOS."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        start = [self.encoder.bos] if self.encoder.adds_bos and self.encoder.bos is not None else []
        return ids if ids[:1] == start else start + ids


def load_served(runs: Sequence[str], with_base: bool, device: torch.device) -> list[Served]:
    """Loads the models, each base once however many adapters it has.

    Raises:
        BiddableError: a model cannot be used, a run names no base, or two have the same name.
    """
    paths = list(dict.fromkeys([*runs, *map(_base_of, runs)] if with_base else runs))
    bases: dict[str, Base] = {}
    for path in paths:
        name = _name_of(path)
        base = resolve_base(path)
        if name in bases and _nameless(bases[name]) != _nameless(base):
            what = f"two models have the name {name}: {bases[name].name} and {path}"
            raise BiddableError("option", what, "rename one of the folders, or serve one of them")
        bases.setdefault(name, base)
    loaded: dict[tuple[Path, int], Any] = {}
    weights = [_weights(base, device, loaded) for base in bases.values()]
    return [_served(*pair, model) for pair, model in zip(bases.items(), weights, strict=True)]


def _weights(base: Base, device: torch.device, loaded: dict[tuple[Path, int], Any]) -> Any:
    """The model of a base; those with adapters share the tensors of one copy of their base.

    Args:
        loaded: what has been loaded so far, by folder and bits.
    """
    key = base.folder.resolve(), base.bits
    if key not in loaded:
        loaded[key] = load_model(replace(base, adapter=None), device)
    model = loaded[key]
    if base.adapter is None:
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return load_adapter(deepcopy(model, shared), base.adapter, base.name).to(device)


def _nameless(base: Base) -> Base:
    """Where a base stands, whatever it was called."""
    return replace(base, name="", folder=base.folder.resolve())


def _name_of(path: str) -> str:
    """The name of a folder or file; a hub id, or the packaged base, as it is."""
    place = Path(path)
    return place.resolve().name.removesuffix(".gguf") if place.exists() else path


def _base_of(run: str) -> str:
    """What the run was tuned from, as `train --base` takes it.

    Raises:
        BiddableError: `option`, the folder does not tell.
    """
    if adapter := adapter_folder(Path(run)):
        return base_name(adapter, run)
    try:
        base = tomllib.loads((Path(run) / CONFIG_FILE).read_text("utf-8")).get("base")
    except (OSError, ValueError):
        base = None
    if not isinstance(base, str) or not base:
        what = f"--base: {run} has no {CONFIG_FILE} that names its base"
        raise BiddableError("option", what, "give a run folder, or name the base as a RUN")
    return base


def _served(name: str, base: Base, model: Any) -> Served:
    tokenizer = load_tokenizer(base)
    template = Template.of(tokenizer)
    encoder = make_encoder(tokenizer, template)
    system = trained_system_prompt(base)
    stop_ids = stop_ids_of(model, tokenizer, template)
    held = () if system is None else _common_start(encoder, system)
    return Served(name, base.name, model, tokenizer, encoder, stop_ids, system, held)


def _common_start(encoder: Encoder, system: str) -> tuple[int, ...]:
    """The ids with which prompts begin, whatever the user says after this system prompt."""
    try:
        first, second = (
            prompt_ids(encoder, [Message("system", system), Message("user", text)])
            for text in ("a question", "Other: 1")
        )
    except BiddableError:
        # Each request will say why its own messages cannot be expressed.
        return ()
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return tuple(token for token, _ in same)
