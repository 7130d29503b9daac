"""The lab's server, on this machine only: a page, its styles and script, and three JSON answers."""

from __future__ import annotations

import json
import socket
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from biddable.display.pages import render
from biddable.errors import BiddableError
from biddable.lab.api import Lab, data_row, describe, show

MOST_BYTES = 200_000
_FILES = {
    "/": ("lab/lab.html", "text/html"),
    "/page.css": ("display/page.css", "text/css"),
    "/lab.css": ("lab/lab.css", "text/css"),
    "/lab.js": ("lab/lab.js", "text/javascript"),
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
        return Response(render(name), media_type=kind, headers=_HEADERS)

    async def about(_: Request) -> Response:
        return _answer(describe(lab))

    async def row(request: Request) -> Response:
        return _answer(data_row(lab, request.query_params.get("number", "")))

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
        except BiddableError:
            raise
        except (ValueError, RecursionError):
            return _answer({"error": "the request is no JSON"}, 400)

    routes = [Route(path, page) for path in _FILES]
    routes += [Route("/api/about", about), Route("/api/row", row)]
    routes += [Route("/api/show", example, methods=["POST"])]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(
        routes=routes, middleware=[hosts], exception_handlers={BiddableError: _refusal}
    )


def serve(lab: Lab, listener: socket.socket) -> None:
    """Serves on a listening socket until Ctrl-C."""
    config = uvicorn.Config(make_app(lab), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


async def _refusal(_: Request, error: Exception) -> Response:
    finding = cast("BiddableError", error).finding
    return _answer({"error": finding.message, "fix": finding.fix, "code": finding.code}, 422)


def _answer(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status_code=status, headers=_HEADERS)
