"""A tokenizer with one token a character, and a folder with a tiny model that uses it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tiny import tiny

ALPHABET = "abcdefghijklmnopqrstuvwxyzSUA:? \n.0123456789"


@cache
def letters() -> Any:
    """The tokenizer; what it does not know becomes `<pad>`."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(ALPHABET)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def tiny_folder(folder: Path, seed: int = 0) -> str:
    """A model folder with a random tiny Llama and the tokenizer."""
    tiny("llama", ours=False, seed=seed).float().save_pretrained(folder)
    letters().save_pretrained(folder)
    return str(folder)
