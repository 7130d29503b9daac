"""A model that answers as in training: with its template, stop tokens and system prompt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from biddable.data.conversation import Message
from biddable.encoding.encode import encode_prompt
from biddable.engine.precision import choose_device, load_model
from biddable.errors import BiddableError, refuse_no_text
from biddable.generation.sampler import make_sampler
from biddable.generation.stream import Finish, stream
from biddable.models.base import load_tokenizer, resolve_base, trained_system_prompt
from biddable.models.model_files import stop_ids_of
from biddable.models.support import context_of
from biddable.options import with_values
from biddable.settings import ChatSettings, Sampling
from biddable.template.template import Template

# Messages to the text of the answer, piece by piece, and why it ended.
Reply = Callable[[Sequence[Message]], Generator[str, None, Finish]]


@dataclass(frozen=True, slots=True, repr=False)
class Speaker:
    """A model ready to answer.

    Args:
        encode: messages to the ids of the prompt.
        replies: the function that answers, with draws of its own, for how answers are drawn.
        context: positions of the model.
        trained_system: the system prompt of every training row, if they had the same.
    """

    name: str
    encode: Callable[[Sequence[Message]], list[int]]
    replies: Callable[[Sampling], Reply]
    context: int
    trained_system: str | None = None

    def __repr__(self) -> str:
        return f"<{self.name}: a model of {self.context:,} tokens of context, ready to answer>"

    def answer(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        system: str | None = None,
        **sampling: Any,
    ) -> str:
        """The answer to a prompt, or to the messages of a conversation, as `chat` gives it.

        Args:
            system: system prompt; "" sends none, None the one of training, unless the messages
                begin with one.
            sampling: fields of `biddable.settings.Sampling`, by name.

        Raises:
            BiddableError: `prompt_too_long`, `option`, or a message without role and content.
        """
        options = checked_sampling(sampling)
        messages = [Message("user", prompt)] if isinstance(prompt, str) else _messages(prompt)
        if messages[0].role != "system":
            system = self.trained_system if system is None else system or None
            messages[:0] = [] if system is None else [Message("system", system)]
        elif system is not None:
            what = "the messages begin with a system prompt, and another one is given"
            raise BiddableError("option", what, "leave system out")
        for message in messages:
            refuse_no_text(message.content, "the prompt")
        return "".join(self.replies(options)(messages))


def load(model: str | PathLike[str], *, device: str = "auto") -> Speaker:
    """Loads tokenizer, template and weights of a run folder, model folder, hub id, .gguf or base.

    Raises:
        BiddableError: the model or the device cannot be used.
    """
    base = resolve_base(with_values(ChatSettings(), {"model": model}).model)
    tokenizer = load_tokenizer(base)
    weights = load_model(base, choose_device(device))
    speaker = make_speaker(base.name, weights, tokenizer, Template.of(tokenizer))
    return replace(speaker, trained_system=trained_system_prompt(base))


def make_speaker(name: str, model: Any, tokenizer: Any, template: Template) -> Speaker:
    """A speaker of a loaded model."""
    stop_ids = stop_ids_of(model, tokenizer, template)

    def encode(messages: Sequence[Message]) -> list[int]:
        return encode_prompt(messages, tokenizer, template)

    def replies(options: Sampling) -> Reply:
        sample = make_sampler(options.temperature, options.top_p, options.seed)
        return lambda messages: stream(
            model,
            encode(messages),
            stop_ids=stop_ids,
            stop_strings=options.stop,
            tokenizer=tokenizer,
            max_new_tokens=options.max_new_tokens,
            sample=sample,
        )

    return Speaker(name, encode, replies, context_of(model.config))


def checked_sampling(values: Mapping[str, Any]) -> Sampling:
    """How an answer is drawn.

    Raises:
        BiddableError: `option`.
    """
    options = with_values(Sampling(), values)
    if not all(options.stop):
        raise BiddableError("option", "--stop is empty", "give text, or leave it out")
    return options


def _messages(messages: Sequence[Message | Mapping[str, Any]]) -> list[Message]:
    if not messages:
        raise BiddableError("option", "there is no message to answer", "give a prompt")
    return [m if isinstance(m, Message) else _message(m) for m in messages]


def _message(message: Mapping[str, Any]) -> Message:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        what = "a message has no text as its role or content"
        raise BiddableError("option", what, 'give {"role": "user", "content": "..."}')
    extra = {k: v for k, v in message.items() if k not in ("role", "content")}
    return Message(role, content, extra=extra)
