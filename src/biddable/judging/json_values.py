"""Answers that are JSON: which texts are valid, and which values are the same.

Key order and white space do not matter, numbers compare as values (1 is 1.0), lists in order. A
text is not a number and null is not an absent key, unless the training answers write both for the
same field. Twice the same key, NaN and what nests too deeply are not valid.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

FieldPath = tuple[str, ...]

INVALID = object()
ABSENT = ("absent",)
# Share of the answers that have to be JSON.
MOST = 0.95
FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
# Fields that are judged one by one, and the share of the answers that have to know them.
MOST_FIELDS = 16
FIELD_SHARE = 0.1


def read_json(text: str, *, fenced: bool = False) -> Any:
    """The value of a text, or `INVALID`; numbers as Decimal.

    Args:
        fenced: whether a Markdown fence around the value is allowed.
    """
    text = text.strip()
    fence = FENCE.fullmatch(text) if fenced else None
    try:
        return json.loads(
            fence[1] if fence else text,
            object_pairs_hook=_object,
            parse_constant=_refused,
            parse_int=Decimal,
            parse_float=Decimal,
        )
    except (ValueError, ArithmeticError, RecursionError):
        return INVALID


def is_fenced(texts: Sequence[str]) -> bool:
    """Whether nearly all texts stand in a Markdown fence."""
    return sum(bool(FENCE.fullmatch(t.strip())) for t in texts) >= MOST * len(texts)


@dataclass(frozen=True, slots=True)
class JsonShape:
    """What the training answers have in common as JSON.

    Args:
        fenced: whether they stand in a Markdown fence.
        optional: fields where null and absent both occur, and so mean the same.
        loose: fields where numbers are written both as numbers and as texts.
        fields: paths of values that vary, in the order of the answers.
    """

    fenced: bool
    optional: frozenset[FieldPath]
    loose: frozenset[FieldPath]
    fields: tuple[FieldPath, ...]

    def valid(self, text: str) -> bool:
        """Whether a text is a JSON object or list."""
        return isinstance(read_json(text, fenced=self.fenced), dict | list)

    def whole(self, text: str) -> Hashable:
        """The value of an answer, equal for equal values; None where it is not valid."""
        value = read_json(text, fenced=self.fenced)
        try:
            return self._same(value, ()) if isinstance(value, dict | list) else None
        except RecursionError:
            return None

    def field(self, text: str, path: FieldPath) -> Hashable:
        """One field of an answer, `ABSENT` where it has none; None where it is not valid."""
        value = read_json(text, fenced=self.fenced)
        if not isinstance(value, dict):
            return None
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return ABSENT
            value = value[key]
        try:
            same = self._same(value, path)
        except RecursionError:
            return None
        return ABSENT if value is None and path in self.optional else same

    def _same(self, value: Any, path: FieldPath) -> Hashable:
        if isinstance(value, dict):
            items = [(key, v, (*path, key)) for key, v in value.items()]
            return "object", frozenset(
                (key, self._same(v, inner))
                for key, v, inner in items
                if v is not None or inner not in self.optional
            )
        if isinstance(value, list):
            return "list", tuple(self._same(v, path) for v in value)
        if isinstance(value, str):
            text = " ".join(value.split())
            return _number(text) if path in self.loose and _is_number(text) else ("text", text)
        return ("number", value) if isinstance(value, Decimal) else ("constant", value)


def json_shape(answers: Sequence[str]) -> JsonShape | None:
    """What answers have in common as JSON; None where they are none."""
    fenced = is_fenced(answers)
    values = [read_json(text, fenced=fenced) for text in answers]
    values = [value for value in values if isinstance(value, dict | list)]
    if not values or len(values) < MOST * len(answers):
        return None
    try:
        rows = [dict(_places(value, ())) for value in values]
    except RecursionError:
        return None
    counts = Counter(path for row in rows for path, value in row.items() if not _inner(value))
    paths = [path for path, count in counts.items() if count >= FIELD_SHARE * len(rows)]
    loose = frozenset(path for path in paths if _loose([row[path] for row in rows if path in row]))
    optional = frozenset(path for path in counts if _optional(path, rows))
    shape = JsonShape(fenced, optional, loose, ())
    kept = [p for p in paths if len({shape.field(text, p) for text in answers} - {None}) > 1]
    known = frozenset(sorted(kept, key=lambda path: -counts[path])[:MOST_FIELDS])
    return JsonShape(fenced, optional, loose, tuple(path for path in kept if path in known))


def field_name(path: FieldPath) -> str:
    """A path as one word: keys with points between them."""
    return ".".join(json.dumps(k, ensure_ascii=False) if "." in k or not k else k for k in path)


def _places(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any]]:
    """Every key of an object and of the objects in it, with its value; not into lists."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key), inner
        yield from _places(inner, (*path, key))


def _inner(value: Any) -> bool:
    """Whether a value has fields of its own."""
    return isinstance(value, dict) and bool(value)


def _optional(path: FieldPath, rows: Sequence[dict[FieldPath, Any]]) -> bool:
    """Whether a key is null in some rows, and left out of its object in others."""
    null = any(path in row and row[path] is None for row in rows)
    return null and any(
        path not in row and (len(path) == 1 or isinstance(row.get(path[:-1]), dict)) for row in rows
    )


def _loose(values: Sequence[Any]) -> bool:
    numbers = any(isinstance(v, Decimal) for v in values)
    return numbers and any(isinstance(v, str) and _is_number(v) for v in values)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text.strip(), re.ASCII) is not None


def _number(text: str) -> Hashable:
    return "number", Decimal(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
