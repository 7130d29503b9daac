"""What a chat template may spend: a budget of work and size, and the filters that keep to it.

jinja2's sandbox keeps a template from Python's internals, but bounds neither work nor memory:
nested ranges or a string times a number bring a machine down. Here every loop item, call, filter,
comparison and constructed value is charged to a budget while the template runs; no signal, thread
or child process is needed, and the same template fails at the same point every time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import filters as jinja_filters
from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined

# A unit is a few microseconds of work, so that the base is spent in under a second.
BASE_WORK = 150_000
WORK_PER_CHARACTER = 4
BASE_SIZE = 1 << 22
SIZE_PER_CHARACTER = 8
WIDEST_PADDING = 1_000
WIDEST_INDENT = 16
LONGEST_NUMBER = 4_096  # bits
CALL = 8

# Cannot be written in a template, so that a template can neither read nor replace it.
BUDGET = " budget"


class Budget:
    """What one render may still spend: units of work, and characters of any one text."""

    __slots__ = ("size", "work", "written")

    def __init__(self, characters: int) -> None:
        self.work = BASE_WORK + WORK_PER_CHARACTER * characters
        self.size = BASE_SIZE + SIZE_PER_CHARACTER * characters
        self.written = 0

    def spend(self, units: int) -> None:
        self.work -= units
        if self.work < 0:
            raise SecurityError("the template does more work than a chat template needs")

    def write(self, characters: int) -> None:
        self.written += characters
        self.check_size(self.written)

    def check_size(self, characters: int) -> None:
        if characters > self.size:
            raise SecurityError("the template makes a text longer than a chat template needs")

    def take(self, value: object) -> None:
        """Charges a value by its size, containers with all that they hold."""
        waiting: list[object] = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                self.check_size(len(value))
                self.spend(1 + (len(value) >> 6))
            elif isinstance(value, int):
                if value.bit_length() > LONGEST_NUMBER:
                    raise SecurityError("the template computes with very large numbers")
                self.spend(1)
            elif isinstance(value, range):
                self.spend(1 + (len(value) >> 3))
            elif isinstance(value, Mapping):
                self.spend(1 + len(value))
                waiting += value.values()
            elif isinstance(value, (list, tuple)):
                self.spend(1 + len(value))
                waiting += value
            else:
                self.spend(1)


def budget_of(context: Context) -> Budget:
    found = context.parent.get(BUDGET)
    if not isinstance(found, Budget):
        raise SecurityError("a template may only be rendered with a budget")
    return found


@pass_context
def charge(context: Context, value: Any) -> Any:
    budget = budget_of(context)
    if type(value) is str and len(value) < 64:
        # The commonest case, a role or another short text, without a call.
        budget.work -= 1
    else:
        budget.take(value)
    return value


@pass_context
def each(context: Context, value: Any, literal: int) -> Any:
    """Charges a loop for every item that it takes and for the literal text of its body."""
    budget = budget_of(context)

    def charged(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            budget.spend(1)
            budget.write(literal)
            yield item

    if isinstance(value, (list, tuple, dict)) and len(value) <= 64:
        budget.spend(len(value))
        budget.write(literal * len(value))
        return value
    return charged(value)


@pass_context
def written(context: Context, value: Any) -> Any:
    """Charges what a template prints (jinja2's `finalize`)."""
    budget = budget_of(context)
    if not isinstance(value, (str, Undefined)):
        budget.take(value)
        value = str(value)
    if isinstance(value, str):
        budget.write(len(value))
    return value


@pass_context
def mapped(context: Context, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    for item in jinja_filters.sync_do_map(context, value, *args, **kwargs):
        budget_of(context).take(item)
        yield item


@pass_context
def joined(context: Context, value: Any, d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(jinja_filters.make_attrgetter(context.environment, attribute), value)
    return join_within(budget_of(context), str(d), value)


@pass_context
def replaced(context: Context, s: Any, old: str, new: str, count: int | None = None) -> str:
    budget_of(context).check_size(replaced_size(str(s), old, new))
    return str(s).replace(old, new, -1 if count is None else count)


@pass_context
def indented(
    context: Context, s: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    check_width(width)
    text = str(s)
    step = len(width) if isinstance(width, str) else width
    budget_of(context).check_size(len(text) + step * (1 + text.count("\n")))
    return jinja_filters.do_indent(text, width, first, blank)


def to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, with the options that transformers gives this filter."""
    check_width(indent or 0, WIDEST_INDENT)
    check_width("".join(separators or ()), WIDEST_INDENT)
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def check_width(width: int | str, most: int = WIDEST_PADDING) -> None:
    if (len(width) if isinstance(width, str) else width) > most:
        raise SecurityError("the template pads a text further than a chat template needs")


def replaced_size(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * len(new)


def join_within(budget: Budget, separator: str, items: Iterable[Any]) -> str:
    parts: list[str] = []
    total = 0
    for item in items:
        parts.append(str(item))
        total += len(parts[-1]) + len(separator)
        budget.spend(1)
        budget.check_size(total)
    return separator.join(parts)


def check_method(budget: Budget, text: str, name: str, args: Sequence[Any]) -> None:
    """Refuses str methods whose result may be far larger than what they are given."""
    budget.take(text)
    if name in ("format", "format_map", "translate", "encode"):
        raise SecurityError(f"a chat template may not call str.{name}")
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        for argument in args:
            if isinstance(argument, int):
                check_width(argument)
    if name == "replace" and len(args) >= 2:
        budget.check_size(replaced_size(text, args[0], args[1]))
    if name == "join" and args:
        # A generator would be used up here; only what can be walked twice may be joined.
        if not isinstance(args[0], (list, tuple, dict, str)):
            raise SecurityError("a chat template may join lists only")
        join_within(budget, text, args[0])


def check_binop(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Refuses operators whose result would be too large, before it is made."""
    if operator == "**":
        raise SecurityError("a chat template may not use **")
    if operator == "%" and isinstance(left, str) and re.search(r"%[^a-zA-Z%]*(\d{3,}|\*)", left):
        raise SecurityError("the template pads a text further than a chat template needs")
    if operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and isinstance(other, (str, list, tuple)):
                budget.check_size(max(one, 0) * len(other))
                budget.spend(max(one, 0) * len(other) >> 4)
