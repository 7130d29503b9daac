"""Tokenizers that come with no model: trained on a text, or read from a file of GPT-2's kind."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.base import Base, from_hub, load_tokenizer

END_OF_TEXT = "<|endoftext|>"
# All bytes and the end of text; fewer tokens could not write every text.
SMALLEST = 257


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909) of at most `size` tokens."""
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
    vocabulary (vocab.json, encoder.json); the last two kinds cut text into words as GPT-2 does.

    Raises:
        BiddableError: `tokenizer_refused`, it cannot be read or has no end of text.
    """
    path = Path(name)
    try:
        if path.suffix == ".tiktoken":
            tokenizer = _fast(_from_tiktoken(path))
        elif path.is_file() and path.suffix == ".json":
            tokenizer = _from_json(path)
        elif path.is_file():
            tokenizer = _fast(_from_merges(path))
        else:
            folder = path if path.is_dir() else from_hub(name, ["*.json", "*.txt", "*.jinja"])
            tokenizer = load_tokenizer(Base(name, folder))
    except BiddableError:
        raise
    except Exception as error:
        # The library foresees few of the values that a file may hold.
        reason = str(error).strip() or type(error).__name__
        raise _refused(name, f"cannot be read: {reason.splitlines()[0][:300]}") from error
    if tokenizer.eos_token_id is None:
        raise _refused(name, "has no end-of-text token, at which a model could stop")
    return tokenizer


def _byte_level(model: Any) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _fast(tokenizer: Any) -> Any:
    """The tokenizer as transformers has it; it must be able to write every text."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    absent = set(pre_tokenizers.ByteLevel.alphabet()) - set(tokenizer.get_vocab())
    if absent:
        raise ValueError(f"{len(absent)} of the 256 bytes have no token")
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

    named = [merges.with_name(name) for name in ("vocab.json", "encoder.json")]
    vocabulary = next((path for path in named if path.is_file()), None)
    if vocabulary is None:
        raise ValueError("there is no vocab.json or encoder.json beside it")
    return _byte_level(models.BPE.from_file(str(vocabulary), str(merges)))


def _from_tiktoken(path: Path) -> Any:
    """The tokenizer of a .tiktoken file: lines of a token in base64 and its rank.

    Any two tokens that together are a token may be merged, that of the lowest rank first.
    """
    from tokenizers import models
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ranks: dict[bytes, int] = {}
    for line in filter(None, map(bytes.strip, path.read_bytes().splitlines())):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{line[:40]!r} is no token and rank") from error
    letters = bytes_to_unicode()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in halves if a in ranks and b in ranks]
        if halves and not pairs:
            raise ValueError(f"no two tokens make up {token!r}")
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(text[a], text[b]) for a, b in pairs]
    return _byte_level(models.BPE({text[t]: rank for t, rank in ranks.items()}, merges))


def _refused(name: str, why: str) -> BiddableError:
    return BiddableError(
        "tokenizer_refused",
        f"the tokenizer {name} {why}",
        "give a hub id, a folder with tokenizer.json, a .tiktoken file, or GPT-2's vocab.bpe",
    )
