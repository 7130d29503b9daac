"""The trained system prompt as the default of the chat template, which every program reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biddable.data.conversation import Message
from biddable.errors import BiddableError
from biddable.template.template import Template

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def bake(text: str, system: str) -> str:
    """The Jinja text with a system message in front of conversations that begin with none."""
    quoted = "".join(_ESCAPES.get(c, c) for c in system)
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': '{quoted}'}}] + messages -%}}"
        "{%- endif %}\n" + text
    )


def served_template(
    template: Template, trained: Template, system: str | None, prompts: Sequence[Sequence[Message]]
) -> Template:
    """The template for other programs: with the system prompt in it, if there is one.

    Args:
        template: as the other program reads it; `trained` is that of training.
        prompts: that are rendered without a system message and with it, to prove it.

    Raises:
        BiddableError: `export_differs`.
    """
    if system is None:
        return template
    served = replace(template, text=bake(template.text, system))
    for messages in prompts:
        chat = [m for m in messages if m.role != "system"]
        whole = [Message("system", system), *chat]
        want = trained.render(whole, add_generation_prompt=True)
        for sent in (chat, whole):
            if served.render(sent, add_generation_prompt=True) != want:
                raise BiddableError(
                    "export_differs",
                    "the chat template renders otherwise with the system prompt in it",
                    "--system keep leaves the template as it is",
                )
    return served
