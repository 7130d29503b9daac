"""`lab`: a page on this machine that shows template, tokens, mask and masked mean of an example."""

from __future__ import annotations

from typing import Any

from biddable.commands.listening import listen, need_server
from biddable.data.readers import ReadResult, read
from biddable.data.rows import number_of
from biddable.dataset.early import refuse_early
from biddable.engine.precision import choose_device, load_model
from biddable.lab.api import Lab
from biddable.models.base import load_tokenizer, resolve_base
from biddable.options import with_values
from biddable.settings import LabSettings, NoPrinting
from biddable.terminal import console, line

ADDRESS = "127.0.0.1"


def lab(**options: Any) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Args:
        options: fields of `biddable.settings.LabSettings`, by name.

    Raises:
        BiddableError: a package is missing, the port is taken, or base or data are unusable.
    """
    settings = with_values(LabSettings(), options)
    refuse_early(settings)
    need_server()
    line(console(), "loading", f"'{settings.base}'")
    rows = read([settings.data]) if settings.data else ReadResult()
    base = resolve_base(settings.base)
    model = load_model(base, choose_device("cpu")) if settings.weights else None
    page = Lab(settings.base, load_tokenizer(base), model, rows.conversations)
    if errors := rows.errors():
        faults = number_of(len(errors), "fault")
        line(console(), "data", f"{faults}; see with: biddable check {settings.data}")
    from biddable.lab.server import serve

    with listen(ADDRESS, settings.port) as listener:
        line(console(), "lab", f"http://{ADDRESS}:{listener.getsockname()[1]}/ (Ctrl-C ends)")
        serve(page, listener)


def run(options: dict[str, Any], _: NoPrinting) -> int:
    """Serves the page until Ctrl-C."""
    lab(**options)
    return 0
