"""Patterns of lines: what nearly all answers have in common, and what stands between, in groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from biddable.judging.structure import MOST

MOST_LINES = 30
# A choice has at most MOST_CHOICES values, each used CHOICE_USES times on average, none once.
MOST_CHOICES = 12
CHOICE_USES = 5.0
# A constant part shorter than this is a coincidence of letters.
SHORTEST_MARK = 3
# A short slot with at least FEWEST_PARTED values is split at a word or mark that occurs equally
# often in nearly all of them.
FEWEST_PARTED = 20
LONGEST_PARTED = 16
NUMBER = r"-?\d[\d.,]*"
TOKEN = r"\w+|[^\w\s]"
# The parts of a regular expression, as far as finding its groups needs them.
GROUPS = r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|\((?:\?P<(?P<name>\w+)>|\?)?|[\s\S]"


def lines_pattern(texts: Sequence[str]) -> str | None:
    """A fixed number of lines, each of constant parts and slots; None where nothing is constant."""
    split = [t.split("\n") for t in texts]
    count, times = Counter(map(len, split)).most_common(1)[0]
    if times < MOST * len(texts) or count > MOST_LINES:
        return None
    columns = zip(*(lines for lines in split if len(lines) == count), strict=True)
    patterns = [_line(list(column), captured=True) for column in columns]
    marked = any(marked for _, marked in patterns)
    return r"\n".join(pattern for pattern, _ in patterns) if marked else None


def ends_pattern(texts: Sequence[str]) -> str | None:
    """Any number of lines, with a constant beginning of the first or of the last."""
    first, first_marked = _line([t.split("\n")[0] for t in texts])
    last, last_marked = _line([t.split("\n")[-1] for t in texts])
    if not first_marked and not last_marked:
        return None
    # What is free stands between choices and is a part beside them, or is all there is.
    lines = r"((?:.*\n)*)" if "(" in first + last else r"(?:.*\n)*"
    # Where some answers have one line only, one line has to be all that is asked for.
    if sum("\n" in t for t in texts) >= MOST * len(texts):
        begin = first if first_marked else "[^\\n]*"
        return rf"{begin}\n{lines}{last if last_marked else '.*'}"
    return rf"{first}(?:\n.*)*" if first_marked else rf"{lines}{last}"


def group_names(pattern: str) -> tuple[str, ...]:
    r"""A name for each capture group: its own, else the words before it in its line, else a number.

    >>> group_names(r"Shelf: (Wood|Metal)\nOrder (\d+), (?P<day>.+)")
    ('Shelf', 'Order', 'day')
    """
    names: list[str] = []
    before = ""
    for part in re.finditer(GROUPS, pattern):
        text = part[0]
        if text in ("(", ")") or part["name"]:
            name = part["name"] or " ".join(re.findall(r"\w+", before))
            unique = bool(name) and name not in names
            if text != ")":
                names.append(name if unique else f"{name} {len(names) + 1}".strip())
        # A line, the end of a group and its beginning cut off what was before.
        ends = text in ("(", ")", r"\n") or part["name"]
        letter = text[1:] if re.fullmatch(r"\\\W", text) else text
        before = "" if ends else before + (letter if len(letter) == 1 else " ")
    return tuple(names)


def _line(lines: Sequence[str], captured: bool = False) -> tuple[str, bool]:
    """(pattern of a line, whether some of it is constant or a choice).

    Args:
        captured: whether free slots stand in capture groups, as choices always do.
    """
    head = re.sub(r"\w+$", "", shared_beginning(lines))
    tail = shared_beginning([line[len(head) :][::-1] for line in lines if line.startswith(head)])[
        ::-1
    ]
    # Cut back to whole words.
    tail = re.sub(r"^\w+", "", tail)
    inner = [
        line[len(head) : len(line) - len(tail)]
        for line in lines
        if line.startswith(head) and line.endswith(tail) and len(line) >= len(head) + len(tail)
    ]
    slot, choice = _slot(inner, captured)
    marked = len(head.strip()) >= SHORTEST_MARK or len(tail.strip()) >= SHORTEST_MARK
    return f"{_escaped(head)}{slot}{_escaped(tail)}", marked or choice


def _slot(values: Sequence[str], captured: bool) -> tuple[str, bool]:
    """(the pattern of what changes in a line, whether some of it is constant or a choice)."""
    if not any(values):
        return "", False
    counts = Counter(values)
    few = len(counts) <= MOST_CHOICES and len(values) >= CHOICE_USES * len(counts)
    if few and all(counts) and min(counts.values()) > 1:
        choice = len(counts) > 1
        return ("(" + "|".join(map(_escaped, sorted(counts))) + ")" if choice else ""), choice
    if all(re.fullmatch(NUMBER, value) for value in values):
        pattern = NUMBER
    else:
        mark = _mark(values) if captured else None
        if mark:
            halves = zip(*(v.split(mark, 1) for v in values if mark in v), strict=True)
            left, right = (_line(list(half), captured) for half in halves)
            return f"{left[0]}{_escaped(mark)}{right[0]}", left[1] or right[1]
        pattern = "[^\\n]+" if all(values) else "[^\\n]*"
    return (f"({pattern})" if captured else pattern), False


def _mark(values: Sequence[str]) -> str | None:
    """The first word or mark that stands equally often in nearly all of many short values."""
    if len(values) < FEWEST_PARTED:
        return None
    lengths = sorted(len(re.findall(r"\w+", value)) for value in values)
    if lengths[len(lengths) // 2] > LONGEST_PARTED:
        return None
    counts = Counter(
        (token, n)
        for value in values
        for token, n in Counter(re.findall(TOKEN, value)).items()
        if value.count(token) == n
    )
    marks = [token for (token, _), times in counts.items() if times >= MOST * len(values)]
    return min(marks, key=lambda token: values[0].find(token) % (len(values[0]) + 1), default=None)


def shared_beginning(texts: Sequence[str]) -> str:
    """The longest beginning that nearly all texts share."""
    wanted, shared = MOST * len(texts), ""
    alive = list(texts)
    while True:
        following = Counter(t[len(shared)] for t in alive if len(t) > len(shared))
        letter, times = following.most_common(1)[0] if following else ("", 0)
        if not letter or times < wanted:
            return shared
        shared += letter
        alive = [t for t in alive if t.startswith(shared)]


def _escaped(text: str) -> str:
    """`re.escape` without the escapes that only make a rule hard to read."""
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)
