"""The HTTP server: who may ask, what may be sent, and where each request goes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from biddable.serving.decoder import Decoder
from biddable.serving.exchange import HEADERS, bears, body_of, is_local, reply, streamed, watch
from biddable.serving.forms import Form, model_object
from biddable.serving.jobs import Failure, Job, Piece
from biddable.serving.requests import Kind, read_request, shown
from biddable.serving.served import Served

# A body may have these bytes for each token of the longest context, and for all around the text:
# tokens are shorter, and what is longer would take long to encode.
BYTES_A_TOKEN, ROOM_BYTES, MOST_CONTEXT = 32, 1 << 16, 1 << 17
# Seconds for which answers go on once the server is to end.
END_SECONDS = 5.0
KINDS: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.css": ("serve.css", "text/css"),
    "/serve.js": ("serve.js", "text/javascript"),
}
Endpoint = Callable[[Request], Awaitable[Any]]


class Desk:
    """The endpoints and what they share.

    Args:
        models: in the order in which they are listed.
        key: what a request has to bear; None on this machine, where the Host is looked at instead.
    """

    def __init__(self, models: Sequence[Served], decoder: Decoder, key: str | None) -> None:
        self.models = {served.name: served for served in models}
        self.decoder, self.key = decoder, key
        self.counts: Counter[str] = Counter()
        self.created = int(time.time())
        self._by_path = {served.path: served for served in models}
        self._numbers = count()
        longest = min(max(served.context for served in models), MOST_CONTEXT)
        self._most_bytes = ROOM_BYTES + BYTES_A_TOKEN * longest

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
        return Response(text, media_type=kind, headers=HEADERS)

    async def health(self, _: Request) -> Response:
        """Whether answers are written."""
        return reply({"status": "ending"}, 503) if self.decoder.ended else reply({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        gauges = {"running": self.decoder.running, "waiting": self.decoder.waiting}
        samples = {**self.counts, **gauges}
        kinds = {name.partition("{")[0]: "counter" for name in self.counts}
        kinds |= dict.fromkeys(gauges, "gauge")
        types = (f"# TYPE biddable_{name} {kind}" for name, kind in kinds.items())
        values = (f"biddable_{name} {value:.10g}" for name, value in sorted(samples.items()))
        text = "\n".join([*types, *values, ""])
        return Response(text, media_type="text/plain; version=0.0.4", headers=HEADERS)

    async def list_models(self, _: Request) -> Response:
        """All models."""
        data = [model_object(served, self.created) for served in self.models.values()]
        return reply({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        """One model by its name."""
        return reply(model_object(self.find(request.path_params["name"]), self.created))

    async def answer(self, request: Request) -> Any:
        """A completion of a chat or of a text."""
        began, kind = time.monotonic(), KINDS[request.url.path]
        queue: asyncio.Queue[Piece | Failure] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def post(piece: Piece | Failure) -> None:
            # The loop is closed where the server has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        try:
            body = await body_of(request, self._most_bytes)
            read = await run_in_threadpool(read_request, kind, body, self.find)
            job = Job(next(self._numbers), read.order, post)
            self.decoder.submit(job)
        except Failure as failure:
            self._count("requests_total", model="", status=str(failure.status))
            raise
        form, pieces = Form(kind, read), self._pieces(job, queue, began)
        if read.stream:
            return streamed(form.events(pieces), job)
        watching = asyncio.create_task(watch(request, queue))
        try:
            return reply(form.reply([piece async for piece in pieces]))
        finally:
            job.gone = True
            watching.cancel()

    async def _pieces(
        self, job: Job, queue: asyncio.Queue[Piece | Failure], began: float
    ) -> AsyncIterator[Piece]:
        """The pieces of an answer as they come; at its end it is counted."""
        model, status, last = job.order.served.name, 499, None
        try:
            while last is None or last.finish is None:
                piece = await queue.get()
                if isinstance(piece, Failure):
                    status = piece.status
                    raise piece
                if last is None:
                    seconds = time.monotonic() - began
                    self._count("first_text_seconds_sum", seconds, model=model)
                    self._count("first_text_seconds_count", model=model)
                last, status = piece, 200 if piece.finish else 499
                yield piece
        finally:
            self._count("requests_total", model=model, status=str(status))
            self._count("request_seconds_sum", time.monotonic() - began, model=model)
            self._count("prompt_tokens_total", len(job.order.prompt), model=model)
            self._count("completion_tokens_total", last.tokens if last else 0, model=model)

    def _count(self, name: str, value: float = 1, **labels: str) -> None:
        # JSON escapes a label's value as Prometheus does.
        written = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in labels.items())
        self.counts[f"{name}{{{','.join(written)}}}"] += value  # type: ignore[assignment]


def make_app(desk: Desk) -> Starlette:
    """The application. No page of another site can use it: it sends no CORS headers, and takes
    JSON alone, which a foreign page cannot send unasked."""
    guarded = {
        "/metrics": desk.metrics,
        "/v1/models": desk.list_models,
        "/v1/models/{name:path}": desk.one_model,
    }
    routes = [Route(path, desk.page) for path in _FILES] + [Route("/health", desk.health)]
    routes += [Route(path, _guarded(desk, endpoint)) for path, endpoint in guarded.items()]
    routes += [Route(path, _guarded(desk, desk.answer), methods=["POST"]) for path in KINDS]

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            what = f"{request.method} {request.url.path[:200]}: {error.detail}"
            error = Failure(error.status_code, what)
        elif not isinstance(error, Failure):
            error = Failure(500, f"internal error: {type(error).__name__}", kind="server_error")
        return reply(error.as_json(), error.status)

    handled = (Failure, HTTPException, Exception)
    return Starlette(routes=routes, exception_handlers=dict.fromkeys(handled, refused))


def _guarded(desk: Desk, endpoint: Endpoint) -> Endpoint:
    """The endpoint for those who may ask."""

    async def guard(request: Request) -> Any:
        if desk.key is None:
            if not is_local(re.sub(r":\d*$", "", request.headers.get("host", ""))):
                raise Failure(400, "the Host header names another machine")
        elif not bears(request, desk.key):
            what = "send the server's key: Authorization: Bearer KEY"
            raise Failure(401, what, kind="authentication_error", code="invalid_api_key")
        return await endpoint(request)

    return guard


def serve_desk(desk: Desk, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM; answers under way have END_SECONDS to end.

    Raises:
        KeyboardInterrupt: SIGINT came, once all is ended.
    """
    grace = int(END_SECONDS) + 1
    config = uvicorn.Config(
        make_app(desk), log_level="critical", access_log=False, timeout_graceful_shutdown=grace
    )
    server = uvicorn.Server(config)
    # It warns of each client that goes in the middle of an answer.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

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
