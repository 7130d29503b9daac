"""The HTTP server: who may ask, what may be sent, and where each request goes."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from importlib.resources import files
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from biddable.serving.counts import Counts
from biddable.serving.decoder import Decoder
from biddable.serving.forms import Form, as_json, model_object
from biddable.serving.jobs import Failure, Job, Piece
from biddable.serving.requests import Kind, read_request, shown
from biddable.serving.served import Served

MOST_BYTES = 4 << 20
# Seconds within which a body has to come, and for which answers go on once the server is to end.
BODY_SECONDS, END_SECONDS = 30.0, 5.0
LOCAL = ("127.0.0.1", "localhost", "[::1]")
_FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.css": ("serve.css", "text/css"),
    "/serve.js": ("serve.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Endpoint = Callable[[Request], Awaitable[Any]]


class Desk:
    """The endpoints and what they share.

    Args:
        models: by name, in the order in which they are listed.
        key: what a request has to bear; None on this machine, where the Host is looked at instead.
    """

    def __init__(self, models: Sequence[Served], decoder: Decoder, key: str | None) -> None:
        self.models = {served.name: served for served in models}
        self._by_path = {served.path: served for served in models}
        self.decoder, self.key = decoder, key
        self.counts = Counts()
        self.created = int(time.time())
        self._numbers = count()

    def find(self, name: str) -> Served:
        """The model of a name, or of what it was loaded from.

        Raises:
            Failure: there is none.
        """
        served = self.models.get(name) or self._by_path.get(name)
        if served is None:
            what = f"there is no model {shown(name)}; there is {', '.join(self.models)}"
            raise Failure(404, what, param="model", code="model_not_found")
        return served

    async def page(self, request: Request) -> Response:
        """The page and its files."""
        name, kind = _FILES[request.url.path]
        text = files("biddable.serving").joinpath(name).read_text(encoding="utf-8")
        return Response(text, media_type=kind, headers=_HEADERS)

    async def health(self, _: Request) -> Response:
        """Whether answers are written."""
        alive = self.decoder.alive
        return _reply({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    async def metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        gauges = {
            "biddable_running": self.decoder.running,
            "biddable_waiting": self.decoder.waiting,
        }
        text = self.counts.text(gauges)
        return Response(text, media_type="text/plain; version=0.0.4", headers=_HEADERS)

    async def list_models(self, _: Request) -> Response:
        """All models."""
        data = [model_object(served, self.created) for served in self.models.values()]
        return _reply({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        """One model by its name."""
        return _reply(model_object(self.find(request.path_params["name"]), self.created))

    async def chat(self, request: Request) -> Any:
        """A chat completion."""
        return await self._answer("chat", request)

    async def completion(self, request: Request) -> Any:
        """A completion of a text."""
        return await self._answer("completion", request)

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint for those who may ask."""

        async def guard(request: Request) -> Any:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host")
            if self.key is None:
                if host not in LOCAL and request.headers.get("host") not in LOCAL:
                    raise Failure(400, "the Host header names another machine")
            elif not _bears(request, self.key):
                what = "send the server's key: Authorization: Bearer KEY"
                raise Failure(401, what, kind="authentication_error", code="invalid_api_key")
            return await endpoint(request)

        return guard

    async def _answer(self, kind: Kind, request: Request) -> Any:
        began = time.monotonic()
        body = await _body(request)
        read = await run_in_threadpool(read_request, kind, body, self.find)
        queue: asyncio.Queue[Piece | Failure] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def post(piece: Piece | Failure) -> None:
            # The loop is closed where the server has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        job = Job(next(self._numbers), read.order, post)
        self.decoder.submit(job)
        form = Form(kind, read)
        pieces = self._pieces(job, queue, began)
        if read.stream:
            return _streamed(form.events(pieces), job)
        watch = asyncio.create_task(_watch(request, queue))
        try:
            async with aclosing(pieces):
                return _reply(form.reply([piece async for piece in pieces]))
        finally:
            job.gone = True
            watch.cancel()

    async def _pieces(
        self, job: Job, queue: asyncio.Queue[Piece | Failure], began: float
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of an answer as they come; at its end it is counted."""
        model, status, last = job.order.served.name, "499", None
        try:
            while last is None or last.finish is None:
                piece = await queue.get()
                if isinstance(piece, Failure):
                    status = str(piece.status)
                    raise piece
                if last is None:
                    seconds = time.monotonic() - began
                    self.counts.add("biddable_first_token_seconds_sum", seconds, model=model)
                    self.counts.add("biddable_first_token_seconds_count", model=model)
                last = piece
                if piece.finish:
                    status = "200"
                yield piece
        finally:
            job.gone = True
            seconds, written = time.monotonic() - began, last.tokens if last else 0
            self.counts.add("biddable_requests_total", model=model, status=status)
            self.counts.add("biddable_request_seconds_sum", seconds, model=model)
            self.counts.add("biddable_prompt_tokens_total", len(job.order.prompt), model=model)
            self.counts.add("biddable_completion_tokens_total", written, model=model)


def make_app(desk: Desk) -> Starlette:
    """The application. No page of another site can use it: it sends no CORS headers, and takes
    JSON alone, which a foreign page cannot send unasked."""
    routes = [Route(path, desk.page) for path in _FILES]
    routes += [
        Route("/health", desk.health),
        Route("/metrics", desk.guarded(desk.metrics)),
        Route("/v1/models", desk.guarded(desk.list_models)),
        Route("/v1/models/{name:path}", desk.guarded(desk.one_model)),
        Route("/v1/chat/completions", desk.guarded(desk.chat), methods=["POST"]),
        Route("/v1/completions", desk.guarded(desk.completion), methods=["POST"]),
    ]

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Failure)
        desk.counts.add("biddable_requests_total", model="", status=str(error.status))
        return _reply(error.as_json(), error.status)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return _reply(Failure(error.status_code, what).as_json(), error.status_code)

    async def broken(_: Request, error: Exception) -> Response:
        what = f"internal error: {type(error).__name__}"
        return _reply(Failure(500, what, kind="server_error").as_json(), 500)

    handlers: dict[Any, Any] = {Failure: refused, HTTPException: unknown, Exception: broken}
    return Starlette(routes=routes, exception_handlers=handlers)


def serve_desk(desk: Desk, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM; answers under way have END_SECONDS to end.

    Raises:
        KeyboardInterrupt: SIGINT came, once all is ended.
    """
    grace = int(END_SECONDS) + 5
    config = uvicorn.Config(
        make_app(desk), log_level="critical", access_log=False, timeout_graceful_shutdown=grace
    )
    server = uvicorn.Server(config)

    async def end_answers() -> None:
        while not server.should_exit:
            await asyncio.sleep(0.1)
        end = time.monotonic() + END_SECONDS
        while desk.decoder.busy and time.monotonic() < end and not server.force_exit:
            await asyncio.sleep(0.05)
        await run_in_threadpool(desk.decoder.end)

    async def run() -> None:
        ending = asyncio.create_task(end_answers())
        await server.serve(sockets=[listener])
        ending.cancel()

    try:
        asyncio.run(run())
    finally:
        desk.decoder.end()


def _bears(request: Request, key: str) -> bool:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(sent.encode(), key.encode())


async def _body(request: Request) -> Any:
    """The JSON of a request, within its bounds."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Failure(415, "send the header Content-Type: application/json")
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise Failure(413, f"a request has at most {MOST_BYTES:,} bytes")
        return json.loads(body, parse_constant=_no_constant)
    except TimeoutError:
        raise Failure(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Failure(499, "the client has gone") from None
    except (ValueError, RecursionError) as error:
        raise Failure(400, f"the body is no JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


async def _watch(request: Request, queue: asyncio.Queue[Piece | Failure]) -> None:
    """Ends the answer when the client goes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(Failure(499, "the client has gone"))


def _streamed(events: AsyncIterator[bytes], job: Job) -> Callable[..., Awaitable[None]]:
    """The response of an answer in events; however it ends, nobody waits for the job after it."""
    headers = {**_HEADERS, "X-Accel-Buffering": "no"}
    response = StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def reply(scope: Any, receive: Any, send: Any) -> None:
        try:
            await response(scope, receive, send)
        finally:
            job.gone = True

    return reply


def _reply(value: Any, status: int = 200) -> Response:
    headers = dict(_HEADERS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 429:
        headers["Retry-After"] = "2"
    return Response(as_json(value), status, headers, "application/json")
