"""Tokenizers that come with no model: trained on a text, or read from a file of GPT-2's kind."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.base import Base, from_hub, load_tokenizer

END_OF_TEXT = "<|endoftext|>"
# All bytes and the end of text; fewer tokens could not write every text.
SMALLEST = 257


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909) of at most `size` tokens.

    Raises:
        BiddableError: `option`, the size is below 257.
    """
    from tokenizers import models, pre_tokenizers, trainers

    if size < SMALLEST:
        raise BiddableError(
            "option", f"--vocab {size} has no room for all bytes", "give 257 or more"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = _byte_level(models.BPE())
    tokenizer.train_from_iterator(texts, trainer)
    return _fast(tokenizer)


def open_tokenizer(name: str) -> Any:
    """The tokenizer of a hub id, a folder, or a file.

    A file is tokenizer.json, a .tiktoken file, or the merges (merges.txt, vocab.bpe) beside their
    vocabulary (vocab.json, encoder.json); the last two are cut into words as GPT-2 does.

    Raises:
        BiddableError: `tokenizer_refused`, it cannot be read or has no end of text.
    """
    path = Path(name)
    try:
        if path.suffix == ".tiktoken":
            made = _fast(_from_ranks(_read_ranks(path)))
        elif path.is_file() and path.suffix == ".json":
            made = _from_json(path)
        elif path.is_file():
            made = _fast(_from_merges(path))
        else:
            folder = path if path.is_dir() else from_hub(name, ["*.json", "*.txt", "*.jinja"])
            made = load_tokenizer(Base(name, folder))
    except (OSError, ValueError, StopIteration) as error:
        if isinstance(error, BiddableError):
            raise
        raise _refused(name, f"cannot be read: {error}") from error
    if made.eos_token_id is None:
        raise _refused(name, "has no end-of-text token, at which a model could stop")
    return made


def _byte_level(model: Any) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _fast(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


def _from_json(path: Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    ends = (END_OF_TEXT, "</s>", "<eos>")
    eos = next((t for t in ends if tokenizer.token_to_id(t) is not None), None)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)


def _from_merges(merges: Path) -> Any:
    from tokenizers import models

    names = ("vocab.json", "encoder.json")
    vocabulary = next(p for p in map(merges.with_name, names) if p.is_file())
    return _byte_level(models.BPE.from_file(str(vocabulary), str(merges)))


def _read_ranks(path: Path) -> dict[bytes, int]:
    """The lines of a .tiktoken file: a token in base64, and its rank."""
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        if line.strip():
            token, rank = line.split()
            try:
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except binascii.Error as error:
                raise ValueError(f"{line[:40]!r} is no token and rank") from error
    return ranks


def _from_ranks(ranks: dict[bytes, int]) -> Any:
    """A BPE model whose merges are those that built each token of the list."""
    from tokenizers import models
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    shown = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(shown[b] for b in token)

    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [_halves(token, ranks) for token in ordered if len(token) > 1]
    vocabulary = {text(token): rank for token, rank in ranks.items()}
    return _byte_level(models.BPE(vocabulary, [(text(a), text(b)) for a, b in merges]))


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged into this one: what merging gives without the last merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(pairwise(parts))]
        rank, i = min(pairs)
        if rank >= ranks[token]:
            raise ValueError(f"no two tokens make up {token!r}")
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _refused(name: str, why: str) -> BiddableError:
    return BiddableError(
        "tokenizer_refused",
        f"the tokenizer {name} {why}",
        "give a hub id, a folder with tokenizer.json, a .tiktoken file, or GPT-2's vocab.bpe",
    )
