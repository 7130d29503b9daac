"""JSON answers: which values are the same, and that no text is a traceback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.judging.parts import ABSENT, Parts, field_name, learn_parts
from biddable.judging.structure import INVALID, JSON_KINDS, learn_structure, read_json

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=4)


def json_parts(known: Sequence[str]) -> Parts | None:
    structure = learn_structure(known, list(JSON_KINDS))
    return learn_parts(structure.read, known) if structure else None


def whole(answer: str, *known: str) -> object:
    shape = json_parts(known or ['{"a": 1}', '{"a": 2}'])
    assert shape is not None
    return shape.value(answer)


@given(st.lists(OBJECTS, min_size=1, max_size=4), st.randoms())
def test_key_order_and_white_space_change_nothing(
    objects: list[dict[str, object]], random: Random
) -> None:
    known = [json.dumps(o) for o in objects]
    shape = json_parts(known)
    assert shape is not None
    for value, text in zip(objects, known, strict=True):
        keys = random.sample(sorted(value), len(value))
        other = json.dumps({k: value[k] for k in keys}, indent=random.choice([None, 1, 4]))
        assert shape.value(f" {other}\n") == shape.value(text)
        assert shape.value(text) is not None
        for path in shape.fields:
            assert shape.field(other, path) == shape.field(text, path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 100}', '{"a": 1e2}', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": null}', "{}", False),
        ('{"a": "x  y"}', '{"a": " x y"}', True),
        ('{"a": "X"}', '{"a": "x"}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ("[1, 2]", "[1.0, 2]", True),
        ('{"a": 0}', '{"a": -0.0}', True),
    ],
)
def test_values_are_compared_as_values(one: str, other: str, same: bool) -> None:
    assert (whole(one) == whole(other)) is same


def test_null_and_texts_of_numbers_are_what_training_makes_them() -> None:
    both = ['{"a": null, "b": 1}', '{"b": "2"}', '{"a": 3, "b": 4}']
    assert whole('{"a": null, "b": 1}', *both) == whole('{"b": "1"}', *both)
    shape = json_parts(both)
    assert shape is not None
    assert shape.field('{"a": null, "b": 1}', ("a",)) == shape.field('{"b": 1}', ("a",)) == ABSENT
    assert whole('{"c": {"d": null}}', '{"c": {}}', '{"c": {"d": null}}') == whole(
        '{"c": {}}', '{"c": {}}', '{"c": {"d": null}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "a", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1', "[" * 100_000, '{"a":' * 3000,
        '{"a": 1e99999999999999999999}', '{"a": 1} and more', '```json\n{"a": 1}\n```', "\ud800",
    ],
)  # fmt: skip
def test_what_is_not_valid_is_wrong_and_no_traceback(text: str) -> None:
    assert whole(text) is None
    shape = json_parts(['{"a": 1}', '{"a": 2}'])
    assert shape is not None
    assert shape.field(text, ("a",)) is None


@pytest.mark.parametrize("text", ['{"a": ' + "9" * 5000 + "}", '{"a": 1e999999999}', "[[[[]]]]"])
def test_odd_but_valid_values_are_compared(text: str) -> None:
    assert whole(text) is not None
    assert whole(text) == whole(text)


def test_deep_nesting_that_can_be_read_is_no_traceback() -> None:
    for depth in (50, 300, 900, 5000):
        text = '{"a": ' * depth + "1" + "}" * depth
        whole(text)
        json_parts([text, text])


def test_a_fence_counts_where_training_has_one() -> None:
    fenced = ['```json\n{"a": 1}\n```', '```\n{"a": 2}\n```']
    assert whole(fenced[0], *fenced) == whole('{"a": 1}', *fenced)
    assert read_json(fenced[0]) is INVALID


def test_fields_are_the_values_that_vary() -> None:
    known = [
        json.dumps({"kind": "x", "who": {"id": i, "tags": [i % 2]}, "note": str(i)})
        for i in range(9)
    ]
    shape = json_parts(known)
    assert shape is not None
    assert [field_name(p) for p in shape.fields] == ["who.id", "who.tags", "note"]
    assert shape.field('{"who": 1}', ("who", "id")) == ABSENT
    many = [json.dumps({f"k{j}": i * j for j in range(1, 99)}) for i in range(9)]
    shape = json_parts(many)
    assert shape is not None
    assert len(shape.fields) == 16
    # Keys that are themselves values are no fields.
    shape = json_parts([json.dumps({f"name {i}": i}) for i in range(20)])
    assert shape is not None
    assert shape.fields == ()
    assert field_name(("a.b", "c")) == '"a.b".c'


def test_other_answers_are_no_json() -> None:
    assert json_parts(["yes", "no"]) is None
    assert json_parts(["1", "2"]) is None
    assert json_parts([]) is None
    assert json_parts(['{"a": 1}'] * 18 + ["no", "no"]) is None
    assert json_parts(['{"a": 1}'] * 19 + ["no"]) is not None
