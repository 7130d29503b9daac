"""An answer that is to be written, and what comes of it, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from biddable.generation.sampler import Sampler
from biddable.generation.stream import Cutter, Finish, text_decoder
from biddable.serving.served import Served

# As OpenAI writes the logarithm of no probability at all, which JSON cannot.
LEAST = -9999.0
ErrorKind = Literal[
    "invalid_request_error", "rate_limit_error", "server_error", "authentication_error"
]


class Failure(Exception):
    """Why a request gets no answer, as OpenAI's interface says it.

    Args:
        status: of HTTP.
        param: the parameter that is at fault.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        kind: ErrorKind = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    def as_json(self) -> dict[str, Any]:
        """The body of the reply."""
        fields = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": fields}


@dataclass(frozen=True, slots=True)
class TokenLog:
    """A token with the logarithm of its probability, and the likeliest ones in its place.

    Args:
        start: where its text begins in the answer.
    """

    start: int
    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    Args:
        text: what is certain now; may be empty at the end.
        logs: of the tokens that the text holds, where they are wanted.
        tokens: how many the model has written so far, the stop token included.
        finish: why the answer ends with this piece; None where it goes on.
    """

    text: str
    logs: tuple[TokenLog, ...]
    tokens: int
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a request wants written.

    Args:
        prompt: token ids, fewer than the context.
        sample: draws the next token; None takes the likeliest.
        limit: the longest answer in tokens.
        stop: texts that end it.
        top: how many likeliest tokens go with each; None wants no logarithms.
    """

    served: Served
    prompt: Sequence[int]
    sample: Sampler | None
    limit: int
    stop: tuple[str, ...] = ()
    top: int | None = None


class Job:
    """An answer that is being written.

    Args:
        number: unlike that of any other job.
        post: takes each piece, in the decoder's thread.

    Attributes:
        gone: nobody waits for the answer any more.
    """

    def __init__(self, number: int, order: Order, post: Callable[[Piece | Failure], None]) -> None:
        self.number, self.order, self.post = number, order, post
        self.gone = False
        self._text = text_decoder(order.served.tokenizer)
        self._cutter = Cutter(self._text, order.stop)
        self._tokens, self._sent, self._logged = 0, 0, 0
        self._logs: list[TokenLog] = []

    def take(self, token: int, logits: Tensor) -> bool:
        """Goes on by one token; returns whether the answer ends with it.

        Args:
            logits: (V,) from which the token was drawn.
        """
        self._tokens += 1
        stopped = token in self.order.served.stop_ids
        text = "" if stopped else self._cutter.push(token)
        if self.order.top is not None and not stopped:
            self._log(token, logits, self.order.top)
        finish: Finish | None = None
        if stopped or self._cutter.cut:
            finish = "stop"
        elif self._tokens >= self.order.limit:
            finish = "length"
        if finish:
            text += self._cutter.rest()
        if text or finish:
            self._sent += len(text)
            logs = self._logs_of(everything=finish is not None and not self._cutter.cut)
            self.post(Piece(text, logs, self._tokens, finish))
        return finish is not None

    def _log(self, token: int, logits: Tensor, top: int) -> None:
        shares = logits.float().log_softmax(-1).clamp(min=LEAST)
        best = torch.topk(shares, top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        likeliest = tuple((self._one(i), share) for i, share in pairs)
        log = TokenLog(self._logged, self._one(token), float(shares[token]), likeliest)
        self._logs.append(log)
        self._logged += len(log.text)

    def _one(self, token: int) -> str:
        """The text of a token in the middle of a text: some decoders treat the first in a way of
        their own."""
        return self._text([token, token])[len(self._text([token])) :]

    def _logs_of(self, *, everything: bool) -> tuple[TokenLog, ...]:
        """The logs of the text that is sent, which are not sent yet."""
        count = sum(everything or log.start < self._sent for log in self._logs)
        logs, self._logs = self._logs[:count], self._logs[count:]
        return tuple(logs)
