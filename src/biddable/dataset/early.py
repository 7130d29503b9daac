"""What can be refused before anything slow is loaded: it needs neither torch nor transformers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from biddable.data.charset import check_encoding
from biddable.data.columns import parse_map
from biddable.data.files import missing_file, refuse_missing
from biddable.errors import BiddableError, did_you_mean
from biddable.models.adapter_files import refuse_without_bits
from biddable.settings import PACKAGED, FitSettings
from biddable.storage import refuse_existing, refuse_existing_run
from biddable.template.frames import FRAMES
from biddable.template.rendering import attempt, literal_texts
from biddable.template.template import ANSWER, QUESTION, Template, read_template, render_dicts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Bytes; a larger file holds no tokenizer's settings.
LARGEST_SETTINGS = 16 << 20
SYSTEM = {"role": "system", "content": "S."}


def refuse_early(settings: DataclassInstance) -> None:
    """Raises the first of what is wrong with the files, folders, names and device of a command.

    Raises:
        BiddableError: a file is missing, an output exists, an option or the device cannot be used.
    """
    named: dict[str, list[str]] = {"read": [], "write": [], "make": [], "model": []}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value and (kind := f.metadata.get("file")):
            named[kind] += value if isinstance(value, tuple) else [value]
    system, template = (getattr(settings, name, "") or "" for name in ("system", "template"))
    refuse_missing((*named["read"], system[1:] if system.startswith("@") else ""))
    for name in named["make"]:
        refuse_existing_run(name, resumes=isinstance(settings, FitSettings))
    for path, count in Counter(named["write"]).items():
        refuse_existing(path)
        if count > 1:
            what, fix = "Two outputs have the same name.", "Give each its own."
            raise BiddableError("option", what, fix, file=path)
    for name in named["model"]:
        _refuse_missing_model(name)
    if template not in ("", *FRAMES) and not Path(template).exists():
        hint = did_you_mean(template, FRAMES)
        what = f"There is no template {template!r}, neither built in nor as a file{hint}"
        fix = f"Use one of {', '.join(FRAMES)}, or the path of a Jinja file."
        raise BiddableError("template_refused", what if hint else f"{what}.", fix)
    if map_text := getattr(settings, "map", ""):
        parse_map(map_text)
    if encoding := getattr(settings, "encoding", ""):
        check_encoding(encoding)
    refuse_machine(settings)
    refuse_template(template, named["model"])


def _refuse_missing_model(name: str) -> None:
    """Raises an error for a path that is not there; any other name may be a hub id."""
    path = Path(name)
    here = name[:1] in ("/", ".", "~") or name.endswith(".gguf") or path.parent.is_dir()
    if name != PACKAGED and len(path.parts) > 1 and here and not path.exists():
        error = missing_file(str(path)).finding
        raise BiddableError("base_not_found", error.message, error.fix, file=name)


def refuse_template(template: str, models: Sequence[str]) -> None:
    """Raises an error for a template that takes too much even for a greeting.

    It costs a tenth of a second here, and many seconds once the libraries that load a base are in.
    Other faults of a model's folder are reported when it is loaded.

    Args:
        template: a frame's name, a file, or empty: then the one in a model's folder counts.

    Raises:
        BiddableError: the file cannot be read, is no Jinja, or takes too much.
    """
    texts = [read_template(template)] if template not in ("", *FRAMES) else []
    for text in texts if template else _own_templates(models):
        tried = Template(text)
        literal_texts(tried.text)
        for chat in ([QUESTION], [QUESTION, ANSWER], [SYSTEM, QUESTION, ANSWER, QUESTION]):
            attempt(partial(render_dicts, tried, chat, chat[-1] is QUESTION))


def _own_templates(models: Sequence[str]) -> Iterator[str]:
    """The chat templates in the folders of models and runs, in either of their two places."""
    for model in models:
        path = Path(model)
        for folder in (path, path / "model", path / "adapter"):
            config = folder / "tokenizer_config.json"
            if (folder / "chat_template.jinja").is_file():
                yield read_template(str(folder / "chat_template.jinja"))
            elif config.is_file() and config.stat().st_size <= LARGEST_SETTINGS:
                with suppress(OSError, ValueError, RecursionError):
                    value = json.loads(config.read_text(encoding="utf-8"))
                    own = value.get("chat_template") if isinstance(value, dict) else None
                    yield from [own] if isinstance(own, str) else []


def refuse_machine(settings: DataclassInstance) -> None:
    """Raises an error where a device or package is missing, as far as that shows without torch."""
    device = getattr(settings, "device", "")
    if getattr(settings, "base_bits", 0):
        refuse_without_bits()
    try:
        without_cuda = version("torch").endswith("+cpu")
    except PackageNotFoundError:
        without_cuda = False
    if device == "cuda" and without_cuda:
        what = "CUDA is not available: the torch installed here is built for the processor alone."
        fix = "Leave --device out, or install torch with CUDA: https://pytorch.org/get-started."
        raise BiddableError("no_device", what, fix)
    if device == "mps" and sys.platform != "darwin":
        what, fix = "Apple's GPU (mps) is not available on this system.", "Leave --device out."
        raise BiddableError("no_device", what, fix)
