"""A chat template: the Jinja text that turns messages into the text a model reads.

The stored text is complete: the date it prints is frozen, template arguments and a changed
generation prompt are written into it, so that `tokenizer.apply_chat_template` in plain transformers
gives the same text, today and next year, and a tuned model carries its template with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biddable.data.conversation import Message
from biddable.errors import BiddableError
from biddable.template.frames import FRAMES
from biddable.template.rendering import Renders, attempt, literal_texts, refusal
from biddable.template.wrap import (
    READ_AS_PARTS,
    frozen_date,
    with_arguments,
    with_generation_prompt,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Header = Literal["prompt", "history"]

# The names under which a message's thinking is passed; transformers hands all of them on.
THINKING_FIELDS = ("reasoning_content", "thinking", "reasoning")
# A file larger than this is no chat template.
LONGEST = 1 << 20
# The messages that templates are tried with.
QUESTION = {"role": "user", "content": "Q?"}
ANSWER = {"role": "assistant", "content": "A!"}


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template with the special tokens that it may print.

    Args:
        text: the Jinja text, as it is stored in chat_template.jinja.
        tokens: names and texts that transformers hands to a template (`bos_token`, `eos_token`).
        built_in: one of our frames, which gets a BOS where the tokenizer itself writes one.
        today: the date that `strftime_now` is frozen to; None is today.
    """

    text: str
    tokens: tuple[tuple[str, str], ...] = ()
    built_in: bool = False
    today: date | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", frozen_date(self.text, self.today or date.today()))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Template:
        """The tokenizer's own chat template, or the plain frame where it has none."""
        return cls.load(None, tokenizer)

    @classmethod
    def frame(cls, name: str) -> Template:
        """A built-in frame: `plain`, `chatml`, `llama2` or `llama3`.

        Raises:
            BiddableError: `template_refused`, there is none of that name.
        """
        if name not in FRAMES:
            raise BiddableError(
                "template_refused",
                f"There is no built-in frame named {name!r}.",
                f"Use one of {', '.join(FRAMES)}, or the path of a Jinja file.",
            )
        return cls(FRAMES[name], built_in=True)

    @classmethod
    def load(
        cls,
        name_or_path: str | None,
        tokenizer: PreTrainedTokenizerFast,
        *,
        args: Mapping[str, Any] | None = None,
        header: Header = "prompt",
        today: date | None = None,
    ) -> Template:
        """What `--template`, `--template-arg` and `--header` ask for, bound to a tokenizer.

        Args:
            name_or_path: None is the tokenizer's own (or the plain frame), else the name of a
                built-in frame, else a Jinja file.
            args: variables to set for the template, e.g. `{"enable_thinking": False}`.
            header: `history` replaces the generation prompt by the header that the template writes
                before an answer in a finished conversation.
            today: the date for templates that print one; None is today's.

        Raises:
            BiddableError: `template_refused`, no such frame or file, no Jinja, or several templates
                of which none is the default.
        """
        if name_or_path is None:
            own = tokenizer.chat_template
            if isinstance(own, Mapping) and own and "default" not in own:
                what = f"the base has chat templates named {', '.join(own)}, and no default"
                fix = "save the one to train with as a file, and give it with --template"
                raise BiddableError("template_refused", what, fix)
            own = own.get("default") if isinstance(own, Mapping) else own
            template = cls(own, today=today) if own else cls.frame("plain")
        elif name_or_path in FRAMES:
            template = cls.frame(name_or_path)
        else:
            template = cls(read_template(name_or_path), today=today)
        if args:
            template = replace(template, text=with_arguments(template.text, args))
        template = template.bound(tokenizer)
        if header == "history":
            text = with_generation_prompt(template.text, history_header(template))
            template = replace(template, text=text)
        return template

    def bound(self, tokenizer: PreTrainedTokenizerFast) -> Template:
        """The template with a tokenizer's special tokens, as plain transformers would render it.

        Raises:
            BiddableError: `template_refused`, it is no Jinja; `template_unusable`.
        """
        tokens = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        text = self.text
        if self.built_in and adds_bos(tokenizer):
            text = "{{ bos_token }}" + text
        literal_texts(text)
        as_text = replace(self, text=text, tokens=tuple(sorted(tokens.items())), built_in=False)
        as_parts = replace(as_text, text=READ_AS_PARTS + text)
        return as_parts if not reads_text(as_text) and reads_text(as_parts) else as_text

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The text of some messages, as `apply_chat_template` gives it in plain transformers.

        Raises:
            BiddableError: `template_refused`, with what the template said.
        """
        return render_dicts(self, [m.as_dict() for m in messages], add_generation_prompt, tools)


def render_dicts(
    template: Template,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """`Template.render` for messages that are JSON objects already."""
    request = request_of(template, messages, add_generation_prompt, tools)
    return Renders(template.text).text(request)


def request_of(
    template: Template,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The JSON of a template's variables, as `Renders` takes it.

    Raises:
        BiddableError: `template_refused`, a message holds what JSON cannot hold.
    """
    variables = {
        **dict(template.tokens),
        "messages": [with_thinking(message) for message in messages],
        "tools": list(tools) or None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return json.dumps(variables, ensure_ascii=False)
    except RecursionError:
        why = "a field of a message is nested too deep"
    except (TypeError, ValueError) as error:
        why = f"a message holds what JSON cannot hold: {error}"
    raise BiddableError.of(refusal("error", why))


def with_thinking(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without its None fields, its thinking under every name that templates read."""
    fields = {key: value for key, value in message.items() if value is not None}
    if len(fields) > 2:
        thinking = next((fields[name] for name in THINKING_FIELDS if name in fields), None)
        if thinking is not None:
            fields = {"thinking": thinking, **fields, "reasoning_content": thinking}
    return fields


def read_template(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST:,} bytes")
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise BiddableError(
            "template_refused",
            f"The chat template {path} cannot be read: {error}.",
            f"Give a Jinja file in UTF-8, or one of the frames {', '.join(FRAMES)}.",
        ) from None


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer itself begins a text with its BOS token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("")[:1] == [bos]


def reads_text(template: Template) -> bool:
    """Whether a template prints the content of a user's message that is a plain text."""
    text = attempt(lambda: render_dicts(template, [QUESTION], True))
    return isinstance(text, str) and "Q?" in text


def history_header(template: Template) -> str:
    """What a template writes between the messages so far and an answer in a finished conversation.

    Raises:
        BiddableError: `template_refused`, what it writes differs from conversation to conversation.
    """
    headers = set()
    for before in ([QUESTION], [QUESTION, ANSWER, QUESTION]):
        start = render_dicts(template, before, False)
        finished = render_dicts(template, [*before, ANSWER], False)
        place = finished.rfind("A!")
        if finished.startswith(start) and place >= len(start):
            headers.add(finished[len(start) : place])
    if len(headers) != 1:
        raise BiddableError(
            "template_refused",
            "The chat template has no one header that it writes before every answer.",
            "Leave --header at prompt, or use another template.",
        )
    return headers.pop()
