"""Reads what OpenAI's interface takes; what would change the answer and is not done is refused.

requests.json has the parameters and their values, each with the words for whoever sends another.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from jsonschema import Draft202012Validator, ValidationError

from biddable.data.conversation import Message
from biddable.errors import BiddableError, did_you_mean, refuse_no_text
from biddable.generation.sampler import make_sampler
from biddable.serving.jobs import Failure, Order
from biddable.serving.served import Served
from biddable.settings import Sampling

Kind = Literal["chat", "completion"]
Body = Mapping[str, Any]
# The longest answer where a request does not say: as `chat` has it, and as OpenAI's completions.
DEFAULT_LIMITS = {"chat": Sampling().max_new_tokens, "completion": 16}
REQUIRED = {"chat": ["model", "messages"], "completion": ["model", "prompt"]}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was read.

    Args:
        stream: the answer goes piece by piece.
        usage: with the counts of tokens as its last piece.
    """

    order: Order
    stream: bool
    usage: bool


def read_request(kind: Kind, body: Any, find: Callable[[str], Served]) -> Request:
    """What a request wants.

    Args:
        find: the model of a name.

    Raises:
        Failure: with the parameter that is at fault.
    """
    if error := min(_validator(kind).iter_errors(body), key=_rank, default=None):
        raise _refusal(error)
    for name, needed in (("stream_options", "stream"), ("top_logprobs", "logprobs")):
        if name in body and not body.get(needed):
            raise Failure(400, f"{name} goes with {needed}: true only", param=name)
    served = find(body["model"])
    param = REQUIRED[kind][1]
    try:
        prompt = (_chat_prompt if kind == "chat" else _plain_prompt)(served, body)
    except BiddableError as fault:
        finding = fault.finding
        raise Failure(400, finding.message, param=param, code=finding.code) from fault
    room = served.context - len(prompt)
    if room < 1:
        what = f"a prompt of {len(prompt)} tokens leaves no room in a context of {served.context}"
        raise Failure(400, what, param=param, code="context_length_exceeded")
    limits = {body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}
    if len(limits) > 1:
        raise Failure(400, "max_tokens and max_completion_tokens differ", param="max_tokens")
    limit = min(room, *limits) if limits else min(room, DEFAULT_LIMITS[kind])
    stop = body.get("stop", [])
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    order = Order(served, prompt, _sampler(body), int(limit), stops, _logprobs(body))
    usage = body.get("stream_options", {}).get("include_usage", False)
    return Request(order, body.get("stream", False), usage)


@cache
def _validator(kind: Kind) -> Draft202012Validator:
    text = files("biddable.serving").joinpath("requests.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    return Draft202012Validator(
        {
            "$defs": schema["$defs"],
            "type": "object",
            "properties": schema["common"] | schema[kind],
            "required": REQUIRED[kind],
            "additionalProperties": False,
        }
    )


def _rank(error: ValidationError) -> tuple[int, int]:
    """Which of the errors is named: a wrong value before an unknown name, then what is missing."""
    last = ("additionalProperties", "required")
    return last.index(error.validator) + 1 if error.validator in last else 0, len(error.path)


def _refusal(error: ValidationError) -> Failure:
    """An error of the schema in our words."""
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)[1:]
    known: Mapping[str, Any] = error.schema.get("properties", {})
    if error.validator == "additionalProperties":
        name = next(name for name in error.instance if name not in known)
        place = f"{path}.{name}".lstrip(".")[:200]
        what = f"there is no parameter {place}{did_you_mean(name[:40], known)}"
        return Failure(400, what, param=place, code="unknown_parameter")
    if error.validator == "required":
        name = next(name for name in error.schema["required"] if name not in error.instance)
        place = f"{path}.{name}".lstrip(".")
        return Failure(400, f"{place} is missing", param=place, code="missing_parameter")
    wanted = error.schema.get("description", "") if path else "an object"
    what = f"{path or 'the body'} is {shown(error.instance)}; it has to be {wanted}"
    code = "unsupported_parameter" if error.validator in ("const", "enum") else "invalid_value"
    return Failure(400, what, param=path or None, code=code)


def _chat_prompt(served: Served, body: Body) -> list[int]:
    """The ids for the messages, with the system prompt of training where they have none."""
    messages = [_message(message) for message in body["messages"]]
    own = any(message.role == "system" for message in messages)
    if not own and served.system is not None and body.get("biddable_system", True):
        messages.insert(0, Message("system", served.system))
    return served.prompt(messages)


def _message(fields: Body) -> Message:
    content = fields["content"]
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    extra = {name: fields[name] for name in ("name", "reasoning_content") if fields.get(name)}
    for text in (content, *extra.values()):
        refuse_no_text(text, "a message")
    role = "system" if fields["role"] == "developer" else fields["role"]
    return Message(role, content, extra=extra)


def _plain_prompt(served: Served, body: Body) -> Sequence[int]:
    """The ids of a text as it is, control tokens included, behind the tokenizer's own BOS."""
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        (prompt,) = prompt
    if isinstance(prompt, str):
        refuse_no_text(prompt, "the prompt")
        prompt = served.plain(prompt)
    known = range(served.model.config.get_text_config().vocab_size)
    if not isinstance(prompt, list) or not all(type(i) is int and i in known for i in prompt):
        what = "prompt has to be one text, or one list of token ids of this model"
        raise Failure(400, what, param="prompt", code="invalid_value")
    if not prompt:
        raise Failure(400, "the prompt holds no token", param="prompt", code="invalid_value")
    return prompt


def _sampler(body: Body) -> Any:
    """How tokens are drawn; greedy, as the model was judged, where nothing says otherwise."""
    temperature, top_p = body.get("temperature", 0), max(body.get("top_p", 1), 1e-6)
    seed = int(body.get("seed", secrets.randbits(40)))
    return make_sampler(temperature, top_p, seed) if temperature else None


def _logprobs(body: Body) -> int | None:
    """How many likeliest tokens are wanted with each."""
    wanted = body.get("logprobs", False)
    if isinstance(wanted, bool):
        return int(body.get("top_logprobs", 0)) if wanted else None
    return int(wanted)


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
