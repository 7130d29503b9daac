"""The lab's server, on this machine only: a page, its style and script, and two JSON answers."""

from __future__ import annotations

import json
import socket
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from biddable.errors import BiddableError
from biddable.lab.api import Lab, describe, show

MOST_BYTES = 200_000
_FILES = {
    "/": ("lab.html", "text/html"),
    "/lab.css": ("lab.css", "text/css"),
    "/lab.js": ("lab.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(lab: Lab) -> Starlette:
    """The application.

    A page elsewhere cannot use it: a request whose Host is not this machine is refused (DNS
    rebinding), and one with a body has to be JSON, which no foreign form can send unasked.
    """

    async def page(request: Request) -> Response:
        name, kind = _FILES[request.url.path]
        text = files("biddable.lab").joinpath(name).read_text(encoding="utf-8")
        return Response(text, media_type=kind, headers=_HEADERS)

    async def about(_: Request) -> Response:
        return _answer(describe(lab))

    async def example(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _answer({"error": "send application/json"}, 415)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _answer({"error": f"send at most {MOST_BYTES:,} bytes"}, 413)
        try:
            return _answer(show(lab, json.loads(body)))
        except BiddableError as error:
            found = error.finding
            return _answer({"error": found.message, "fix": found.fix, "code": found.code}, 422)
        except (ValueError, RecursionError):
            return _answer({"error": "the request is no JSON"}, 400)

    routes = [Route(path, page) for path in _FILES]
    routes += [Route("/api/about", about), Route("/api/show", example, methods=["POST"])]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def serve(lab: Lab, listener: socket.socket) -> None:
    """Serves on a listening socket until Ctrl-C."""
    config = uvicorn.Config(make_app(lab), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _answer(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status_code=status, headers=_HEADERS)
