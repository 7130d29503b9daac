"""HTML pages from templates that escape every text, and the one palette of terminal and pages."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment


class Color(NamedTuple):
    """One color: its name in a terminal, and its value on light and on dark pages."""

    terminal: str
    light: str
    dark: str


GOOD = Color("green", "#1a7f37", "#3fb950")
BAD = Color("red", "#c0392b", "#ff7b72")
CAUTION = Color("yellow", "#8a6100", "#d9a520")
ACCENT = Color("blue", "#1f6fd0", "#6cb0ff")
# In a page each is a variable of this name: var(--good).
PALETTE = {"good": GOOD, "bad": BAD, "caution": CAUTION, "accent": ACCENT}


def render(template: str, /, **values: Any) -> str:
    """Fills in a template of this package.

    Args:
        template: its path below the package, as `display/report.html`.
        values: strings are escaped, unless they are `markupsafe.Markup` or the file is Markdown.
    """
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Where the templates are loaded from; a value that a template lacks is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("biddable", ""),
        autoescape=lambda name: not (name or "").endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals["palette"] = PALETTE
    return templates
