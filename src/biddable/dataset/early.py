"""What can be refused before anything slow is loaded: it needs neither torch nor transformers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from biddable.data.charset import check_encoding
from biddable.data.columns import parse_map
from biddable.data.files import refuse_existing, refuse_missing
from biddable.errors import BiddableError
from biddable.settings import Settings
from biddable.storage import refuse_existing_run
from biddable.template.frames import FRAMES
from biddable.template.rendering import attempt, literal_texts
from biddable.template.template import ANSWER, QUESTION, Template, read, render_dicts

SYSTEM = {"role": "system", "content": "S."}


def refuse_early(settings: Settings, outputs: Sequence[str] = ()) -> None:
    """Raises the first of what is wrong with options, names of files and the device.

    Args:
        settings: those of the run.
        outputs: files that will be written.

    Raises:
        BiddableError: a file is missing, an output exists, an option or the device cannot be used.
    """
    system = settings.system[1:] if settings.system.startswith("@") else ""
    refuse_missing((*settings.data, settings.eval, system))
    refuse_existing_run(settings.out)
    for path in filter(None, outputs):
        refuse_existing(path)
        if list(outputs).count(path) > 1:
            what, fix = "Two outputs have the same name.", "Give each its own."
            raise BiddableError("option", what, fix, file=path)
    if settings.map:
        parse_map(settings.map)
    if settings.encoding:
        check_encoding(settings.encoding)
    refuse_device(settings.device)
    refuse_template(settings)


def refuse_template(settings: Settings) -> None:
    """Raises an error where a template needs no more than a greeting to take too much.

    It costs a tenth of a second here, and many seconds behind the libraries that load a base.

    Raises:
        BiddableError: the file cannot be read, is no Jinja, or takes too much.
    """
    text = "" if settings.template in FRAMES else template_text(settings.template, settings.base)
    if not text:
        return
    template = Template(text)
    literal_texts(template.text)
    for chat in ([QUESTION], [QUESTION, ANSWER], [SYSTEM, QUESTION, ANSWER, QUESTION]):
        attempt(partial(render_dicts, template, chat, chat[-1] is QUESTION))


def template_text(name_or_path: str, base: str) -> str:
    """The text of a template file, or of the template in a base's folder; empty if there is none.

    What is wrong with such a folder is said by who loads it.
    """
    if name_or_path:
        return read(name_or_path)
    file = Path(base).expanduser() / "chat_template.jinja"
    return read(str(file)) if file.is_file() else ""


def refuse_device(device: str) -> None:
    """Raises an error where it is certain without torch that the device is not there."""
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
