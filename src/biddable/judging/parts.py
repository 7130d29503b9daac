"""The parts of structured answers: which values are the same, and which parts are worth judging.

Key order and white space do not matter, numbers compare as values (1 is 1.0), lists in order. In
JSON a text is not a number and null is not an absent key, unless the training answers write both
for the same field. A part of the items of a list is one field: its values in all items, in order.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from biddable.judging.structure import INVALID, Reader

FieldPath = tuple[str, ...]

ABSENT = ("absent",)
# Fields that are judged one by one, and the share of the answers that have to know them.
MOST_FIELDS = 16
FIELD_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """How the parts of answers are compared.

    Args:
        read: from an answer to its value, or `INVALID`.
        optional: fields where null and absent both occur, and so mean the same.
        loose: fields where numbers are written both as numbers and as texts.
        fields: paths of values that vary, in the order of the answers.
    """

    read: Reader
    optional: frozenset[FieldPath] = frozenset()
    loose: frozenset[FieldPath] = frozenset()
    fields: tuple[FieldPath, ...] = ()

    def value(self, text: str, without: Sequence[FieldPath] = ()) -> Hashable:
        """The value of an answer but for some fields, equal for equal values; None if not valid."""
        try:
            value = self.read(text)
            if not isinstance(value, dict | list):
                return None
            if not without:
                return self._same(value, ())
            return tuple(self._at(value, (), p) for p in self.fields if p not in without)
        except RecursionError:
            return None

    def field(self, text: str, path: FieldPath) -> Hashable:
        """One field of an answer, `ABSENT` where it has none; None where it is not valid."""
        try:
            value = self.read(text)
            return self._at(value, (), path) if isinstance(value, dict | list) else None
        except RecursionError:
            return None

    def _at(self, value: Any, path: FieldPath, rest: FieldPath) -> Hashable:
        """What stands at the rest of a path, in each item of lists on the way."""
        if not rest:
            optional = value is None and path in self.optional
            return ABSENT if optional else self._same(value, path)
        if isinstance(value, list):
            return "list", tuple(self._at(item, path, rest) for item in value)
        if isinstance(value, dict) and rest[0] in value:
            return self._at(value[rest[0]], (*path, rest[0]), rest[1:])
        return ABSENT

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
            number = path in self.loose and _is_number(text)
            return ("number", Decimal(text)) if number else ("text", text)
        return ("number", value) if isinstance(value, Decimal) else ("constant", value)


def learn_parts(read: Reader, answers: Sequence[str], loose: bool = True) -> Parts | None:
    """What the answers have in common; None where they nest too deeply.

    Args:
        loose: whether a text may be a number where the answers write it both ways.
    """
    values = [value for text in answers if (value := read(text)) is not INVALID]
    seen: dict[FieldPath, list[Any]] = defaultdict(list)
    objects: Counter[FieldPath] = Counter()
    counts: Counter[FieldPath] = Counter()
    try:
        for value in values:
            places = list(_places(value, ()))
            for path, inner in places:
                seen[path].append(inner)
                objects[path] += sum(isinstance(i, dict) for i in _items(inner))
            counts.update(
                dict.fromkeys((path for path, inner in places if not _is_inner(inner)), 1)
            )
    except RecursionError:
        return None
    paths = [p for p, count in counts.items() if p and count >= FIELD_SHARE * len(values)]
    parts = Parts(
        read,
        frozenset(p for p in counts if p and None in seen[p] and len(seen[p]) < objects[p[:-1]]),
        frozenset(p for p in paths if loose and _is_loose(seen[p])),
    )
    kept = [p for p in paths if len({parts.field(text, p) for text in answers} - {None}) > 1]
    judged = set(sorted(kept, key=lambda path: -counts[path])[:MOST_FIELDS])
    return replace(parts, fields=tuple(path for path in kept if path in judged))


def field_name(path: FieldPath) -> str:
    """A path as one word: keys with points between them."""
    return ".".join(json.dumps(k, ensure_ascii=False) if "." in k or not k else k for k in path)


def _places(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any]]:
    """Every value with its path, also of the objects in a list."""
    yield path, value
    for item in _items(value) if _is_inner(value) else ():
        for key, inner in item.items():
            yield from _places(inner, (*path, key))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_inner(value: Any) -> bool:
    """Whether a value is an object with parts, or a list of them."""
    return any(_items(value)) and all(isinstance(item, dict) for item in _items(value))


def _is_loose(values: Sequence[Any]) -> bool:
    numbers = any(isinstance(v, Decimal) for v in values)
    return numbers and any(isinstance(v, str) and _is_number(v) for v in values)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text.strip(), re.ASCII) is not None
