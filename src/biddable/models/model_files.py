"""The files of a model folder beside its weights, for transformers 4.57 and 5 alike.

Version 5 renamed what version 4 reads: a config with `rope_parameters` alone loads there without a
word and with the wrong rotary positions. So both spellings are written. What others would take from
the base without having been judged, sampling defaults above all, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from biddable.encoding.encode import stop_token_ids
from biddable.errors import BiddableError, first_line
from biddable.models.support import auto_class
from biddable.template.template import Template
from biddable.template.wrap import with_arguments

# Of transformers' generation settings, those that a model's config may hold too.
_OF_BOTH = {"bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "transformers_version"}
# They name code, a place on the disk, another precision, or how a pipeline shall sample.
_FOREIGN = {
    "auto_map", "_name_or_path", "_model_name_or_path", "quantization_config",
    "task_specific_params",
}  # fmt: skip
# What a tuned model says of itself.
_REPLACED = {
    "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
}  # fmt: skip
# Words, numbers, scripts and white space that tokenizers cut in different ways.
_PROBE = "Don't re-read  v2.10,\n\n\tit's 12345 naïve Ünïcode 漢字かな 🙂 we'll\r\n x=(a_b)  "


def stop_ids_of(model: Any, tokenizer: Any, template: Template) -> tuple[int, ...]:
    """The ids at which a model stops: its ends of turn, then those its generation config adds.

    Of the latter only control tokens count: a config that does not fit its tokenizer may name an
    ordinary token.
    """
    added = getattr(model.generation_config, "eos_token_id", None)
    added = added if isinstance(added, (list, tuple)) else [added]
    control = [i for i in added if i in _control_tokens(tokenizer)]
    return tuple(dict.fromkeys((*stop_token_ids(tokenizer, template), *control)))


def own_template(tokenizer: Any) -> str | None:
    """The tokenizer's own chat template; of several, the default one."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, Mapping) else own


def model_files(
    model: Any, tokenizer: Any, *, chat_template: str | None, stop_ids: Sequence[int]
) -> dict[str, str]:
    """What a model folder holds beside weights and texts, by file name; proven to load.

    Args:
        model: for its class and config.
        chat_template: the Jinja text of training; None where there is none.
        stop_ids: at any of these an answer ends; the first is the end of turn.

    Raises:
        BiddableError: `model_not_savable`, transformers refuses or misreads the files.
    """
    pad = _pad_id(tokenizer, stop_ids, model.config.get_text_config().vocab_size)
    end = _end_token(tokenizer, stop_ids)
    if chat_template and "eos_token" in chat_template and end != tokenizer.eos_token:
        # A template that prints the EOS goes on printing the one that it was trained with.
        chat_template = with_arguments(chat_template, {"eos_token": tokenizer.eos_token or ""})
    records = {
        "config.json": _config(model, tokenizer, stop_ids, pad),
        "generation_config.json": _generation(tokenizer.bos_token_id, stop_ids, pad),
        "tokenizer_config.json": _tokenizer_config(tokenizer, end, pad, chat_template),
    }
    files = {
        name: json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, record in records.items()
    }
    backend = deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    files["tokenizer.json"] = backend.to_str(pretty=True)
    if chat_template is not None:
        files["chat_template.jinja"] = chat_template
    _prove(files, model, tokenizer)
    return files


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Writes texts by file name, to the letter."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _config(model: Any, tokenizer: Any, stop_ids: Sequence[int], pad: int | None) -> dict[str, Any]:
    config = json.loads(model.config.to_json_string())
    foreign = _foreign()
    kept = {name: value for name, value in config.items() if name not in foreign}
    kept |= {
        "architectures": [type(model).__name__],
        "bos_token_id": tokenizer.bos_token_id,
        # One number: llama.cpp's converter passes over a list.
        "eos_token_id": stop_ids[0] if stop_ids else None,
        # As a row of the embedding that is never trained; a stop token has to stay trainable.
        "pad_token_id": None if pad in stop_ids else pad,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    if config["model_type"] == "gpt2":
        kept["n_ctx"] = config["n_positions"]
    for name, part in kept.items():
        if isinstance(part, dict) and "model_type" in part:
            kept[name] = part | _older_rope(part)
    return kept | _older_rope(config)


def _foreign() -> set[str]:
    """What does not belong into a config: code, places, and how to sample."""
    from transformers import GenerationConfig

    return _FOREIGN | (set(GenerationConfig().to_dict()) - _OF_BOTH)


def _older_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names of transformers 4.57."""
    rope = config.get("rope_parameters")
    if not rope:
        return {}
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    kind, theta, part = (rope.get(k) for k in ("rope_type", "rope_theta", "partial_rotary_factor"))
    names = {"rope_theta": theta}
    if config["model_type"] == "gpt_neox":
        names = {"rotary_emb_base": theta, "rotary_pct": part}
    elif part is not None:
        names["partial_rotary_factor"] = part
    if local:
        names["rope_local_base_freq"] = local.get("rope_theta")
    if kind not in (None, "default"):
        apart = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
        # OLMo 2 takes just these two there.
        strict = {"type": kind, "factor": rope.get("factor")}
        names["rope_scaling"] = strict if config["model_type"] == "olmo2" else apart
    return names


def _generation(bos: int | None, stop_ids: Sequence[int], pad: int | None) -> dict[str, Any]:
    """Greedy, as the model was judged; every stop token."""
    import transformers

    settings = {
        "bos_token_id": bos,
        "do_sample": False,
        "eos_token_id": list(stop_ids) or None,
        "pad_token_id": pad,
        "transformers_version": transformers.__version__,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _tokenizer_config(
    tokenizer: Any, end: str | None, pad: int | None, chat_template: str | None
) -> dict[str, Any]:
    named = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    standard = set(tokenizer.SPECIAL_TOKENS_ATTRIBUTES)
    cutter = (json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}).get
    record = {
        **{name: token for name, token in named.items() if name in standard},
        # The names of version 4: a list under that of version 5 is an error there.
        "additional_special_tokens": [str(t) for t in tokenizer.extra_special_tokens],
        "extra_special_tokens": {k: v for k, v in named.items() if k not in standard},
        # Version 4 puts its own default over what tokenizer.json says.
        "add_prefix_space": cutter("add_prefix_space"),
        # Older servers know no chat_template.jinja.
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
        "eos_token": end,
        # Version 4 would add token types, which `generate` refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": tokenizer.model_max_length,
        "pad_token": None if pad is None else tokenizer.convert_ids_to_tokens(pad),
        "padding_side": tokenizer.padding_side,
        # The class that both versions have; version 5's own name is refused by version 4.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {name: value for name, value in record.items() if value not in (None, [], {})}


def _pad_id(tokenizer: Any, stop_ids: Sequence[int], embedded: int) -> int | None:
    """A control token to pad batches with, if there is one no answer ends with.

    Never a new one, which would need a row of the embedding; where nothing else is there, the last
    of the stop tokens, which a batch's attention mask tells from a true end.
    """
    control = _control_tokens(tokenizer)
    named = [i for i, text in control.items() if "pad" in text.lower()]
    unknown = [i for i, text in control.items() if text == tokenizer.unk_token]
    for i in (tokenizer.pad_token_id, *named, *unknown):
        if i is not None and i not in stop_ids and i < embedded:
            return int(i)
    return stop_ids[-1] if stop_ids else None


def _end_token(tokenizer: Any, stop_ids: Sequence[int]) -> str | None:
    """The text of the end of turn; the tokenizer's own EOS where a plain text ends the turn, which
    as a special token would be cut out of every text."""
    own: str | None = tokenizer.eos_token
    if stop_ids and stop_ids[0] in tokenizer.added_tokens_decoder:
        return str(tokenizer.added_tokens_decoder[stop_ids[0]].content)
    return own


def _control_tokens(tokenizer: Any) -> dict[int, str]:
    return {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}


def _prove(files: Mapping[str, str], model: Any, tokenizer: Any) -> None:
    """Loads the files as others will.

    Raises:
        BiddableError: `model_not_savable`.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        with TemporaryDirectory() as folder:
            write_files(files, Path(folder))
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            GenerationConfig.from_pretrained(folder).validate(strict=True)
            again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # The library has many ways to refuse a file.
    except Exception as error:
        raise _not_savable(f"transformers refuses its files: {first_line(error)}") from error
    if type(config) not in auto_class(config.model_type)._model_mapping:
        raise _not_savable(f"transformers loads no model by the name {config.model_type}")
    before, after = (json.loads(c.to_json_string()) for c in (model.config, config))
    # OLMo 2's rotary kind stands there under its older name as well.
    for rope in (before.get("rope_parameters"), after.get("rope_parameters")):
        (rope or {}).pop("type", None)
    for name in sorted(set(before) - _REPLACED - _foreign()):
        if not _holds(after.get(name), before[name]):
            change = f"{name} as {after.get(name)}, not {before[name]}"
            raise _not_savable(f"transformers would read {change}")
    texts = (_PROBE, *_control_tokens(tokenizer).values())
    if any(_cut(again, text) != _cut(tokenizer, text) for text in texts):
        kind = type(again).__name__
        raise _not_savable(f"transformers would load a {kind} for it, which gives other tokens")


def _holds(after: Any, before: Any) -> bool:
    """Whether a setting is there as it was; what is new in a part (older names) is no change."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(_holds(after.get(name), value) for name, value in before.items())
    return bool(before == after)


def _cut(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """A text's ids, and the pieces that the pre-tokenizer cuts; with a small vocabulary the pieces
    may differ where the ids do not."""
    backend = tokenizer.backend_tokenizer
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    cutter = backend.pre_tokenizer
    pieces = [piece for piece, _ in cutter.pre_tokenize_str(normal)] if cutter else [normal]
    return backend.encode(text).ids, pieces


def _not_savable(why: str) -> BiddableError:
    return BiddableError(
        "model_not_savable",
        f"the model that this run would leave cannot be used elsewhere: {why}",
        "take a base whose config.json and tokenizer files belong together",
    )
