"""The one place where Jinja runs: a small process that does nothing else, with limits on it.

A chat template comes with a model, so it is untrusted code. It gets the
sandbox and the globals that transformers gives it, without those that vary from call to call. No
rule on its syntax can bound its memory and time, so the kernel does: this file runs as a process
of its own (rendering.py starts it), which ends where a render takes more.

This file imports nothing of the package, so that the process starts in a tenth of a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Exit codes.
OUT_OF_MEMORY, OUT_OF_TIME = 77, -getattr(signal, "SIGPROF", 0)
# A rendered text may be this long, or GROWTH times longer than its variables: a tokenizer has yet
# to read it.
LONGEST, GROWTH = 1 << 20, 8
LONGEST_ERROR = 1_000


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox, which says what it refuses."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # jinja2 hands out an undefined value, which prints as nothing.
        kind = type(obj).__name__
        raise SecurityError(f"access to attribute {attribute!r} of {kind!r} object is unsafe")


class GenerationTag(Extension):
    """Accepts `{% generation %}`, the marker of trained text, and prints its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict` as a plain function, so that a template cannot reach a class."""
    return dict(*args, **kwargs)


def to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, with the options that transformers gives this filter."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def strftime_now(format: object) -> str:
    raise TemplateError(f"the template asks for the date in a form found nowhere in it: {format}")


def sandbox() -> Sandbox:
    """The environment of transformers' chat templates, without what varies from call to call."""
    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    env.filters["tojson"] = to_json
    del env.filters["random"]
    env.globals = {
        "range": env.globals["range"],
        "dict": make_dict,
        "namespace": env.globals["namespace"],
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }
    return env


class Worker:
    """Holds one template at a time, compiled once for all renders with it.

    In a batch each render gets a quarter of the time, so that one that takes too much shows early;
    the caller then requests it alone, with all of its time.
    """

    def __init__(self, seconds: float) -> None:
        self.env = sandbox()
        self.seconds = seconds
        self.text = ""
        self.template: Template | None = None

    def answers(self, line: bytes) -> list[tuple[str, Any]]:
        """A kind (`result`, `error`, `invalid`, `unusable`) and a value for each requested render.

        Args:
            line: JSON of a template's text, null for that of the last request, and of a list of
                variables; null in it asks for the literal texts in the template's expressions.
        """
        limit_time(self.seconds)
        text, many = json.loads(line)
        if text is not None:
            self.text, self.template = text, None
            try:
                self.template = self.env.from_string(text)
            except Exception as error:
                return [("invalid", f"is no Jinja: {error_text(error)}")]
        seconds = self.seconds if len(many) == 1 else self.seconds / 4
        return [self.answer(variables, seconds) for variables in many]

    def answer(self, variables: Any, seconds: float) -> tuple[str, Any]:
        limit_time(seconds)
        assert self.template is not None
        try:
            if variables is None:
                constants = self.env.parse(self.text).find_all(nodes.Const)
                return "result", [c.value for c in constants if isinstance(c.value, str)]
            result = "".join(self.template.generate(variables))
        except RecursionError:
            return "unusable", "calls itself without end"
        except Exception as error:
            if isinstance(error, OverflowError) and "Range" in str(error):
                return "unusable", f"counts too far: {error_text(error)}"
            return "error", error_text(error)
        size = len(result)
        if size > LONGEST and size > GROWTH * len(json.dumps(variables)):
            return "unusable", f"writes {size:,} characters for one conversation"
        return "result", result


def error_text(error: Exception) -> str:
    if isinstance(error, MemoryError):
        raise error
    return (str(error) or type(error).__name__)[:LONGEST_ERROR]


def limit_time(seconds: float) -> None:
    """Makes the kernel end this process after this much processor time; 0 sets no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_memory(memory: int) -> None:
    """Makes the kernel bound this process's memory; 0 sets no limit."""
    if memory:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def main(memory: int, seconds: float) -> None:
    """Answers requests, a line of JSON each, until there are no more."""
    # Ctrl-C is for the process that asks, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(seconds)
    limit_memory(memory)
    for request in sys.stdin.buffer:
        try:
            answers = json.dumps(worker.answers(request), ensure_ascii=False)
            line = answers.encode("utf-8", "surrogatepass") + b"\n"
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        limit_time(0)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
