"""Pairs of a document: questions and answers, terms and definitions, headings and their text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from biddable.mining.pair import Mined, Pair, block
from biddable.mining.pieces import Piece

# Headings that ask, with or without a question mark.
ASKING = re.compile(
    r".*[?\uff1f\u061f]|How (?:to|do|does|can|is|are|much|many)\b.*|Why\b.*"
    r"|(?:Can|Do|Should) (?:I|we)\b.*"
    r"|What (?:does|do|if|happens)\b.*|(?:Where|When) (?:do|does|can|should)\b.*",
    re.IGNORECASE,
)
ITEM = r"\s*(?:[-*+]\s+|\d+[.)]\s+)?"
BOLD = r"(?:\*\*|__|<summary>|<b>|<strong>|</summary>|</b>|</strong>|[\"\s])*"
# `Q: ...` and `A: ...`, also numbered and bold.
QUESTION = re.compile(rf"{ITEM}{BOLD}(?:Q|Question|Frage)\s*\d*\s*[:.)]{BOLD}(.+)", re.IGNORECASE)
ANSWER = re.compile(rf"{ITEM}{BOLD}(?:A|Answer|Antwort)\s*\d*\s*[:.)]{BOLD}", re.IGNORECASE)
# A line of its own that asks: bold, a summary, or an admonition.
STANDING = re.compile(
    rf"{ITEM}(?:\*\*|__|<summary>|\?\?\?\+?\s+\w+\s+\"){BOLD}(.+[?\uff1f]){BOLD}(?:</details>)?"
)
LISTED = re.compile(r"(?:[-*+]|\d+[.)])\s+([^\[].+[?\uff1f])\s*")
# What is no text of a section: links, tags, and directives that other files fill.
NO_TEXT = re.compile(
    r"https?://\S+|<[^>]*>|!\[[^\]]*\]\([^)]*\)"
    r"|^[ \t]*(?:\.\. |```\{?|:::\{?)(?:toctree|auto\w+|contents|\w*include|image|figure)\b"
    r".*(?:\n(?:[ \t]+.*)?)*",
    re.MULTILINE,
)
AROUND = re.compile(r"\s*(?:</?details>|</?div.*>|-{3,}|<!--.*-->|<br */?>)?\s*")
# Where the answer to a summary ends.
DETAILS = re.compile(r"\s*(?:</details>|<details\b.*)\s*")
WORD = re.compile(r"[^\W\d_]{2,}")
# The number of a chapter or question; one without a dot at its end may be a version.
NUMBER = re.compile(r"\A(?:Chapter\s+)?(?:\d+\.)+(?:\d+[.)])?\s+")
# Lines of a question before its `A:`.
LONGEST_QUESTION = 8
# Words of its own that the text below a heading has at least.
FEWEST_WORDS = 6


@dataclass(slots=True)
class Section:
    """A heading with all that is above it, and the pieces up to the next one."""

    path: tuple[str, ...]
    heading: Piece
    pieces: list[Piece] = field(default_factory=list)


def document_pairs(pieces: Sequence[Piece]) -> Mined:
    """The pairs of a document, in its order.

    The answer to a heading that asks holds the sections below it; any other section has its own
    text alone. What answers a question of a list or defines a term is in no section.
    """
    sections = _sections(pieces)
    taken = 0
    for index, section in enumerate(sections):
        if index < taken:
            continue
        if _is_question(section):
            taken = index + 1
            while taken < len(sections) and _is_part(sections[taken], section):
                taken += 1
            parts = sections[index + 1 : taken]
            below = [piece for part in parts for piece in (part.heading, *part.pieces)]
            yield from _pair("faq", _question(section.path), section.pieces + below)
            continue
        marked = list(_with_questions(section.pieces))
        yield from _terms(marked, section.path)
        rest = [p for p in marked if p.role in ("text", "code")]
        words = WORD.findall(NO_TEXT.sub("", "\n".join(p.text for p in rest)))
        if section.path and len(words) >= FEWEST_WORDS and len(rest) == len(marked):
            yield from _pair("section", " > ".join(section.path), rest)


def _sections(pieces: Sequence[Piece]) -> list[Section]:
    sections = [Section((), Piece("heading", "", 1))]
    above: list[tuple[int, str]] = []
    for piece in pieces:
        if piece.role != "heading":
            sections[-1].pieces.append(piece)
            continue
        above = [(level, text) for level, text in above if level < piece.level]
        above.append((piece.level, NUMBER.sub("", piece.name or piece.text)))
        texts = tuple(text for _, text in above if text)
        sections.append(Section(texts or ("",), piece))
    return sections


def _is_question(section: Section) -> bool:
    return bool(section.path and ASKING.fullmatch(section.path[-1]))


def _is_part(section: Section, of: Section) -> bool:
    return section.heading.level > of.heading.level and not _is_question(section)


def _question(path: Sequence[str]) -> str:
    """A heading that asks; one of a word or two needs what stands above it."""
    return path[-1] if len(path[-1].split()) > 2 else " > ".join(path)


def _with_questions(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Marks the questions and answers of lists as terms and definitions."""
    role, number, begun = "text", 0, True
    while number < len(pieces):
        piece = pieces[number]
        question, size = _asked(pieces, number)
        if piece.role in ("term", "definition"):
            role = "text"
            yield piece
        elif question:
            role, begun = "definition", False
            yield piece._replace(role="term", name=question)
        elif not begun and ANSWER.match(piece.text) and piece.role == "text":
            begun = True
            yield piece._replace(role=role, text=ANSWER.sub("", piece.text, count=1))
        elif DETAILS.fullmatch(piece.text):
            role = "text"
            yield piece
        else:
            begun = begun or bool(piece.text.strip())
            yield piece if role == "text" else piece._replace(role=role)
        number += size


def _asked(pieces: Sequence[Piece], number: int) -> tuple[str, int]:
    """The question that begins at a piece, if any, and how many pieces it takes."""
    line = pieces[number].text
    if pieces[number].role != "text":
        return "", 1
    if QUESTION.fullmatch(line):
        return _labeled(pieces, number)
    match = STANDING.fullmatch(line)
    if match is None and (match := LISTED.fullmatch(line)):
        # An item that only asks is one of a table of contents.
        after = next((p.text for p in pieces[number + 1 : number + 3] if p.text.strip()), "")
        match = match if after and not LISTED.fullmatch(after) else None
    return _unmarked(match[1]) if match else "", 1


def _labeled(pieces: Sequence[Piece], number: int) -> tuple[str, int]:
    """The question behind a `Q:`, which may take several lines where an `A:` follows."""
    parts = [pieces[number].text]
    for piece in pieces[number + 1 : number + LONGEST_QUESTION]:
        if not piece.text.strip() or ANSWER.match(piece.text):
            break
        parts.append(piece.text.strip())
    end = number + len(parts)
    if not any(ANSWER.match(piece.text) for piece in pieces[end : end + 2]):
        ends = (
            n for n, part in enumerate(parts, 1) if part.rstrip("*_ ").endswith(("?", "\uff1f"))
        )
        parts = parts[: next(ends, 1)]
    match = QUESTION.fullmatch(" ".join(parts))
    return _unmarked(match[1]) if match else "", len(parts)


def _unmarked(text: str) -> str:
    return re.sub(r"\*\*|__|</?\w+>|\"$", "", text).strip(" *_")


def _terms(pieces: Sequence[Piece], path: Sequence[str]) -> Mined:
    """Each term with the definitions behind it; what asks is a question."""
    groups = [(role, list(run)) for role, run in groupby(pieces, lambda p: p.role)]
    for (role, terms), (next_role, answer) in pairwise(groups):
        if role != "term" or next_role != "definition":
            continue
        term = NUMBER.sub("", terms[-1].name or terms[-1].text)
        if ASKING.fullmatch(term) or len(term.split()) > 8:
            yield from _pair("faq", term, answer)
        else:
            yield from _pair("definition", " > ".join([*path, term]), answer)


def _pair(kind: str, prompt: str, pieces: Sequence[Piece]) -> Mined:
    # What only closes or parts stands at the ends of a text, not in it.
    held = [n for n, piece in enumerate(pieces) if not AROUND.fullmatch(piece.text)]
    texts = [n for n in held if pieces[n].role != "heading"]
    if texts and prompt:
        inner = pieces[held[0] : texts[-1] + 1]
        text, _ = block([piece.text for piece in inner], 1)
        yield Pair(kind, prompt, text, (inner[0].line, max(p.last or p.line for p in inner)))
