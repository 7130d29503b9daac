"""What the commands that serve a page share: their packages, and the socket."""

from __future__ import annotations

import socket

from biddable.errors import BiddableError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        other = isinstance(error, socket.gaierror | UnicodeError)
        fix = "give another --host" if other else "give another --port; 0 takes a free one"
        what = f"port {port} of {host} cannot be used: {error}"
        raise BiddableError("option", what, fix) from error
