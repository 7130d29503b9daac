"""`lab`: a page on this machine that shows template, tokens, mask and masked mean of an example."""

from __future__ import annotations

import importlib.util
import socket

from biddable.data.readers import ReadResult, read
from biddable.engine.precision import choose_device, load_model
from biddable.errors import BiddableError
from biddable.lab.api import Lab
from biddable.models.base import load_tokenizer, resolve_base
from biddable.terminal import console, line

ADDRESS = "127.0.0.1"
NEEDED = ("starlette", "uvicorn")


def lab(base: str = "smollm2", *, data: str = "", weights: bool = False, port: int = 8765) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Args:
        base: hub id, folder, run folder (with the template of its run), .gguf or packaged base.
        data: a file whose rows the page opens.
        weights: load the weights too, for the masked mean.
        port: 0 takes a free one.

    Raises:
        BiddableError: a package is missing, the port is taken, or base or data are unusable.
    """
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        raise BiddableError(
            "missing_extra", f"the lab needs {' and '.join(NEEDED)}", "pip install 'biddable[lab]'"
        )
    rows = read([data]) if data else ReadResult()
    folder = resolve_base(base)
    model = load_model(folder, choose_device("cpu")) if weights else None
    work = Lab(base, load_tokenizer(folder), model, rows.conversations)
    if errors := len(rows.errors()):
        line(console(), "data", f"{errors:,} faults; see them with: biddable check {data}")
    from biddable.lab.server import serve

    with _listen(port) as listener:
        line(console(), "lab", f"http://{ADDRESS}:{listener.getsockname()[1]}/ (Ctrl-C ends)")
        serve(work, listener)


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise BiddableError(
            "option",
            f"port {port} of {ADDRESS} cannot be used: {error}",
            "give another --port; 0 takes a free one",
        ) from error
