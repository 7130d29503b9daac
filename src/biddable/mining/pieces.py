"""A document as pieces, each with its line: headings, terms with definitions, and other text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html.parser import HTMLParser
from typing import NamedTuple

from markdown_it import MarkdownIt


class Piece(NamedTuple):
    """A line or block of text: `heading`, `term`, `definition`, `code` or `text`.

    Args:
        text: as it stands in the source.
        last: the line on which a block ends; 0 for a single line.
        name: what a heading or term says, where that is not its text.
    """

    role: str
    text: str
    line: int
    level: int = 0
    last: int = 0
    name: str = ""


# The role of a word in reStructuredText, and other markup of a title.
RST_MARKUP = re.compile(r":[\w+-]+:(?=`)|[`*]")
TITLE = re.compile(r"title:\s*[\"']?(.+?)[\"']?\s*")
# A line of one character again and again, which underlines a title.
RULE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*")
# What no term of a definition list begins with.
NO_TERM = re.compile(r"\.\. |[-*+:>|#.]|\w{1,3}[.)] |\s")


@cache
def _markdown(inline: bool) -> MarkdownIt:
    """The parser; finding blocks alone takes a third of the time."""
    parser = MarkdownIt("commonmark")
    return parser if inline else parser.disable("inline")


def markdown_pieces(text: str) -> Iterator[Piece]:
    """The lines of a Markdown file; a `title:` before the text is its first heading."""
    lines = text.split("\n")
    start = _front_matter(lines)
    for number, line in enumerate(lines[:start], 1):
        if title := TITLE.fullmatch(line):
            yield Piece("heading", line, number, 1, name=title[1])
    tokens = _markdown(False).parse("\n" * start + "\n".join(lines[start:]))
    headings: dict[int, Piece] = {}
    code: set[int] = set()
    for token, inside in zip(tokens, [*tokens[1:], *tokens[-1:]], strict=True):
        first, last = token.map or (0, 0)
        if token.type == "heading_open" and token.level == 0:
            level, name = int(token.tag[1:]), _inline_text(inside.content)
            text = "\n".join(lines[first:last])
            headings[first] = Piece("heading", text, first + 1, level, last, name)
        elif token.type in ("fence", "code_block"):
            code.update(range(first, last))
    number = start
    while number < len(lines):
        role = "code" if number in code else "text"
        piece = headings.get(number) or Piece(role, lines[number], number + 1)
        yield piece
        number = max(number + 1, piece.last)


def _front_matter(lines: Sequence[str]) -> int:
    """How many lines the settings before the text of a Markdown file take."""
    if lines[0].rstrip() != "---":
        return 0
    ends = (n for n, line in enumerate(lines[1:200], 2) if line.rstrip() in ("---", "..."))
    return next(ends, 0)


def _inline_text(source: str) -> str:
    """The text of a heading without its markup."""
    children = _markdown(True).parseInline(source)[0].children or []
    text = "".join(c.content for c in children if c.type in ("text", "code_inline"))
    return re.sub(r"\s*\{[#.:][^}]*\}$", "", text).strip()


def rst_pieces(text: str) -> Iterator[Piece]:
    """The lines of a reStructuredText or plain file, by underlined titles."""
    lines = text.split("\n")
    styles: list[tuple[str, bool]] = []
    number = 0
    while number < len(lines):
        over = bool(RULE.fullmatch(lines[number])) and _is_title(lines, number + 1)
        title = number + over
        if _is_title(lines, title) and (over or not _text_at(lines, title - 1)):
            style = (lines[title + 1][0], over)
            styles += [] if style in styles else [style]
            name = RST_MARKUP.sub("", lines[title]).strip()
            text, level = "\n".join(lines[number : title + 2]), styles.index(style) + 1
            number, first = title + 2, number + 1
            yield Piece("heading", text, first, level, number, name)
        else:
            yield Piece("text", lines[number], number + 1)
            number += 1


def _text_at(lines: Sequence[str], number: int) -> str:
    return lines[number].strip() if 0 <= number < len(lines) else ""


def _is_title(lines: Sequence[str], number: int) -> bool:
    """Whether a line of text is underlined, by about its own length at least."""
    title, under = _text_at(lines, number), _text_at(lines, number + 1)
    return bool(
        title and not RULE.fullmatch(title) and RULE.fullmatch(under)
        and len(under) >= len(title) - 1
    )  # fmt: skip


def with_definitions(pieces: Sequence[Piece], rst: bool) -> Iterator[Piece]:
    """Marks definition lists: indented text under a term in reStructuredText, `: text` elsewhere.

    Only the lists of a glossary may be indented themselves.
    """
    inside: int | None = None
    glossary = False
    for index, piece in enumerate(pieces):
        indent = len(piece.text) - len(piece.text.lstrip())
        if piece.role != "text" or (indent == 0 and piece.text):
            glossary = piece.text.startswith(".. glossary::")
        after = pieces[index + 1].text if index + 1 < len(pieces) else ""
        deeper = len(after) - len(after.lstrip()) > indent and after.strip()
        if piece.role != "text":
            inside = None
        elif inside is not None and (not piece.text.strip() or indent > inside):
            yield piece._replace(role="definition", text=re.sub(r"^:\s", "  ", piece.text))
            continue
        elif not rst and piece.text.startswith(": ") and inside is not None:
            yield piece._replace(role="definition", text="  " + piece.text[2:])
            continue
        else:
            opens = deeper if rst else after.startswith(": ")
            term = piece.text.strip() if indent == 0 or glossary else ""
            inside = None
            if opens and term and not NO_TERM.match(term) and len(term) <= 80 and term[-1] != ":":
                inside = indent
                name = RST_MARKUP.sub("", term.partition(" : ")[0])
                yield piece._replace(role="term", name=name)
                continue
        yield piece


BLOCKS = frozenset((
    *("p", "div", "li", "ul", "ol", "dl", "dt", "dd", "table", "tr", "section", "article", "main"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "pre", "br", "hr", "blockquote", "details", "summary"),
))  # fmt: skip
OUTSIDE = frozenset(("script", "style", "nav", "footer", "aside", "head", "form", "svg", "button"))
# What a link beside a heading shows.
ANCHORS = ("¶", "#", "🔗")
INSIDE = {"dt": "term", "summary": "term", "dd": "definition", "details": "definition"}


# Menus, page ends and lists of contents, by their role or class. An id is often that of a section,
# which may be about searching or navigation, and what holds the main text has classes of any name.
AROUND = frozenset((
    *("navigation", "contentinfo", "banner", "nav", "navbar", "navheader", "navfooter"),
    *("breadcrumb", "breadcrumbs", "sidebar", "sphinxsidebar", "footer", "page-footer", "toc"),
))  # fmt: skip
MENUS = ("div", "table", "ul", "ol", "p")


class _Page(HTMLParser):
    """Collects the pieces of an HTML page; what is around the main text is left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[Piece] = []
        self._open: list[str] = []
        # Elements that were open when one around the main text began, itself among them; else 0.
        self._around = 0
        self._texts: list[str] = []
        self._line = 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS:
            self.end_block()
        elif tag in ("td", "th"):
            self.handle_data(" ")
        if (tag in BLOCKS and tag not in ("br", "hr")) or tag in OUTSIDE:
            self._open.append(tag)
            if not self._around and (tag in OUTSIDE or _is_around(tag, attrs)):
                self._around = len(self._open)

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.end_block()
        if tag in self._open:
            # What was never closed inside of it is closed with it.
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]
            if len(self._open) < self._around:
                self._around = 0

    def handle_data(self, data: str) -> None:
        if self._around or data.strip() in ANCHORS:
            return
        if not "".join(self._texts).strip():
            self._texts = []
            blank = data[: len(data) - len(data.lstrip())]
            self._line = self.getpos()[0] + blank.count("\n")
        self._texts.append(data if self._texts or "pre" in self._open else data.lstrip())

    def end_block(self) -> None:
        """Ends the text at hand; that of `pre` keeps its lines."""
        text = "".join(self._texts)
        self._texts = []
        if not text.strip():
            return
        if "pre" in self._open:
            lines = text.strip("\n").split("\n")
            self.pieces += [Piece("code", part, self._line + n) for n, part in enumerate(lines)]
            return
        text = " ".join(text.split())
        text = f"> {text}" if "blockquote" in self._open else text
        inner = (tag for tag in reversed(self._open) if tag in INSIDE or tag[0] == "h")
        tag = next(inner, "")
        level = int(tag[1]) if tag[:1] == "h" else 0
        role = "heading" if level else INSIDE.get(tag, "text")
        self.pieces.append(Piece(role, text, self._line, level, self.getpos()[0]))


def _is_around(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
    named = " ".join(value or "" for name, value in attrs if name in ("role", "class"))
    return tag in MENUS and not AROUND.isdisjoint(named.lower().split())


def html_pieces(text: str) -> list[Piece]:
    """The blocks of an HTML page, each with the line on which it begins; quotations get a `>`."""
    page = _Page()
    page.feed(text)
    page.close()
    page.end_block()
    return page.pieces
