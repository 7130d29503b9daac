"""The format of answers: a rule learned from the training answers, or given, that can be shown.

Tried in this order, the first that nearly all training answers follow is taken: a structure of
named parts; a closed set of labels; a table; a fixed number of lines of which some parts never
change; a fixed first or last line. Free text has no format, and then nothing is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from biddable.errors import BiddableError
from biddable.judging.pattern import ends_pattern, group_names, lines_pattern, shared_beginning
from biddable.judging.structure import (
    FENCE,
    FENCED,
    INVALID,
    JSON_KINDS,
    KINDS,
    MOST,
    ROW_KINDS,
    Reader,
    Structure,
    leaf,
    learn_structure,
    structure_of,
)
from biddable.judging.text_measures import normalized

# Fewer answers show no rule other than JSON.
FEWEST = 5
MOST_LABELS = 200
LONGEST_LABEL = 60
# Each label must come this often on average to be one of a set rather than chance.
LABEL_USES = 2.0
# The longest that a regular expression may take for one answer.
SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A rule that an answer follows or not.

    Args:
        shown: the rule as text, which `given_format` reads back.
        follows: whether an answer keeps the rule.
        labels: normalized, where answers are of a closed set.
        read: from an answer to the value of its parts, or `INVALID`; None where it has none.
        is_json: whether answers are JSON.
    """

    shown: str
    follows: Callable[[str], bool]
    labels: tuple[str, ...] = ()
    read: Reader | None = None
    is_json: bool = False

    def has_parts(self, text: str) -> bool:
        """Whether an answer can be read as its parts."""
        return self.read is not None and isinstance(self.read(text), dict | list)


def learn_format(answers: Sequence[str]) -> AnswerFormat | None:
    """The format of answers, or None where they show none."""
    texts = [a.strip() for a in answers]
    if len(texts) < FEWEST:
        json_alone = learn_structure(texts, list(JSON_KINDS))
        return _structure_format(json_alone) if json_alone else None
    named = [kind for kind in KINDS if kind not in ROW_KINDS]
    # A line that begins with the same words is a sentence with slots, not a row of cells.
    several = sum("\n" in text for text in texts) >= MOST * len(texts)
    is_sentence = not several and regex.search(r"[^\W\d_]{2}", shared_beginning(texts))
    learners: list[Callable[[], AnswerFormat | None]] = [
        lambda: _structured(texts, named),
        lambda: _labels(texts),
        lambda: None if is_sentence else _structured(texts, list(ROW_KINDS)),
        lambda: _pattern_format(texts, lines_pattern),
        lambda: _structured(texts, list(ROW_KINDS)),
        lambda: _pattern_format(texts, ends_pattern),
    ]
    return next((rule for learn in learners if (rule := learn()) is not None), None)


def given_format(text: str) -> AnswerFormat:
    """The format that a user names.

    Args:
        text: `labels:a,b,c`; one of `KINDS` with the names of its parts, `keys:a,b` for a JSON
            object (`fenced:keys:a,b` where it stands in a Markdown fence); `schema:FILE` with a
            JSON schema; or a regular expression that the whole answer has to match.
    """
    kind, colon, rest = text.removeprefix(FENCED).partition(":")
    try:
        if colon and kind in KINDS:
            names = [name.strip() for name in rest.split(",") if name.strip()]
            return _structure_format(structure_of(kind, names, text.startswith(FENCED)))
        if text.startswith("labels:"):
            return _label_format(rest.split(","))
        if text.startswith("schema:"):
            return _schema_format(rest)
        return _regex_format(text.removeprefix("regex:"))
    except (regex.error, OSError, ValueError, RecursionError) as error:
        raise _refusal(f"--format {text!r} cannot be used: {error}") from error


def _refusal(what: str) -> BiddableError:
    kinds = ", ".join(f"{kind}:a,b" for kind in ("labels", "keys", "xml", "lines", "csv"))
    return BiddableError("format", what, f"give a regular expression, {kinds} or schema:FILE")


def _structure_format(structure: Structure) -> AnswerFormat:
    return AnswerFormat(
        structure.shown, structure.follows, read=structure.read, is_json=structure.is_json
    )


def _structured(texts: Sequence[str], kinds: Sequence[str]) -> AnswerFormat | None:
    structure = learn_structure(texts, kinds)
    return _structure_format(structure) if structure else None


def _labels(texts: Sequence[str]) -> AnswerFormat | None:
    """A closed set: short texts of one line that come again and again."""
    if any("\n" in t or len(t) > LONGEST_LABEL for t in texts):
        return None
    names = sorted({normalized(t) for t in texts})
    if len(names) < 2 or len(names) > min(MOST_LABELS, len(texts) / LABEL_USES):
        return None
    return _label_format(names) if all(names) and not any("," in n for n in names) else None


def _label_format(labels: Sequence[str]) -> AnswerFormat:
    names = tuple(dict.fromkeys(normalized(label) for label in labels if label.strip()))
    if not names:
        raise ValueError("there are no labels")
    known = frozenset(names)
    return AnswerFormat("labels:" + ",".join(names), lambda text: normalized(text) in known, names)


def _pattern_format(
    texts: Sequence[str], learn: Callable[[Sequence[str]], str | None]
) -> AnswerFormat | None:
    pattern = learn(texts)
    rule = _regex_format(pattern) if pattern else None
    return rule if rule and sum(map(rule.follows, texts)) >= MOST * len(texts) else None


def _regex_format(pattern: str) -> AnswerFormat:
    compiled = regex.compile(pattern)
    names = group_names(pattern)

    def read(text: str) -> Any:
        match = _bounded(compiled.fullmatch, text.strip(), pattern)
        groups = map(leaf, match.groups("")) if match else ()
        return dict(zip(names, groups, strict=True)) if match else INVALID

    return AnswerFormat(
        pattern, lambda text: read(text) is not INVALID, read=read if names else None
    )


def _bounded(match: Callable[..., Any], text: str, pattern: str) -> Any:
    try:
        return match(text, timeout=SECONDS)
    except TimeoutError as error:
        raise BiddableError(
            "format",
            f"the pattern {pattern!r} of --format takes more than {SECONDS:g} s for one answer of "
            f"{len(text)} characters",
            "write it so that no text can match it in several ways: (a+)+ is a+",
        ) from error


def _schema_format(file: str) -> AnswerFormat:
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    schema = json.loads(Path(file).read_text(encoding="utf-8"))
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(error.message) from error
    if '"patternProperties"' in json.dumps(schema):
        raise ValueError("patternProperties is not supported: name the keys under properties")

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Any:
        if isinstance(value, str) and not _bounded(regex.compile(wanted).search, value, wanted):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    # No schema is fetched from elsewhere.
    validator = extend(Draft202012Validator, {"pattern": pattern})(schema, registry=Registry())

    def follows(answer: str) -> bool:
        fence = FENCE.fullmatch(answer.strip())
        try:
            value = json.loads(fence[1] if fence else answer)
        except (ValueError, RecursionError):
            return False
        try:
            return value is not None and bool(validator.is_valid(value))
        except (Unresolvable, RecursionError, regex.error) as error:
            raise _refusal(f"the schema {file} cannot be followed: {error}") from error

    return AnswerFormat(f"schema:{file}", follows)
