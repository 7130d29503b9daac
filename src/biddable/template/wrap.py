"""Jinja texts around a chat template, so that what a run changed about it is stored in its text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

from biddable.errors import BiddableError
from biddable.template.rendering import literal_texts

# Some templates read a content only as a list of typed parts; this turns plain text into parts.
# Each prelude ends in a block tag and a newline, which Jinja drops together (trim_blocks), so that
# the template behind it still begins at the start of a line.
READ_AS_PARTS = (
    "{%- set biddable = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set biddable.messages = biddable.messages + [dict(message, content=[{'type': 'text',"
    " 'text': message.content}]) if message.content is string else message] -%}"
    "{%- endfor -%}"
    "{%- set messages = biddable.messages %}\n"
)


def with_arguments(text: str, args: Mapping[str, Any]) -> str:
    """Sets variables, JSON values by Jinja name, before the template runs."""
    lines = []
    for name, value in args.items():
        if not name.isidentifier():
            raise BiddableError(
                "template_refused",
                f"{name!r} is no name for a template argument.",
                "Use letters, digits and underscores, as in enable_thinking=false.",
            )
        lines.append(f"{{%- set {name} = {literal(value)} %}}\n")
    return "".join(lines) + text


def literal(value: Any) -> str:
    """A JSON value in Jinja's own notation, which knows Python's."""
    try:
        return repr(json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError):
        raise BiddableError(
            "template_refused",
            f"A template argument cannot be a {type(value).__name__} that JSON does not know.",
            "Give a text, a number, true, false or JSON.",
        ) from None


def with_generation_prompt(text: str, header: str) -> str:
    """The template with another generation prompt: its own switched off, `header` written last."""
    # Jinja drops one newline at the very end of a template.
    body = text[:-1] if text.endswith("\n") else text
    return (
        "{%- set biddable_prompt = add_generation_prompt -%}"
        "{%- set add_generation_prompt = false %}\n"
        + body
        + "{{ '' }}{% if biddable_prompt %}{{ "
        + literal(header)
        + " }}{% endif %}"
    )


def frozen_date(text: str, today: date) -> str:
    """The template with `strftime_now` replaced by a macro that knows one day.

    The formats are the template's own constants; a template that computes another one is refused
    when it does.
    """
    if "strftime_now" not in text or "macro strftime_now" in text:
        return text
    moment = datetime.combine(today, time())
    formats = sorted({constant for constant in literal_texts(text) if "%" in constant})
    cases = "".join(
        f"{{%- if format == {literal(form)} -%}}{{{{ {literal(moment.strftime(form))} }}}}"
        "{%- else -%}"
        for form in formats
    )
    unknown = "{{ raise_exception('no frozen date in the form ' ~ format) }}"
    return (
        "{%- macro strftime_now(format) -%}"
        + cases
        + unknown
        + "{%- endif -%}" * len(formats)
        + "{%- endmacro %}\n"
        + text
    )
