"""A Modelfile that leaves Ollama nothing to guess: template, system prompt, stops and sampling."""

from __future__ import annotations

from collections.abc import Sequence

from biddable.exporting.gguf_weights import not_expressible

# Ollama sets memory aside for all tokens of the context: more than this is for who wants it.
MOST_CONTEXT = 8192
_SAMPLING = {"temperature": 0, "top_k": 1, "top_p": 1, "min_p": 0, "repeat_penalty": 1}


def modelfile(
    file: str, template: str, system: str | None, stops: Sequence[str], context: int
) -> str:
    """The text of the Modelfile.

    Args:
        file: name of the GGUF file beside it.
        template: in Go's language; has the system prompt as its default.
        system: what Ollama shows as the system prompt; left out where a Modelfile cannot hold it.
        stops: texts of the tokens at which an answer ends.
        context: of the model, in tokens.

    Raises:
        BiddableError: `not_expressible`, a stop is no text that a Modelfile can hold.
    """
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""']
    if system and _holds(system):
        lines.append(f'SYSTEM """{system}"""')
    for stop in stops:
        if not _holds(stop):
            raise not_expressible(f"a Modelfile cannot hold its stop {stop!r}")
        lines.append(f'PARAMETER stop """{stop}"""')
    values = {"num_ctx": min(context, MOST_CONTEXT), **_SAMPLING}
    lines += [f"PARAMETER {name} {value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _holds(text: str) -> bool:
    """Whether Ollama reads the text as it is: it drops what cannot be printed, and a line that
    ends in three quotes ends the text."""
    printed = all(c.isprintable() or c in "\n\t" for c in text)
    return printed and not any(line.rstrip().endswith('"""') for line in text.split("\n"))
