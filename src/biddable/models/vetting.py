"""What a model folder may hold, read before any library opens it.

Nothing in it may name code, and no question is put: a library that was set not to trust code has
been brought to run it by other fields of config.json (CVE-2026-4372, CVE-2026-5241). JSON is read
strictly, since programs disagree on a key that stands twice and on NaN.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biddable.data.rows import unique_keys
from biddable.errors import BiddableError

# Bytes of a JSON file; the largest tokenizer.json in use has 35 million, the settings 5.
LARGEST_JSON, LARGEST_SETTINGS = 128 << 20, 16 << 20
DEEPEST = 64
INDEX = "model.safetensors.index.json"
# Files that transformers reads as settings; others (trainer_state.json) are ignored.
_SETTINGS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "chat_template.json",
    "adapter_config.json", "adapter_base.json",
)  # fmt: skip
_READ = (*_SETTINGS, "tokenizer.json", INDEX, "chat_template.jinja", "system_prompt.txt")
# Keys that name code, or other files and ways to load.
_CODE = {
    "auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "transformers_weights",
    "fusion_config", "distributed_config", "kernel_config", "use_kernels",
}  # fmt: skip
_CHOICES = re.compile(r"attn_implementation|experts_implementation|kernel")
_PLAIN_CHOICE = re.compile(r"[A-Za-z0-9_]*")
# Settings by which transformers makes lists before anyone has looked at the weights.
_COUNTS, _MOST = ("num_hidden_layers", "n_layer", "num_layers", "num_labels"), 100_000
_QUANTIZED = ("quantization_config", "compression_config", "quantization")
# Names of transformers' own modules; a handler.py or eval.py in a folder is never run here.
_MODULE = re.compile(
    r"(?:configuration|modeling|modular|tokenization|(?:\w+_)?processing|generation)_\w+\.py"
)
_POINTER = b"version https://git-lfs"


def damaged(name: str, what: str, fix: str = "get the base anew") -> BiddableError:
    """The error for a base that is incomplete, or that contradicts itself."""
    return BiddableError("base_damaged", f"the base {name} is damaged: {what}", fix)


def adapter_in_base(name: str) -> BiddableError:
    """The error for an adapter, alone or beside a model."""
    return BiddableError(
        "adapter_in_base",
        f"the base {name} holds an adapter, which names another model to load",
        "merge the adapter into its model and save that, or delete adapter_config.json",
    )


def quantized_base(name: str, why: str) -> BiddableError:
    """The error for weights that are stored in fewer bits than a gradient needs."""
    what = f"the base {name} is quantized ({why}), and such weights cannot be trained"
    return BiddableError("quantized_base", what, "take the unquantized base it was made from")


def first_names(names: set[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(name[:120] for name in sorted(names)[:3]) + more


def read_object(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a base.

    Raises:
        BiddableError: `base_damaged`: not UTF-8 or JSON, not an object, too deep or large, a key
            that stands twice, a number that is not finite.
    """
    most = LARGEST_SETTINGS if path.name in _SETTINGS else LARGEST_JSON
    try:
        if path.stat().st_size > most:
            raise ValueError(f"it has more than {most:,} bytes")
        text = path.read_bytes().decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique_keys, parse_constant=_finite, parse_float=_finite
        )
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
        if path.name in _SETTINGS and any(len(keys) > DEEPEST for keys, _ in _leaves(value)):
            raise RecursionError
    except RecursionError as error:
        raise damaged(name, f"{path.name} is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise damaged(name, f"{path.name} cannot be read: {str(error)[:200]}") from error
    return value


def unknown_setting(folder: Path, name: str, error: Exception) -> str:
    """The setting of config.json whose value a library did not know; empty where it was another."""
    known = isinstance(error, KeyError | AttributeError)
    for keys, value in _leaves(read_object(folder / "config.json", name)) if known else ():
        if isinstance(value, str) and value and repr(value) in str(error):
            return f"{'.'.join(keys)} of its config.json is {value[:40]!r}, which is unknown"
    return ""


def vet_folder(folder: Path, name: str, *, adapter: bool = False) -> None:
    """Refuses a model folder that holds code, or whose files are links to elsewhere.

    Args:
        adapter: whether it is to hold an adapter.

    Raises:
        BiddableError: `code_in_base`, `quantized_base`, `adapter_in_base` or `base_damaged`.
    """
    for path in sorted(folder.iterdir()):
        if _MODULE.fullmatch(path.name):
            raise _code_in_base(name, f"the folder holds {path.name}", "delete the file")
        if path.name in _READ or path.suffix == ".safetensors":
            refuse_elsewhere(path, name)
            _refuse_pointer(path, name)
        if path.name.startswith("shard-"):
            raise damaged(name, f"{path.name} is a part of a training checkpoint")
    if not adapter and (folder / "adapter_config.json").exists():
        raise adapter_in_base(name)
    for file in _SETTINGS:
        if (folder / file).exists():
            _vet_settings(read_object(folder / file, name), file, name)


def refuse_elsewhere(path: Path, name: str) -> None:
    """Refuses what is not a regular file (reading a pipe or device may never end), and links out.

    A snapshot of the hub's cache links to the `blobs` beside it, which is its own store.
    """
    folder = path.parent.resolve()
    homes = [folder, *([folder.parents[1]] if folder.parent.name == "snapshots" else [])]
    try:
        target = path.resolve(strict=True)
        regular = stat.S_ISREG(target.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise damaged(name, f"{path.name} is a link to what is not there") from error
    if not regular:
        raise damaged(name, f"{path.name} is not a file")
    if not any(target.is_relative_to(home) for home in homes):
        fix = "put the file itself in its place"
        raise damaged(name, f"{path.name} is a link out of its folder", fix)


def _refuse_pointer(path: Path, name: str) -> None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            what = f"{path.name} is a pointer of git-lfs, not the file itself"
            raise damaged(name, what, f"run `git lfs pull` in {path.parent}")


def _vet_settings(settings: dict[str, Any], file: str, name: str) -> None:
    for keys, value in _leaves(settings):
        key = next((k for k in keys if k in _CODE and value not in (None, False, {}, [])), None)
        choice = any(_CHOICES.search(k) for k in keys) and isinstance(value, str)
        if key is None and choice and not _PLAIN_CHOICE.fullmatch(value):
            key = ".".join(keys)
        if key is not None:
            raise _code_in_base(name, f"{file} has {key[:80]}", f"take {key[:80]} out of {file}")
    for key in _COUNTS:
        value = settings.get(key)
        if isinstance(value, int | float) and value > _MOST:
            raise damaged(name, f"{file} has {key} {value:.0f}")
    quantized = next((key for key in _QUANTIZED if settings.get(key) is not None), None)
    if file == "config.json" and quantized:
        raise quantized_base(name, f"config.json has {quantized}")


def _code_in_base(name: str, what: str, fix: str) -> BiddableError:
    return BiddableError(
        "code_in_base",
        f"the base {name} comes with code ({what}), which is never run",
        f"{fix} if transformers has the architecture itself; else take another base",
    )


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values that hold no others, with the keys that lead to each."""
    if not isinstance(value, dict | list) or not value or len(keys) > DEEPEST:
        yield keys, value
        return
    for key, inner in value.items() if isinstance(value, dict) else (("[]", v) for v in value):
        yield from _leaves(inner, (*keys, key))


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds the number {text[:40]}")
    return number
