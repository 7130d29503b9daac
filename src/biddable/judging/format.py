"""The format of answers: a rule learned from the training answers, or given, that can be shown.

Tried in this order, the first that nearly all training answers follow is taken: a closed set of
labels; a JSON object with certain keys; a fixed number of lines of which some parts never change;
a fixed first or last line beginning. Free text has no format, and then nothing is measured.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.judging.json_values import FENCE, MOST, is_fenced, read_json
from biddable.judging.text_measures import normalized

# Fewer answers show no rule.
FEWEST = 5
MOST_LABELS = 200
LONGEST_LABEL = 60
# Each label or choice must come this often on average to be a set rather than chance; a choice that
# comes once only is none.
LABEL_USES = 2.0
MOST_CHOICES = 12
CHOICE_USES = 5.0
# A constant part shorter than this is a coincidence of letters.
SHORTEST_MARK = 3
NUMBER = r"-?\d[\d.,]*"
# What a regular expression is made of, as far as its groups are to be told apart.
GROUPS = r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|\((?:\?P<(?P<name>\w+)>|\?)?|[\s\S]"


@dataclass(frozen=True, slots=True)
class Format:
    """A rule that a text follows or not.

    Args:
        kind: `labels`, `json` or `regex`.
        shown: the rule as text, which `given_format` reads back.
        labels: normalized labels, for `labels`.
        follows: whether a text keeps the rule.
        parts: what stands in the capture groups of a regular expression, which in a learned rule
            are its choices and slots; None for a text that does not keep the rule.
        names: of those groups: their own, or the words before them.
    """

    kind: str
    shown: str
    follows: Callable[[str], bool]
    labels: tuple[str, ...] = ()
    parts: Callable[[str], tuple[str, ...] | None] = lambda text: ()
    names: tuple[str, ...] = ()


def learn_format(answers: Sequence[str]) -> Format | None:
    """The format of some answers, or None where they show none."""
    texts = [a.strip() for a in answers]
    if len(texts) < FEWEST:
        return None
    for learn in (_labels, _json, _lines, _ends):
        found = learn(texts)
        if found is not None:
            return found
    return None


def given_format(text: str) -> Format:
    """The format that a user names.

    Args:
        text: `labels:a,b,c`, `keys:a,b` of a JSON object (`fenced:keys:a,b` where it stands in a
            Markdown fence), `schema:FILE` with a JSON schema, or a regular expression that the
            whole answer has to match.

    Raises:
        BiddableError: `format`, it cannot be read.
    """
    try:
        if text.startswith("labels:"):
            return _label_format(text.removeprefix("labels:").split(","))
        if text.startswith("keys:"):
            return _key_format(text.removeprefix("keys:").split(","))
        if text.startswith("fenced:keys:"):
            return _key_format(text.removeprefix("fenced:keys:").split(","), fenced=True)
        if text.startswith("schema:"):
            return _schema_format(text)
        return _regex_format(text.removeprefix("regex:"))
    except (re.error, OSError, ValueError) as error:
        raise BiddableError(
            "format",
            f"--format {text!r} cannot be used: {error}",
            "give a regular expression, labels:a,b,c, keys:a,b or schema:FILE",
        ) from error


def _label_format(labels: Sequence[str]) -> Format:
    names = tuple(dict.fromkeys(normalized(label) for label in labels if label.strip()))
    if not names:
        raise ValueError("there are no labels")
    known = frozenset(names)
    shown = "labels:" + ",".join(names)
    return Format("labels", shown, lambda text: normalized(text) in known, names)


def _key_format(keys: Sequence[str], fenced: bool = False) -> Format:
    wanted = frozenset(key.strip() for key in keys)

    def follows(text: str) -> bool:
        value = read_json(text, fenced=fenced)
        return isinstance(value, dict) and wanted <= value.keys()

    shown = ("fenced:" if fenced else "") + "keys:" + ",".join(sorted(wanted))
    return Format("json", shown, follows)


def _schema_format(text: str) -> Format:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    schema = json.loads(Path(text.removeprefix("schema:")).read_text(encoding="utf-8"))
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(error.message) from error
    validator = Draft202012Validator(schema)

    def follows(answer: str) -> bool:
        value = _parsed(answer)
        return value is not None and bool(validator.is_valid(value))

    return Format("json", text, follows)


def _regex_format(pattern: str) -> Format:
    compiled = re.compile(pattern)

    def parts(text: str) -> tuple[str, ...] | None:
        found = compiled.fullmatch(text.strip())
        return found.groups("") if found else None

    names = _group_names(pattern)
    return Format("regex", pattern, lambda text: parts(text) is not None, (), parts, names)


def _group_names(pattern: str) -> tuple[str, ...]:
    r"""A name for each capture group: its own, else the words before it in its line, else a number.

    >>> _group_names(r"Shelf: (Wood|Metal)\nOrder (\d+), (?P<day>.+)")
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


def _parsed(text: str) -> Any:
    """The JSON value of a text, in a Markdown fence or not, or None."""
    fence = FENCE.fullmatch(text.strip())
    try:
        return json.loads(fence[1] if fence else text)
    except (ValueError, RecursionError):
        return None


def _labels(texts: Sequence[str]) -> Format | None:
    """A closed set: short texts of one line that come again and again."""
    if any("\n" in t or len(t) > LONGEST_LABEL for t in texts):
        return None
    names = sorted({normalized(t) for t in texts})
    if len(names) < 2 or len(names) > min(MOST_LABELS, len(texts) / LABEL_USES):
        return None
    return _label_format(names) if all(names) and not any("," in n for n in names) else None


def _json(texts: Sequence[str]) -> Format | None:
    fenced = is_fenced(texts)
    values = [v for t in texts if isinstance(v := read_json(t, fenced=fenced), dict)]
    if len(values) < MOST * len(texts):
        return None
    counts = Counter(key for value in values for key in value)
    keys = [key for key, count in counts.items() if count >= MOST * len(values) and "," not in key]
    return _key_format(keys, fenced) if keys else None


def _lines(texts: Sequence[str]) -> Format | None:
    """A fixed number of lines, each of a constant beginning, a slot and a constant end."""
    split = [t.split("\n") for t in texts]
    count, times = Counter(map(len, split)).most_common(1)[0]
    if times < MOST * len(texts) or count > 30:
        return None
    columns = zip(*(lines for lines in split if len(lines) == count), strict=True)
    found = [_line(list(column), captured=True) for column in columns]
    if not any(marked for _, marked in found):
        return None
    rule = _regex_format(r"\n".join(pattern for pattern, _ in found))
    return rule if sum(map(rule.follows, texts)) >= MOST * len(texts) else None


def _ends(texts: Sequence[str]) -> Format | None:
    """Any number of lines, with a constant beginning of the first or of the last."""
    first, first_marked = _line([t.split("\n")[0] for t in texts])
    last, last_marked = _line([t.split("\n")[-1] for t in texts])
    if not first_marked and not last_marked:
        return None
    # What is free stands between choices and is a part beside them, or is all there is.
    lines = r"((?:.*\n)*)" if "(" in first + last else r"(?:.*\n)*"
    many = sum("\n" in t for t in texts) >= MOST * len(texts)
    # Where some answers have one line only, one line has to be all that is asked for.
    if many:
        begin = first if first_marked else "[^\\n]*"
        pattern = rf"{begin}\n{lines}{last if last_marked else '.*'}"
    else:
        pattern = rf"{first}(?:\n.*)*" if first_marked else rf"{lines}{last}"
    rule = _regex_format(pattern)
    return rule if sum(map(rule.follows, texts)) >= MOST * len(texts) else None


def _line(lines: Sequence[str], captured: bool = False) -> tuple[str, bool]:
    """(pattern of a line, whether some of it is constant or a choice).

    Args:
        captured: whether free slots stand in capture groups, as choices always do.
    """
    head = _whole_words(_shared(lines))
    tail = _shared([line[len(head) :][::-1] for line in lines if line.startswith(head)])[::-1]
    tail = tail if not tail or not tail[0].isalnum() else tail[_first_break(tail) :]
    inner = [
        line[len(head) : len(line) - len(tail)]
        for line in lines
        if line.startswith(head) and line.endswith(tail)
    ]
    slot = _slot(inner)
    marked = len(head.strip()) >= SHORTEST_MARK or len(tail.strip()) >= SHORTEST_MARK
    choice = slot.startswith("(")
    shown = f"({slot})" if captured and slot and not choice else slot
    return f"{_escaped(head)}{shown}{_escaped(tail)}", marked or choice


def _slot(values: Sequence[str]) -> str:
    """The pattern of what changes in a line."""
    if not any(values):
        return ""
    counts = Counter(values)
    few = len(counts) <= MOST_CHOICES and len(values) >= CHOICE_USES * len(counts)
    if few and all(counts) and min(counts.values()) > 1:
        return "(" + "|".join(map(_escaped, sorted(counts))) + ")" if len(counts) > 1 else ""
    if all(re.fullmatch(NUMBER, value) for value in values):
        return NUMBER
    return "[^\\n]+" if all(values) else "[^\\n]*"


def _shared(texts: Sequence[str]) -> str:
    """The longest beginning that nearly all texts share."""
    wanted, shared = MOST * len(texts), ""
    alive = list(texts)
    while True:
        following = Counter(t[len(shared)] for t in alive if len(t) > len(shared))
        if not following:
            return shared
        letter, times = following.most_common(1)[0]
        if times < wanted:
            return shared
        shared += letter
        alive = [t for t in alive if t.startswith(shared)]


def _whole_words(head: str) -> str:
    """The beginning cut back to the end of a word or mark, unless it is all there is."""
    return re.sub(r"\w+$", "", head)


def _first_break(tail: str) -> int:
    found = re.search(r"\W", tail)
    return found.start() if found else len(tail)


def _escaped(text: str) -> str:
    """`re.escape` without the escapes that only make a rule hard to read."""
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)
