"""A tiny model on disk, with a tokenizer trained here, as a user would have it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COLOURS = ["red", "blue", "green", "grey", "brown", "white", "black", "pink"]
THINGS = ["cup", "door", "coat", "boat", "lamp", "hat", "bowl", "shoe", "bag", "key"]
SYSTEM = "You name the colour that a thing is painted in, in one short line."


def rows(start: int = 0) -> list[dict[str, str]]:
    """80 questions with short answers in a house form."""
    all_rows = [
        {
            "system": SYSTEM,
            "user": f"Which colour has the {colour} {thing}?",
            "assistant": f"Colour: {colour}.",
        }
        for thing in THINGS
        for colour in COLOURS
    ]
    return all_rows[start:]


def write_jsonl(path: Path, data: list[dict[str, str]]) -> str:
    """Writes rows as JSON lines; returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    return str(path)


def tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE with `<s>` and `</s>`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(row.values()) for row in rows()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat_template
    return fast


def base_folder(path: Path, *, layers: int = 2, positions: int = 256) -> str:
    """A random Llama of about 60,000 parameters without a chat template of its own."""
    torch.manual_seed(0)
    fast = tokenizer()
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return str(path)
