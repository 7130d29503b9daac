"""Proves before anything is loaded that a base's files hold every tensor that its model needs.

transformers starts a missing tensor from random numbers and goes on. Here the model is laid out
without memory (PyTorch's meta device) and compared with the headers of the files; that takes 0.3 s
for 135 million parameters and reads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite, prod
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.vetting import (
    MOST_POSITIONS,
    damaged,
    quantized_base,
    refuse_elsewhere,
    shown,
    vet_weights,
)

# Dtype and shape of a tensor, by its name.
Headers = dict[str, tuple[str, tuple[int, ...]]]
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim",
)  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16"}
# Buffers that older files hold and the model forms anew.
_BUFFERS = re.compile(
    r"(^|\.)(attn\.(masked_)?bias|attention\.(masked_)?bias|rotary_emb\.inv_freq)$"
)
_WRAPPED = re.compile(r"^(base_model\.model\.|_orig_mod\.|_orig_module\.|module\.)")
_PACKED = re.compile(r"\.(qweight|qzeros|scales|weight_scale\w*|absmax|quant_map|\w+_blocks)$")
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")


def read_headers(files: list[Path], name: str) -> Headers:
    """Dtype and shape of every tensor, from the headers alone.

    Raises:
        BiddableError: `base_damaged`: a header lies about its file, or a tensor stands twice.
    """
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


def parameter_count(folder: Path, name: str) -> int:
    """Numbers in the files of a base, from their headers alone."""
    headers = read_headers(vet_weights(folder, name), name)
    return sum(prod(shape) for _, shape in headers.values())


def check_values(config: Any, name: str) -> None:
    """Refuses settings that no model can have.

    Raises:
        BiddableError: `base_damaged`.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and not _whole(positions, MOST_POSITIONS):
        raise damaged(name, f"max_position_embeddings is {str(positions)[:40]}")
    window = getattr(config, "sliding_window", None)
    if window is not None and not _whole(window, MOST_POSITIONS):
        raise damaged(name, f"sliding_window is {str(window)[:40]}")
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        for key in ("rope_theta", "factor", "original_max_position_embeddings"):
            value = rope.get(key) if isinstance(rope, dict) else None
            if value is not None and not _positive(value):
                raise damaged(name, f"{key} is {str(value)[:40]}")
    for key in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"):
        value = getattr(config, key, None)
        if value is not None and not (_positive(value) and value < 1):
            raise damaged(name, f"{key} is {str(value)[:40]}")


def check_sizes(config: Any, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuses sizes that no tensor of the files has, before anything is laid out by them.

    Raises:
        BiddableError: `base_damaged`.
    """
    largest = max((n for shape in shapes.values() for n in shape), default=0)
    for key in _SIZES:
        value = getattr(config, key, None)
        if value is not None and not _whole(value, largest):
            raise damaged(
                name, f"{key} is {str(value)[:40]}, its largest tensor has {largest:,} rows"
            )
    layers = getattr(config, "num_hidden_layers", None)
    if not _whole(layers, len(shapes)):
        raise damaged(
            name, f"num_hidden_layers is {str(layers)[:40]}, its files hold {len(shapes):,} tensors"
        )


def prove_whole(folder: Path, name: str, config: Any) -> None:
    """Makes sure that the files hold all tensors of the model, and none of another.

    Raises:
        BiddableError: `base_damaged`, `quantized_base`, `foreign_prefix` or `pickled_weights`.
    """
    files = vet_weights(folder, name)
    headers = read_headers(files, name)
    wrapped = [match[0] for key in headers if (match := _WRAPPED.match(key))]
    if wrapped:
        raise BiddableError(
            "foreign_prefix",
            f"the tensors of the base {name} are named {wrapped[0]}...: a wrapper was saved, not "
            "the model in it",
            "save the model inside the wrapper (merge_and_unload() for an adapter, _orig_mod "
            "or module else) with save_pretrained",
        )
    parameters = {key: header for key, header in headers.items() if not _BUFFERS.search(key)}
    for key, (dtype, _) in parameters.items():
        if dtype not in _FLOATS or _PACKED.search(key):
            raise quantized_base(name, f"{key[:120]} is {dtype}")
    check_sizes(config, {key: shape for key, (_, shape) in headers.items()}, name)
    report = _report(folder, name, config)
    refuse_unlike(report, name)
    _check_tie(config, files, parameters, name)


def refuse_unlike(report: Mapping[str, Any], name: str) -> None:
    """Reads what transformers reports of a load.

    Raises:
        BiddableError: `base_damaged`, tensors are missing, of another shape, or left over.
    """
    if missing := report["missing_keys"]:
        raise damaged(name, f"its files lack {shown(set(missing))}")
    if unlike := report["mismatched_keys"]:
        words = {f"{k} is {list(have)}, config.json says {list(want)}" for k, have, want in unlike}
        raise damaged(name, f"tensors have other shapes than its config.json: {shown(words)}")
    if extra := {k for k in report["unexpected_keys"] if not _BUFFERS.search(k)}:
        raise damaged(
            name,
            f"its files hold tensors that the architecture has no place for: {shown(extra)}",
            "take the base whose config.json and weights belong together",
        )


def refuse_not_finite(model: Any, name: str) -> None:
    """Refuses a loaded model with NaN or infinity among its numbers.

    Raises:
        BiddableError: `base_damaged`, with the tensors' names.
    """
    numbers = [*model.named_parameters(), *model.named_buffers()]
    bad = {
        key
        for key, tensor in numbers
        if tensor.is_floating_point() and tensor.numel() and not _all_finite(tensor)
    }
    if bad:
        raise damaged(name, f"tensors hold NaN or infinity: {shown(bad)}")


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


def _report(folder: Path, name: str, config: Any) -> Mapping[str, Any]:
    """What transformers says of these files, loaded to where no memory is taken."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            _, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                device_map="meta",
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:
        # Whatever the libraries raise at settings that they did not foresee is about these files.
        raise damaged(name, f"its model cannot be laid out: {first_line(error)}") from error
    result: Mapping[str, Any] = report
    return result


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


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


def _all_finite(tensor: Any) -> bool:
    low, high = tensor.detach().aminmax()
    return isfinite(float(low)) and isfinite(float(high))


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0
