"""Opens the tokenizer that a folder's tokenizer.json describes, and no other.

AutoTokenizer builds another pre-tokenizer for certain kinds of models than the file has, so that
its ids differ from those of other readers of the file (transformers 45920, 48206). Here the file
alone decides the ids; tokenizer_config.json adds names of special tokens and the chat template.
"""

from __future__ import annotations

import os
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.vetting import damaged, read_object

_SPECIAL = (
    "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
)  # fmt: skip
# Plain values of tokenizer_config.json that leave the ids as they are.
_KEPT = {"model_max_length": int, "padding_side": str, "truncation_side": str}
# More ids than any vocabulary has: the limit for a tokenizer without a model.
MOST_IDS = 1 << 24
LONGEST_TEMPLATE = 1 << 20
# Texts that pre-tokenizers cut differently, and a run of each character, on which a pattern that
# backtracks would never end.
_PROBES = (
    "It's 12345 + 6.78,  isn't it?\n\n\tÀ la carte: naïve \u4f60\u597d \U0001f600 don't\r\n x_y ",
    *(character * 64 for character in string.printable),
)
_MISFIT = "take a base whose tokenizer_config.json fits its tokenizer.json"


def open_own_tokenizer(folder: Path, name: str, rows: int = MOST_IDS) -> Any:
    """A `PreTrainedTokenizerFast` whose ids are those of the folder's tokenizer.json.

    Args:
        folder: one that was vetted.
        rows: of the embedding; the ids must be below.

    Raises:
        BiddableError: `tokenizer_refused`, there is no tokenizer.json or it cannot be used;
            `ids_beyond_embedding` or `base_damaged`.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BiddableError(
            "tokenizer_refused",
            f"the base {name} has no tokenizer.json",
            "open it once with transformers' AutoTokenizer and save_pretrained it to the base",
        )
    # Before the library reads it: a single far id makes it set aside room for all below.
    _refuse_far_ids(read_object(path, name), rows, name)
    settings = _read(folder / "special_tokens_map.json", name)
    settings |= _read(folder / "tokenizer_config.json", name)
    try:
        with silent_stderr():
            tokenizer = _assemble(path, settings, _read(folder / "config.json", name), name)
    except (BiddableError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # The library's panics are no Exception.
        raise damaged(name, f"tokenizer.json cannot be used: {str(error)[:200]}") from error
    tokenizer.chat_template = _template(settings, folder / "chat_template.jinja", name)
    return tokenizer


def check_ids(rows: int, ids: Mapping[str, Any], name: str) -> None:
    """Refuses ids of a model's settings that its embedding has no row for.

    Args:
        rows: of the embedding.
        ids: by what names them, as `config.json eos_token_id`; a list of ids, or None.

    Raises:
        BiddableError: `ids_beyond_embedding`.
    """
    for where, value in ids.items():
        for one in value if isinstance(value, list) else [value]:
            # Older configurations write -1 for no padding.
            none = one is None or (one == -1 and where.endswith("pad_token_id"))
            if not none and not (type(one) is int and 0 <= one < rows):
                what = f"the base {name} has {where} {str(one)[:40]}, its embedding {rows:,} rows"
                fix = f"put the id of a token there, below {rows:,}"
                raise BiddableError("ids_beyond_embedding", what, fix)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Keeps off the terminal what libraries write there: a panic of Rust, a bar of tqdm."""
    terminal = os.dup(2)
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _read(path: Path, name: str) -> dict[str, Any]:
    return read_object(path, name) if path.is_file() else {}


def _refuse_far_ids(described: Mapping[str, Any], rows: int, name: str) -> None:
    model, added = described.get("model"), described.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += range(len(vocabulary))[-1:] if isinstance(vocabulary, list) else []
    ids += [t.get("id") for t in added if isinstance(t, dict)] if isinstance(added, list) else []
    highest = max((i for i in ids if type(i) is int), default=0)
    if highest >= rows:
        raise BiddableError(
            "ids_beyond_embedding",
            f"the base {name} has no embedding for all of its tokens: tokenizer {highest + 1:,}, "
            f"embedding {rows:,}",
            "resize the embedding (model.resize_token_embeddings) and save it again, or take "
            "the tokenizer that the base came with",
        )


def _assemble(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any], name: str) -> Any:
    """transformers' tokenizer around that of the file, once both give the same ids."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(path.read_bytes().decode("utf-8"))
    # A text is never cut or filled up behind a user's back.
    own.no_truncation()
    own.no_padding()
    kept = {k: v for k, v in settings.items() if type(v) is _KEPT.get(k)}
    specials = _specials(settings, config, own, name)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, **kept, **specials)
    for text in _PROBES:
        if tokenizer.backend_tokenizer.encode(text).ids != own.encode(text).ids:
            what = f"transformers gives {text[:16]!r} other ids than the tokenizer.json of {name}"
            raise BiddableError("tokenizer_refused", what, _MISFIT)
    return tokenizer


def _specials(
    settings: Mapping[str, Any], config: Mapping[str, Any], own: Any, name: str
) -> dict[str, Any]:
    """The special tokens by name; those of config.json's ids where none is named."""
    named: dict[str, Any] = {k: _text(settings.get(k)) for k in _SPECIAL}
    for kind in ("bos_token", "eos_token"):
        number = config.get(f"{kind}_id")
        number = number[0] if isinstance(number, list) and number else number
        if named[kind] is None and type(number) is int and 0 <= number < 1 << 32:
            named[kind] = own.id_to_token(number)
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    texts = [_text(v) for v in (extra.values() if isinstance(extra, dict) else extra)]
    for token in (*named.values(), *texts):
        if token is not None and own.token_to_id(token) is None:
            what = f"the base {name} names a special token that its tokenizer.json has not"
            raise BiddableError("tokenizer_refused", f"{what}: {token[:40]!r}", _MISFIT)
    return {**{k: v for k, v in named.items() if v is not None}, "extra_special_tokens": texts}


def _text(token: Any) -> str | None:
    """The text of a token, which may stand with its properties around it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _template(settings: Mapping[str, Any], file: Path, name: str) -> Any:
    """The chat template, or several by name; that of the file before that of the settings."""
    try:
        template = file.read_bytes().decode("utf-8") if file.is_file() else None
        if template is None:
            template = settings.get("chat_template")
        if isinstance(template, list):
            template = {record["name"]: record["template"] for record in template}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(name, f"its chat template cannot be read: {error}") from error
    texts = template.values() if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in texts):
        raise damaged(name, "its chat_template is not a text")
    if any(len(text) > LONGEST_TEMPLATE for text in texts):
        raise damaged(name, f"its chat_template has over {LONGEST_TEMPLATE:,} characters")
    return template
