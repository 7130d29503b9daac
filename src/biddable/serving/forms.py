"""The objects of OpenAI's interface: answers whole and in pieces, models, and counts of tokens."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from biddable.serving.jobs import Failure, Piece, TokenLog
from biddable.serving.requests import Kind, Request
from biddable.serving.served import Served

_NAMES = {
    "chat": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
    "completion": ("cmpl", "text_completion", "text_completion"),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How the answer to one request is written."""

    kind: Kind
    request: Request
    number: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def reply(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The whole answer."""
        text = "".join(piece.text for piece in pieces)
        logs = [log for piece in pieces for log in piece.logs]
        inside: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            inside = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choices = [self._choice(inside, logs, pieces[-1].finish)]
        return self._object(1, choices) | {"usage": self._usage(pieces[-1])}

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        if self.kind == "chat":
            yield self._event(
                [self._choice({"delta": {"role": "assistant", "content": ""}}, [], None)]
            )
        last = None
        try:
            async for piece in pieces:
                last = piece
                if piece.text or piece.logs or self.kind == "completion":
                    inside: dict[str, Any] = {"text": piece.text}
                    if self.kind == "chat":
                        inside = {"delta": {"content": piece.text}}
                    finish = piece.finish if self.kind == "completion" else None
                    yield self._event([self._choice(inside, piece.logs, finish)])
        except Failure as failure:
            yield event(failure.as_json())
            return
        if self.kind == "chat" and last:
            yield self._event([self._choice({"delta": {}}, [], last.finish)])
        if self.request.usage and last:
            yield self._event([], self._usage(last))
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        more = {"usage": usage} if self.request.usage else {}
        return event(self._object(2, choices) | more)

    def _object(self, which: int, choices: list[Any]) -> dict[str, Any]:
        names = _NAMES[self.kind]
        return {
            "id": f"{names[0]}-{self.number}",
            "object": names[which],
            "created": self.created,
            "model": self.request.order.served.name,
            "choices": choices,
        }

    def _choice(
        self, inside: dict[str, Any], logs: Sequence[TokenLog], finish: str | None
    ) -> dict[str, Any]:
        written = None
        if self.request.order.top is not None and logs:
            written = _chat_logs(logs) if self.kind == "chat" else _text_logs(logs)
        return {"index": 0, **inside, "logprobs": written, "finish_reason": finish}

    def _usage(self, last: Piece) -> dict[str, int]:
        prompt = len(self.request.order.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": last.tokens,
            "total_tokens": prompt + last.tokens,
        }


def model_object(served: Served, created: int) -> dict[str, Any]:
    """A model; beside OpenAI's fields its context and the system prompt of its training."""
    return {
        "id": served.name,
        "object": "model",
        "created": created,
        "owned_by": "biddable",
        "max_model_len": served.context,
        "system_prompt": served.system,
    }


def event(value: Any) -> bytes:
    """A server-sent event of JSON."""
    return b"data: " + as_json(value) + b"\n\n"


def as_json(value: Any) -> bytes:
    """JSON in ASCII: some clients take U+2028 or U+0085 in a stream for the end of its line."""
    return json.dumps(value).encode()


def _chat_logs(logs: Sequence[TokenLog]) -> dict[str, Any]:
    content = [
        {**_log(log.text, log.logprob), "top_logprobs": [_log(*pair) for pair in log.likeliest]}
        for log in logs
    ]
    return {"content": content, "refusal": None}


def _log(text: str, logprob: float) -> dict[str, Any]:
    # The bytes of half a character are not known from its text.
    known = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}


def _text_logs(logs: Sequence[TokenLog]) -> dict[str, Any]:
    return {
        "tokens": [log.text for log in logs],
        "token_logprobs": [log.logprob for log in logs],
        "top_logprobs": [dict(log.likeliest) for log in logs],
        "text_offset": [log.start for log in logs],
    }
