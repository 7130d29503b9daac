"""A tokenizer as llama.cpp wants it: its tokens, how text is cut before them, where answers end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from biddable.exporting.gguf_weights import Value, not_expressible
from biddable.template.template import Template, adds_bos
from biddable.template.wrap import with_arguments

_UNKNOWN, _NORMAL, _CONTROL, _OWN, _UNUSED, _BYTE = 2, 1, 3, 4, 5, 6
_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
# The kinds of end that a GGUF file has a place for.
_ENDS = ("eos", "eot", "eom")
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_OPEN, _SLASH_REST = r"[^\r\n\p{L}\p{N}]?", _REST.replace(r"[\r\n]*|", r"[\r\n/]*|")
# llama.cpp's names for ways to cut a text, each with its pattern, and whether a whole piece that is
# a token is taken as it is. An empty pattern is GPT-2's own.
_CUTTERS = {
    "gpt-2": ("", False),
    "smollm": (r"\p{N}", False),
    "llama-bpe": (rf"{_CONTRACTED}|{_WORD}|\p{{N}}{{1,3}}|{_REST}", True),
    "dbrx": (rf"{_CONTRACTED}|{_WORD}|\p{{N}}{{1,3}}|{_REST}", False),
    "qwen2": (rf"{_CONTRACTED}|{_WORD}|\p{{N}}|{_REST}", False),
    "tekken": (
        rf"{_OPEN}{_UPPER}*{_LOWER}+|{_OPEN}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASH_REST}", True
    ),
    "gpt-4o": (
        rf"{_OPEN}{_UPPER}*{_LOWER}+{_CONTRACTED}?|{_OPEN}{_UPPER}+{_LOWER}*{_CONTRACTED}?"
        rf"|\p{{N}}{{1,3}}|{_SLASH_REST}",
        False,
    ),
}  # fmt: skip
# Words, numbers, scripts and white space that the ways above cut differently.
_PROBES = (
    "It's I'LL we'Ve 1234567 + 6.78,  isn't it?\n\n\tÀ la carte: naïve \u4f60\u597d \U0001f600\r\n",
    " x_y  McDonald XMLHttp v2.10 \n\n  \n ٣٤٥ don't//\n/ (a)!\n end  ",
    "'s\u00a0\u3000 \u0e01\u0e33\u0301e\u0301 re-read\n \n\nuser:  \t",
)


def with_own_tokens(template: Template, tokenizer: Any) -> Template:
    """The template with nothing where it prints a token that the tokenizer has not; llama.cpp would
    print one of its own choice there."""
    names = ("bos_token", "eos_token")
    missing = [n for n in names if not getattr(tokenizer, n) and n in template.text]
    if not missing:
        return template
    return replace(template, text=with_arguments(template.text, dict.fromkeys(missing, "")))


def vocabulary_of(
    tokenizer: Any, rows: int, stop_ids: Sequence[int], *, begins_with_bos: bool
) -> dict[str, Value]:
    """The settings of a GGUF file that describe the tokenizer, by key.

    Args:
        rows: of the embedding.
        stop_ids: all at which an answer ends.
        begins_with_bos: a prompt does, as it was trained.

    Raises:
        BiddableError: `not_expressible`.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in described["added_tokens"]}
    if trimmed := [t["content"] for t in added.values() if t["lstrip"] or t["rstrip"]]:
        raise not_expressible(f"its token {trimmed[0]!r} takes in the spaces beside it")
    if described["model"]["type"] != "BPE":
        raise not_expressible(f"its tokenizer is a {described['model']['type']}, not a BPE")
    texts = {i: text for text, i in tokenizer.get_vocab().items()}
    kinds = dict.fromkeys(texts, _NORMAL) | {tokenizer.unk_token_id: _UNKNOWN}
    kinds |= {i: _CONTROL if token["special"] else _OWN for i, token in added.items()}
    if described["model"].get("byte_fallback"):
        kinds |= {i: _BYTE for i, text in texts.items() if _BYTE_TEXT.fullmatch(text)}
    values: dict[str, Value] = {
        "tokens": [texts.get(i, f"[PAD{i}]") for i in range(rows)],
        "token_type": [kinds.get(i, _UNUSED) for i in range(rows)],
        "add_bos_token": begins_with_bos and adds_bos(tokenizer),
        "add_eos_token": False,
        **_cutting(tokenizer, described, rows, texts),
        **_special_ids(tokenizer, stop_ids),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _special_ids(tokenizer: Any, stop_ids: Sequence[int]) -> dict[str, Value]:
    """The ids that mean something; a template that prints the EOS prints the first of the ends."""
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id in stop_ids else []
    ends = list(dict.fromkeys([*own, *stop_ids]))
    if not 0 < len(ends) <= len(_ENDS):
        raise not_expressible(f"its answers end at {len(ends)} tokens, and a GGUF file names 3")
    others = {
        "bos": tokenizer.bos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    ids = {**dict(zip(_ENDS, ends, strict=False)), **others}
    return {f"{name}_token_id": i for name, i in ids.items() if i is not None}


def _cutting(
    tokenizer: Any, described: Mapping[str, Any], rows: int, texts: Mapping[int, str]
) -> dict[str, Value]:
    """How text becomes tokens: byte-level BPE, or SentencePiece's."""
    model = described["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if model.get("byte_fallback"):
        return _sentence_pieces(described, merges, rows, texts)
    if (described["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise not_expressible(f"its tokenizer changes text first: {described['normalizer']}")
    own = _pieces(tokenizer.backend_tokenizer.pre_tokenizer)
    whole = bool(model.get("ignore_merges"))
    for name, (pattern, takes_whole) in _CUTTERS.items():
        if own == _pieces_of(name, pattern) and whole == takes_whole:
            return {"model": "gpt2", "pre": name, "merges": merges}
    raise not_expressible("its tokenizer cuts text in a way of its own")


@lru_cache
def _pieces_of(name: str, pattern: str) -> tuple[tuple[str, ...], ...]:
    """The probes as llama.cpp cuts them."""
    from tokenizers import Regex, pre_tokenizers

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "smollm"))
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    return _pieces(pre_tokenizers.Sequence([*split, plain]))


def _pieces(cutter: Any) -> tuple[tuple[str, ...], ...]:
    if cutter is None:
        return ()
    return tuple(tuple(piece for piece, _ in cutter.pre_tokenize_str(t)) for t in _PROBES)


def _sentence_pieces(
    described: Mapping[str, Any], merges: Sequence[str], rows: int, texts: Mapping[int, str]
) -> dict[str, Value]:
    """SentencePiece's way: spaces are letters, and the pair whose token has the best score joins.

    Raises:
        BiddableError: `not_expressible`, the order of the merges is not that of their tokens.
    """
    normal = described["normalizer"] or {}
    steps = normal.get("normalizers", [normal] if normal else [])
    cutter = described["pre_tokenizer"] or {}
    kinds = {step["type"] for step in steps}
    no_cut = cutter.get("type") == "Split" and cutter.get("pattern") == {"String": " "}
    metaspace = cutter.get("type") == "Metaspace" and cutter.get("prepend_scheme") != "first"
    if kinds - {"Prepend", "Replace"} or not (metaspace or no_cut or not cutter):
        raise not_expressible("its tokenizer changes or cuts text in a way of its own")
    scores: dict[str, int] = {}
    last = ""
    for rank, pair in enumerate(merges):
        joined = pair.replace(" ", "", 1)
        if joined in scores and joined != last:
            raise not_expressible("the merges of its tokenizer are not those of a SentencePiece")
        scores.setdefault(joined, -rank)
        last = joined
    prefix = "Prepend" in kinds or cutter.get("prepend_scheme") == "always"
    return {
        "model": "llama",
        "pre": "default",
        "scores": [float(scores.get(texts.get(i, ""), -len(merges))) for i in range(rows)],
        "add_space_prefix": prefix,
    }
