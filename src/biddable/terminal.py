"""The one place that prints: text that reaches a terminal is shown, and never steers it.

Texts of data, file names, templates, models, hubs and other packages may hold escape sequences,
window titles, links and marks of direction. Each such character is written out: `\\x1b`.
Only the styles that this program gives itself become escape sequences. `tests/test_terminal.py`
proves that no other module prints.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import unicodedata
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.text import Text

# What progress bars of other packages write between their lines: cursor up, or back to the start.
_MOVES = re.compile(r"[\r\n]*(?:\x1b\[A)*")
_NAMES = {"\r": "\\r", "\b": "\\b", "\a": "\\a", "\f": "\\f", "\v": "\\v"}


class Writer(Protocol):
    """Takes texts: a stream, or the part of one that is needed here."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


def steers(character: str) -> bool:
    """Control characters, and those that reorder or hide what stands around them."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and (
        character not in "\u200c\u200d"
    )


def visible(text: str) -> str:
    """A text with every character written out that would steer a terminal; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not steers(c) else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    if character in _NAMES:
        return _NAMES[character]
    return (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )


class Guarded:
    """A stream whose texts are made visible; no escape sequence passes, wherever a text is cut.

    Args:
        stream: where the texts go.
        exact: they pass as they are where the stream is no terminal, but a file or a program.
    """

    def __init__(self, stream: TextIO, *, exact: bool = False) -> None:
        self.stream: TextIO = stream.stream if isinstance(stream, Guarded) else stream
        self._shows = not exact or self.stream.isatty()

    def write(self, text: str, /) -> int:
        """Writes a text, and returns the length of the original."""
        if not self._shows or _MOVES.fullmatch(text):
            self.stream.write(text)
        elif text.startswith("\r"):
            self.stream.write("\r" + visible(text[1:]))
        else:
            self.stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guard() -> None:
    """Guards the streams of this process against what other packages print; called at the start.

    A closed stream becomes one that goes nowhere, and no character fails in a narrow code page.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(os.open(os.devnull, os.O_RDWR), "r+", encoding="utf-8")
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "backslashreplace")
        guarded = stream if name == "stdin" else Guarded(stream, exact=name == "stdout")
        setattr(sys, name, guarded)


def exact_output() -> Writer:
    """Standard output for the text of an answer: exact for a file or program, else visible."""
    return Guarded(sys.stdout, exact=True)


def notices() -> Writer:
    """Standard error, for plain lines."""
    return Guarded(sys.stderr)


def read_line(prompt: str) -> str | None:
    """A line that is typed behind a prompt; None at the end of the input.

    On a terminal it is edited, and earlier lines come back, where the system has readline.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        notices().write(prompt)
        notices().flush()
        return sys.stdin.readline() or None
    with suppress(ImportError):  # Windows edits lines by itself.
        import_module("readline")
    try:
        return input(prompt)
    except EOFError:
        return None


def write_json(value: Any) -> None:
    """Writes one JSON value as a line of standard output, in ASCII; NaN and infinity are null."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Console:
    """Standard error, with color where it is a terminal and NO_COLOR is not set.

    Strings are never read as markup, and all output passes `visible`.
    """
    from rich.console import Console

    live = os.isatty(2) and os.environ.get("TERM") != "dumb"
    stream = sys.stderr.stream if isinstance(sys.stderr, Guarded) else None
    out = Console(
        file=stream, stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=not live
    )
    out.push_render_hook(cast("RenderHook", SimpleNamespace(process_renderables=_shown)))
    return out


def _shown(renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
    return [_Shown(renderable) for renderable in renderables]


class _Shown:
    """What rich prints, with all its text made visible; rich's own moves of the cursor stay."""

    def __init__(self, inside: ConsoleRenderable) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self._inside, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def line(out: Console, name: str, text: str | Text) -> None:
    """A name and a text, never read as markup; what a terminal wraps stays beside the name."""
    from rich.table import Table
    from rich.text import Text

    if out.soft_wrap:
        out.print(Text.assemble((f"{name:<11} ", "bold"), text))
        return
    grid = Table.grid()
    grid.add_column(width=12, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row(name, Text(text) if isinstance(text, str) else text)
    out.print(grid)


def flush_output() -> None:
    """Flushes standard output; a full disk or a reader that has gone raises an error here."""
    sys.stdout.flush()


def drop_output() -> None:
    """Discards whatever is still written to standard output: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
