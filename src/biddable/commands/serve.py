"""`serve`: models under OpenAI's interface, asked as in training, and a page that shows two."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike
from types import FrameType
from typing import Any

from biddable.commands.listening import listen, need_server
from biddable.dataset.early import refuse_early
from biddable.engine.precision import choose_device
from biddable.errors import BiddableError
from biddable.options import with_values
from biddable.settings import NoPrinting, ServeSettings
from biddable.terminal import console, line

KEY = "BIDDABLE_KEY"


def serve(runs: str | PathLike[str] | Sequence[str | PathLike[str]], **options: Any) -> None:
    """Serves the models until Ctrl-C or SIGTERM.

    Args:
        runs: run or model folders, hub ids, .gguf files, or the packaged base.
        options: fields of `biddable.settings.ServeSettings`, by name.

    Raises:
        BiddableError: a model, the port or an option cannot be used, or the server package or the
            key is missing.
    """
    settings = with_values(ServeSettings(), {"runs": runs, **options})
    refuse_early(settings)
    if not settings.runs:
        raise BiddableError(
            "option", "there is no model to serve", "give a run: biddable serve RUN"
        )
    need_server()
    key = _key_for(settings.host)
    from biddable.serving.decoder import Decoder
    from biddable.serving.endpoints import Desk, serve_desk
    from biddable.serving.served import load_served

    with listen(settings.host, settings.port) as listener:
        line(console(), "loading", ", ".join(settings.runs))
        models = load_served(settings.runs, settings.base, choose_device(settings.device))
        desk = Desk(models, Decoder(models), key)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        line(console(), "models", ", ".join(desk.models))
        line(console(), "serving", f"{address}/v1; the page is {address}/ (Ctrl-C ends)")
        serve_desk(desk, listener)


def _key_for(host: str) -> str | None:
    """The key that a request has to bear; None where there is none, and this machine alone asks."""
    from biddable.serving.exchange import is_local

    key = os.environ.get(KEY, "")
    if not key and not is_local(host):
        what = f"--host {host} lets other machines in, and there is no key"
        raise BiddableError("option", what, f"set {KEY} to a secret that every request has to bear")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        fix = "letters, digits and marks of ASCII, with no space around them"
        raise BiddableError("option", f"no request can bear the key in {KEY}", f"use {fix}")
    return key or None


def run(options: dict[str, Any], _: NoPrinting) -> int:
    """Serves until Ctrl-C or SIGTERM, which end it in order."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with suppress(KeyboardInterrupt):
            serve(**{"runs": (), **options})
    finally:
        signal.signal(signal.SIGTERM, before)
    line(console(), "ended", "every answer is ended")
    return 0
