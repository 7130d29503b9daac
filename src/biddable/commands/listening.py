"""What the commands that serve a page share: the check of their packages, and the socket."""

from __future__ import annotations

import errno
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
    except (OSError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        fix = "give another --port; 0 takes a free one" if taken else "give another --host"
        what = f"port {port} of {host} cannot be used: {error}"
        raise BiddableError("option", what, fix) from error
