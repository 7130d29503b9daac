"""One exchange of HTTP: the key and the body of a request, and its reply in JSON or in events."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from biddable.serving.forms import as_json
from biddable.serving.jobs import Failure, Job, Piece

# Seconds in which a body has to come.
BODY_SECONDS = 30.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_local(host: str) -> bool:
    """Whether a name or address can mean this machine alone, whoever resolves it."""
    try:
        return host.lower() == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bears(request: Request, key: str) -> bool:
    """Whether a request has the server's key."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(sent.encode(), key.encode())


async def body_of(request: Request, most: int) -> Any:
    """The JSON of a request of at most so many bytes; a field that is null counts as left out."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise Failure(415, "send the header Content-Type: application/json")
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    what = f"a request has at most {most:,} bytes: no context here holds more"
                    raise Failure(413, what)
        return json.loads(body, parse_constant=_no_constant, object_pairs_hook=_once)
    except TimeoutError:
        raise Failure(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Failure(499, "the client has gone") from None
    except (ValueError, RecursionError) as error:
        raise Failure(400, f"the body is no JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return {name: value for name, value in pairs if value is not None}


async def watch(request: Request, queue: asyncio.Queue[Piece | Failure]) -> None:
    """Ends the answer when the client goes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(Failure(499, "the client has gone"))


def streamed(events: AsyncIterator[bytes], job: Job) -> Callable[..., Awaitable[None]]:
    """The response of an answer in events; however it ends, nobody waits for the job after it."""
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    response = StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        try:
            await response(scope, receive, send)
        finally:
            job.gone = True

    return respond


def reply(value: Any, status: int = 200) -> Response:
    """A JSON reply."""
    more = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "2"}}.get(status, {})
    return Response(as_json(value), status, HEADERS | more, "application/json")
