"""Answers with named parts, read as values: JSON, XML elements, `key: value` pairs, rows of cells.

Every reader gives dicts, lists and leaves, which parts.py compares alike, or `INVALID` where a text
is not of that form. Twice the same JSON key, NaN and what nests too deeply are not valid.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from html import unescape
from typing import Any, NamedTuple

from biddable.data.rows import unique_keys
from biddable.judging.text_measures import normalized

Reader = Callable[[str], Any]

INVALID = object()
# Share of the answers that have to be of the form.
MOST = 0.95
FENCED = "fenced:"
FENCE = re.compile(r"```\w*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
# Commas part thousands; 3,5 is another number.
WHOLE_NUMBER = re.compile(r"-?[1-9](?:[0-9]*|[0-9]{0,2}(?:,[0-9]{3})+)")
DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
TAG = re.compile(r"<(/?)([A-Za-z_][\w:.-]*)([^<>]*?)(/?)>")
ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*("[^"]*"|'[^']*')""")
# A key may stand in bold, after the mark of a list.
KEY = r"[^\W\d_][\w ./-]{0,39}?(?: \([\w ./-]{0,19}\))?"
PAIR = re.compile(rf"(?:[-*] )?(?:\*\*)?({KEY})(?:\*\*)? ?[:=](?:\*\*)?\s*(.*)")
RULE = re.compile(r"\s*:?-+:?\s*")


def read_json(text: str) -> Any:
    """A JSON value; numbers as Decimal."""
    try:
        return json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_constant=_refused,
            parse_int=Decimal,
            parse_float=Decimal,
        )
    except (ValueError, ArithmeticError, RecursionError):
        return INVALID


def read_json_lines(text: str) -> Any:
    """A JSON object a line, as a list."""
    values = [read_json(line) for line in text.split("\n") if line.strip()]
    return values if values and all(isinstance(v, dict) for v in values) else INVALID


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def leaf(text: str) -> Any:
    """A text between marks: None if empty, whole numbers by their value, else normalized.

    What begins with a zero is no number but a code.
    """
    plain = text.strip().rstrip(".")
    number = WHOLE_NUMBER.fullmatch(plain)
    return Decimal(plain.replace(",", "")) if number else normalized(text) or None


class _Element(NamedTuple):
    """An XML element whose end is not read yet."""

    name: str
    start: int
    pairs: list[tuple[str, Any]]
    texts: list[str]


def read_xml(text: str) -> Any:
    """XML elements beside each other, nothing between them; attributes are parts as `@name`."""
    text = DECLARATION.sub("", text, count=1)
    stack, end = [_Element("", 0, [], [])], 0
    for tag in TAG.finditer(text):
        closing, name, attributes, empty = tag.groups()
        stack[-1].texts.append(text[end : tag.start()])
        end = tag.end()
        if not closing:
            stack.append(_Element(name, end, _attributes(attributes), []))
        if closing or empty:
            element = stack.pop()
            if element.name != name:
                return INVALID
            inner = text[element.start : tag.start() if closing else end]
            stack[-1].pairs.append((name, _content(element, inner)))
    root = stack[0]
    loose = "".join([*root.texts, text[end:]]).strip()
    return _grouped(root.pairs) if len(stack) == 1 and root.pairs and not loose else INVALID


def _attributes(text: str) -> list[tuple[str, Any]]:
    """Each attribute as a part, and other text in the tag as one more."""
    rest = ATTRIBUTE.sub("", text).strip()
    named = [(f"@{name}", leaf(unescape(value[1:-1]))) for name, value in ATTRIBUTE.findall(text)]
    return [*named, ("@", leaf(rest))] if rest else named


def _content(element: _Element, inner: str) -> Any:
    """The elements in an element; where there are none, or text between them, all of it as text."""
    attributes = [pair for pair in element.pairs if pair[0][0] == "@"]
    if len(element.pairs) > len(attributes) and not "".join(element.texts).strip():
        return _grouped(element.pairs)
    text = leaf(unescape(inner))
    return _grouped([*attributes, *([("", text)] if text else [])]) if attributes else text


def _grouped(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name; several of one name are a list."""
    values: dict[str, list[Any]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: many[0] if len(many) == 1 else many for name, many in values.items()}


def read_pairs(text: str, delimiter: str) -> Any:
    """`key: value` or `key = value`, on lines or between delimiters.

    What stands between delimiters without a key belongs to the value before; a line does not.
    """
    pairs: list[tuple[str, str]] = []
    for piece in text.split(delimiter):
        pair = PAIR.fullmatch(piece.strip())
        if pair:
            pairs.append((pair[1], pair[2]))
        elif piece.strip():
            if delimiter == "\n" or not pairs:
                return INVALID
            pairs[-1] = (pairs[-1][0], pairs[-1][1] + delimiter + piece)
    return _grouped([(name, leaf(value)) for name, value in pairs]) if pairs else INVALID


def read_cells(text: str, delimiter: str) -> list[list[str]]:
    """The cells of CSV lines, or of a Markdown table without its rule; none where it is no CSV."""
    lines = text.splitlines()
    if delimiter == "|":
        rows = [line.strip().removeprefix("|").removesuffix("|").split("|") for line in lines]
        rows = [row for row in rows if not all(RULE.fullmatch(cell) for cell in row)]
    else:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:
            return []
    return [[cell.strip() for cell in row] for row in rows if row]


def read_rows(text: str, delimiter: str, names: Sequence[str]) -> Any:
    """The rows under a header of these names; without one where the names are those of columns."""
    rows = read_cells(text, delimiter)
    if list(names) != columns(len(names)):
        if rows[:1] != [list(names)]:
            return INVALID
        rows = rows[1:]
    if not rows or any(len(row) != len(names) for row in rows):
        return INVALID
    values = [dict(zip(names, map(leaf, row), strict=True)) for row in rows]
    return values[0] if len(values) == 1 else values


def columns(count: int) -> list[str]:
    """The names of columns without a header."""
    return [f"column {i + 1}" for i in range(count)]


JSON_KINDS = {"keys": (dict,), "list": (dict, list), "jsonl": (list,)}
PAIR_KINDS = {"lines": "\n", "pairs;": ";", "pairs|": "|", "pairs,": ","}
ROW_KINDS = {"table": "|", "tsv": "\t", "csv;": ";", "csv": ","}
KINDS = (*JSON_KINDS, "xml", *PAIR_KINDS, *ROW_KINDS)


@dataclass(frozen=True, slots=True)
class Structure:
    """How the parts of answers are written.

    Args:
        kind: one of `KINDS`.
        names: the parts on the first level that every answer has.
        fenced: whether answers stand in a Markdown fence.
        read: from an answer to its value, or `INVALID`.
    """

    kind: str
    names: tuple[str, ...]
    fenced: bool
    read: Reader

    @property
    def is_json(self) -> bool:
        return self.kind in JSON_KINDS

    @property
    def shown(self) -> str:
        """As `--format` takes it."""
        return f"{FENCED if self.fenced else ''}{self.kind}:{','.join(self.names)}"

    def follows(self, text: str) -> bool:
        """Whether an answer has the names."""
        value = self.read(text)
        records = value if isinstance(value, list) else [value]
        return isinstance(value, JSON_KINDS.get(self.kind, (dict, list))) and all(
            isinstance(record, dict) and set(self.names) <= record.keys() for record in records
        )


def structure_of(kind: str, names: Sequence[str], fenced: bool = False) -> Structure:
    """The structure of a kind."""
    readers: Mapping[str, Reader] = {
        "keys": read_json,
        "list": read_json,
        "jsonl": read_json_lines,
        "xml": read_xml,
        **{name: partial(read_pairs, delimiter=mark) for name, mark in PAIR_KINDS.items()},
        **{name: partial(read_rows, delimiter=d, names=names) for name, d in ROW_KINDS.items()},
    }

    def read(text: str) -> Any:
        fence = FENCE.fullmatch(text.strip()) if fenced else None
        return readers[kind](fence[1] if fence else text.strip())

    return Structure(kind, tuple(names), fenced, read)


def learn_structure(answers: Sequence[str], kinds: Sequence[str] = KINDS) -> Structure | None:
    """The first of the kinds that nearly all answers are of, or None."""
    if not answers:
        return None
    fences = [FENCE.fullmatch(text.strip()) for text in answers]
    fenced = sum(map(bool, fences)) >= MOST * len(answers)
    for kind in kinds:
        if kind in ROW_KINDS:
            bare = [f[1] if fenced and f else t for f, t in zip(fences, answers, strict=True)]
            names = _row_names([read_cells(text, ROW_KINDS[kind]) for text in bare])
            fitting = structure_of(kind, names, fenced)
            if len(names) > 1 and sum(map(fitting.follows, answers)) >= MOST * len(answers):
                return fitting
            continue
        values = list(map(structure_of(kind, (), fenced).read, answers))
        wanted = JSON_KINDS.get(kind, (dict,))
        values = [value for value in values if isinstance(value, wanted)]
        names = _common_names(values)
        if len(values) >= MOST * len(answers) and len(names) >= _fewest_names(kind):
            return structure_of(kind, names, fenced)
    return None


def _fewest_names(kind: str) -> int:
    """A single pair is a line with a constant beginning; any JSON is a structure."""
    return 0 if kind in JSON_KINDS else 2 if kind in PAIR_KINDS else 1


def _common_names(values: Sequence[Any]) -> list[str]:
    """The keys that nearly all records have, in the order of their first record."""
    records = [r for value in values for r in (value if isinstance(value, list) else [value])]
    counts = Counter(key for r in records if isinstance(r, dict) for key in r)
    return [key for key, n in counts.items() if n >= MOST * len(records) and "," not in key]


def _row_names(tables: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """The header that nearly all tables begin with, else the columns of the most frequent width."""
    firsts = Counter(tuple(rows[0]) for rows in tables if len(rows) > 1)
    header, times = firsts.most_common(1)[0] if firsts else ((), 0)
    plain = all(header) and len(set(header)) == len(header) and not any("," in h for h in header)
    if plain and times >= MOST * len(tables):
        return list(header)
    widths = Counter(len(row) for rows in tables for row in rows)
    return columns(widths.most_common(1)[0][0] if widths else 0)
