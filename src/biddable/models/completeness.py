"""Proves before anything is loaded that a base's files hold every tensor that its model needs.

transformers starts a missing tensor from random numbers and goes on. Here the model is laid out
without memory (PyTorch's meta device) and compared with the headers of the files; that takes 0.3 s
for 135 million parameters and reads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError, first_line
from biddable.models.support import auto_class, setting_of
from biddable.models.vetting import (
    INDEX,
    damaged,
    first_names,
    quantized_base,
    read_object,
    refuse_elsewhere,
    unknown_setting,
)

# Dtype and shape of a tensor, by its name.
Headers = dict[str, tuple[str, tuple[int, ...]]]
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim",
)  # fmt: skip
# More positions than any model has; a larger number is damage.
MOST_POSITIONS = 1 << 27
_FLOATS = {"F64", "F32", "F16", "BF16"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp"}
# Buffers in older files that the model computes itself.
_BUFFERS = re.compile(
    r"(^|\.)(attn\.(masked_)?bias|attention\.(masked_)?bias|rotary_emb\.inv_freq)$"
)
_PACKED = re.compile(r"\.(qweight|qzeros|scales|weight_scale\w*|absmax|quant_map|\w+_blocks)$")
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")


def check_values(config: Any, name: str) -> None:
    """Refuses settings that no model can have.

    Raises:
        BiddableError: `base_damaged`.
    """
    config = config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    records = [r for r in (ropes, *ropes.values()) if isinstance(r, dict)]
    values = [(key, setting_of(config, key), is_sound) for key, is_sound in _SOUND.items()]
    values += [(key, rope.get(key), _is_positive) for rope in records for key in _ROPE]
    for key, value, is_sound in values:
        if value is not None and not is_sound(value):
            raise damaged(name, f"{key} is {str(value)[:40]}")


def check_sizes(config: Any, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuses sizes that no tensor of the files has, before anything is laid out by them.

    Raises:
        BiddableError: `base_damaged`.
    """
    config = config.get_text_config()
    largest = max((n for shape in shapes.values() for n in shape), default=0)
    for key in _SIZES:
        value = setting_of(config, key)
        if value is not None and not _is_count(value, largest):
            size = f"{key} is {str(value)[:40]}"
            raise damaged(name, f"{size}, its largest tensor has {largest:,} rows")
    layers = getattr(config, "num_hidden_layers", None)
    if not _is_count(layers, len(shapes)):
        size = f"num_hidden_layers is {str(layers)[:40]}"
        raise damaged(name, f"{size}, its files hold {len(shapes):,} tensors")


def prove_complete(folder: Path, name: str, config: Any) -> None:
    """Makes sure that the files hold all tensors of the model, and none of another.

    Raises:
        BiddableError: `base_damaged`, `quantized_base`, `foreign_prefix` or `pickled_weights`.
    """
    files = _weight_files(folder, name)
    headers = _read_headers(files, name)
    parameters = {key: header for key, header in headers.items() if not _BUFFERS.search(key)}
    for key, (dtype, _) in parameters.items():
        if dtype not in _FLOATS or _PACKED.search(key):
            raise quantized_base(name, f"{key[:120]} is {dtype}")
    check_sizes(config, {key: shape for key, (_, shape) in headers.items()}, name)
    try:
        _, report = load_pretrained(folder, config, attention="eager", device="meta")
    except Exception as error:
        # Whatever the libraries raise at settings that they did not foresee is about these files.
        why = unknown_setting(folder, name, error) or first_line(error)
        raise damaged(name, f"its model cannot be laid out: {why}") from error
    refuse_unlike(report, name)
    _check_tie(config, files, parameters, name)


def load_pretrained(
    folder: Path,
    config: Any,
    *,
    attention: str,
    dtype: Any = "auto",
    device: str | None = None,
    gguf: str | None = None,
) -> tuple[Any, Mapping[str, Any]]:
    """The model that transformers loads from a folder, and what it reports of the load.

    Args:
        attention: name of the attention function.
        device: `meta` takes no memory.
        gguf: a file of the folder to load instead of its safetensors.
    """
    with quiet():
        model, report = auto_class(config.model_type).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device,
            gguf_file=gguf,
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    return model, report


def refuse_unlike(report: Mapping[str, Any], name: str) -> None:
    """Reads what transformers reports of a load.

    Raises:
        BiddableError: `foreign_prefix`, `base_damaged`.
    """
    missing = report["missing_keys"]
    if wrapper := next(_wrappers(report["unexpected_keys"], missing), ""):
        raise BiddableError(
            "foreign_prefix",
            f"tensors of the base {name} are named {wrapper}.: a wrapper was saved, not a model",
            "save the model inside it with save_pretrained (of an adapter: merge_and_unload())",
        )
    if missing:
        raise damaged(name, f"its files lack {first_names(set(missing))}")
    if unlike := report["mismatched_keys"]:
        words = {f"{k} is {list(have)}, config.json says {list(want)}" for k, have, want in unlike}
        raise damaged(name, f"tensors have other shapes than its config.json: {first_names(words)}")
    if extra := {k for k in report["unexpected_keys"] if not _BUFFERS.search(k)}:
        what = (
            f"its files hold tensors that the architecture has no place for: {first_names(extra)}"
        )
        raise damaged(name, what, "take the base whose config.json and weights belong together")


def _wrappers(unexpected: Iterable[str], missing: Container[str]) -> Iterator[str]:
    """Parts of names without which unexpected tensors would have the names of missing ones."""
    for parts in (name.split(".") for name in sorted(unexpected)):
        for start, end in combinations(range(len(parts)), 2):
            if ".".join(parts[:start] + parts[end:]) in missing:
                yield ".".join(parts[start:end])


def parameter_count(folder: Path, name: str) -> int:
    """Numbers in the files of a base, from their headers alone."""
    headers = _read_headers(_weight_files(folder, name), name)
    return sum(prod(shape) for _, shape in headers.values())


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own bars and reports off the terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files that the weights stand in."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).exists():
        if pickles := {p.name for p in folder.iterdir() if p.suffix in _PICKLES}:
            raise BiddableError(
                "pickled_weights",
                f"the weights of the base {name} are pickled ({first_names(pickles)}), and reading "
                "a pickle may run a program",
                "take a copy of the base with safetensors",
            )
        gguf = sorted(folder.glob("*.gguf"))
        fix = f"give the file itself: --base {gguf[0]}" if gguf else "get the base anew"
        raise damaged(name, f"it holds neither model.safetensors nor {INDEX}", fix)
    index = read_object(folder / INDEX, name)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not isinstance(index.get("metadata"), dict):
        raise damaged(name, f"{INDEX} holds no weight_map or no metadata")
    files = {str(file) for file in places.values()}
    if outside := {f for f in files if not re.fullmatch(r"[\w.-]+\.safetensors", f)}:
        raise damaged(name, f"{INDEX} names what is no file of its folder: {first_names(outside)}")
    if missing := {f for f in files if not (folder / f).exists()}:
        raise damaged(name, f"{INDEX} names files that are not there: {first_names(missing)}")
    return [folder / file for file in sorted(files)]


def _read_headers(files: list[Path], name: str) -> Headers:
    """Dtype and shape of every tensor, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    headers: Headers = {}
    for path in files:
        refuse_elsewhere(path, name)
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    if key in headers:
                        raise damaged(name, f"the tensor {key[:120]} stands in two files")
                    headers[key] = (str(part.get_dtype()), tuple(part.get_shape()))
        except (OSError, SafetensorError, RuntimeError, OverflowError) as error:
            raise damaged(name, f"{path.name} cannot be read: {str(error)[:200]}") from error
    return headers


def _check_tie(config: Any, files: list[Path], headers: Headers, name: str) -> None:
    """Refuses a head that config.json calls the embedding while the files hold another.

    One program would take the head, another the embedding; neither is right by itself.
    """
    from safetensors import safe_open

    head = next((key for key in _HEADS if key in headers), None)
    embedding = next((key for key in headers if key.endswith(_EMBEDDINGS)), None)
    if not getattr(config, "tie_word_embeddings", False) or head is None or embedding is None:
        return
    tensors = {}
    for path in files:
        with safe_open(path, "pt") as file:
            for key in {head, embedding} & set(file.keys()):
                tensors[key] = file.get_tensor(key)
    if not bool((tensors[head] == tensors[embedding]).all()):
        raise damaged(
            name,
            f"config.json says that the head is the embedding, but {head} and {embedding} differ",
            "set tie_word_embeddings to false in config.json if the head is meant, or delete it",
        )


def _is_count(value: Any, most: int = MOST_POSITIONS) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def _is_small(value: Any) -> bool:
    return _is_positive(value) and value < 1


_ROPE = ("rope_theta", "factor", "original_max_position_embeddings")
# The check of each setting that a config may have.
_SOUND: dict[str, Callable[[Any], bool]] = {
    "max_position_embeddings": _is_count,
    "sliding_window": _is_count,
    "rms_norm_eps": _is_small,
    "layer_norm_eps": _is_small,
    "layer_norm_epsilon": _is_small,
}
