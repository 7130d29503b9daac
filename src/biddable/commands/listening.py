"""What the commands that serve a page share: the check of their packages, and the socket."""

from __future__ import annotations

import socket

from biddable.errors import BiddableError, extra_module


def need_server() -> None:
    """Raises `missing_extra` unless the packages that serve a page are installed."""
    for module in ("uvicorn", "starlette"):
        extra_module(module, "serve", "Serving a page")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        what = f"port {port} of {host} cannot be used: {error}"
        raise BiddableError("option", what, "give another --port; 0 takes a free one") from error
