"""What the commands that serve a page share: their packages, and the socket."""

from __future__ import annotations

import importlib.util
import socket

from biddable.errors import BiddableError

NEEDED = ("starlette", "uvicorn")


def refuse_without_server(command: str) -> None:
    """Raises an error where the packages of a server are not installed.

    Raises:
        BiddableError: `missing_extra`.
    """
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        what = f"`biddable {command}` needs {' and '.join(NEEDED)}"
        raise BiddableError("missing_extra", what, "pip install 'biddable[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        BiddableError: `option`, the port is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BiddableError(
            "option",
            f"port {port} of {host} cannot be used: {error}",
            "give another --port; 0 takes a free one",
        ) from error
