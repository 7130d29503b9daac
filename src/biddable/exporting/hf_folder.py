"""Folders for transformers, vLLM and TGI, whole or as PEFT's adapter, and their readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import torch

from biddable.generation.generate import Answer
from biddable.models.adapter_files import BASE, CONFIG, WEIGHTS
from biddable.models.completeness import quiet
from biddable.models.model_files import model_files, write_files
from biddable.models.support import auto_class

_SAMPLING = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as transformers or PEFT reads it: no code of this package is in its way.

    Args:
        name: of the package that reads it.
        settings: its generation_config.json.
    """

    name: str
    tokenizer: Any
    model: Any
    settings: Any

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of the prompt."""
        text: str = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        return text

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered prompt."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def answer(self, prompt: Sequence[int], limit: int, bias: Sequence[Any] = ()) -> Answer:
        """The answer with the folder's own settings, which are greedy.

        Args:
            bias: pairs of an id and what is added to its logit.
        """
        ids, settings = torch.tensor([list(prompt)]), deepcopy(self.settings)
        settings.max_new_tokens = limit
        if bias:
            settings.sequence_bias = {(i,): float(change) for i, change in bias}
        mask = torch.ones_like(ids)
        rows = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        row = rows[0, len(prompt) :].tolist()
        stopped = bool(row) and row[-1] in self.settings.eos_token_id
        return Answer(tuple(row[:-1] if stopped else row), stopped)


def write_peft(folder: Path, adapter: Path, texts: Mapping[str, str]) -> None:
    """Writes an adapter, byte for byte, with the texts of `texts_of` beside it."""
    for name in (WEIGHTS, CONFIG, BASE):
        shutil.copyfile(adapter / name, folder / name)
    # With a config.json an adapter looks like a model of its own.
    write_files({name: text for name, text in texts.items() if name != "config.json"}, folder)


def texts_of(
    model: Any, tokenizer: Any, chat_template: str, stop_ids: Sequence[int]
) -> dict[str, str]:
    """What stands beside the weights, by file name, with the sampling that was judged.

    Raises:
        BiddableError: `model_not_savable`.
    """
    texts = model_files(model, tokenizer, chat_template=chat_template, stop_ids=stop_ids)
    # transformers alone reads do_sample, and refuses to save a model that has the other without it.
    sampling = {**json.loads(texts[_SAMPLING]), "do_sample": True, "top_k": 1}
    return {**texts, _SAMPLING: json.dumps(sampling, indent=2, sort_keys=True) + "\n"}


def open_folder(folder: Path, base: Path | None = None) -> Folder:
    """The folder as it is read elsewhere; an adapter's by PEFT, on the base that is given."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    # What the libraries say of each other concerns no user of this.
    with quiet(), catch_warnings(action="ignore"):
        kind = AutoConfig.from_pretrained(base or folder).model_type
        model = auto_class(kind).from_pretrained(base or folder, dtype=torch.float32)
        if base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = GenerationConfig.from_pretrained(folder)
    return Folder("peft" if base else "transformers", tokenizer, model.eval(), settings)
