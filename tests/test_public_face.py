"""What `import biddable` gives: names, signatures, rows in memory, short reprs, a model to ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

import biddable
from biddable import BiddableError, Conversation, Message
from biddable.models.base import SYSTEM_PROMPT_FILE
from folders import base_folder, rows
from letters import tiny_folder
from stub import stub

QUICK = {"device": "cpu", "precision": "fp32", "steps": 2, "answers": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_and_signatures_are_those_of_the_committed_text() -> None:
    """A change of the public face is made on purpose: python tests/helpers/stub.py."""
    assert Path(biddable.__file__).with_suffix(".pyi").read_text(encoding="utf-8") == stub()


def test_the_public_names_are_listed_and_load() -> None:
    assert dir(biddable) == sorted([*biddable.__all__, "__version__"])
    assert 15 <= len(biddable.__all__) <= 25
    for name in biddable.__all__:
        assert callable(getattr(biddable, name))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        biddable.trian  # noqa: B018


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    conversations = [
        Conversation([Message(role, row[role]) for role in ("system", "user", "assistant")])
        for row in rows()
    ]
    given = (data, str(data), [data], rows(), conversations, iter(rows()))
    counts = [biddable.check(g, base=Path(base)).as_json() for g in given]
    assert counts[0]["rows"] == 80
    assert all(c == counts[0] for c in counts)


class Frame:
    """As much of a table of pandas as is asked of it; it is no dependency."""

    def __init__(self, records: list[dict[str, object]]) -> None:
        self.records = records

    def __iter__(self) -> Iterator[str]:
        return iter(self.records[0])

    def iterrows(self) -> object: ...

    def to_dict(self, orient: str) -> list[dict[str, object]]:
        assert orient == "records"
        return self.records


class NaTType:
    """What stands for a missing date; it has the methods of dates."""

    def isoformat(self) -> str:
        return "NaT"


def test_tables_are_rows_and_what_is_missing_in_them_is_nothing(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    records = [{**row, "system": float("nan"), "group": NaTType()} for row in rows()]
    plain = [{k: row[k] for k in ("user", "assistant")} for row in rows()]
    tables = (Frame(records), pa.Table.from_pylist(plain), plain)
    counts = [biddable.check(t, base=base).as_json() for t in tables]
    assert counts[0] == counts[1] == counts[2]
    dated = [{**row, "group": date(2026, 1, 2 + i % 9)} for i, row in enumerate(rows())]
    assert "Groups from the column 'group' of 80 rows, 9 different." in str(
        biddable.check(Frame(dated), base=base).as_json()
    )


def test_rows_that_no_file_can_hold_are_named() -> None:
    with pytest.raises(BiddableError, match="row 1 of the data cannot be written as JSON"):
        biddable.check([{"user": "a", "assistant": "b"}, {"user": "a", "assistant": {1}}])
    with pytest.raises(BiddableError, match="row 1 of the data"):
        biddable.check([{"user": "a", "assistant": "b"}, "data.jsonl"])
    with pytest.raises(BiddableError, match="--data is 3"):
        biddable.check(3)


def test_a_run_on_rows_in_memory_goes_from_rows_to_an_answer(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    trained = biddable.train(rows()[:60], eval=rows()[60:], base=base, out=tmp_path / "r", **QUICK)
    assert repr(trained).startswith(f"<{tmp_path / 'r'}, 2 steps: ")
    assert len(repr(trained)) < 400
    assert "<table" in trained._repr_html_()
    speaker = biddable.load(trained.run)
    assert len(repr(speaker)) < 200
    sample = json.loads((trained.run / "samples.jsonl").read_text().splitlines()[0])
    answer = speaker.answer(sample["question"], temperature=0, max_new_tokens=16)
    assert answer.startswith(sample["tuned"][:4])
    result = biddable.compare(base, trained.run, data=rows()[60:], answers=2, max_new_tokens=4)
    assert repr(result).startswith("<2 prompts: ")
    assert "<table" in result._repr_html_()


def test_a_check_shows_itself_in_a_line(tmp_path: Path) -> None:
    checked = biddable.check([*rows(), rows()[0]], base=base_folder(tmp_path / "base"))
    assert repr(checked).startswith("<81 rows, ")
    assert repr(checked).endswith("0 errors, 1 warning, 0 notes>")
    assert "duplicate_exact" in checked._repr_html_()


def test_messages_and_system_prompts_are_sent_as_chat_sends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / "model")
    (Path(folder) / SYSTEM_PROMPT_FILE).write_text("Be brief.")
    monkeypatch.setenv("HOME", str(tmp_path))
    speaker, how = biddable.load("~/model"), {"temperature": 0, "max_new_tokens": 5}
    user = {"role": "user", "content": "ab?"}
    with_system = speaker.answer([{"role": "system", "content": "Be brief."}, user], **how)
    assert speaker.answer("ab?", **how) == speaker.answer([user], **how) == with_system
    assert speaker.answer("ab?", system="", **how) != with_system
    assert speaker.answer("ab?", seed=3, max_new_tokens=9) == speaker.answer(
        "ab?", seed=3, max_new_tokens=9
    )


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "no message to answer"),
        ([{"role": "user"}], {}, "no text as its role or content"),
        ([{"role": "system", "content": "a"}], {"system": "b"}, "another one is given"),
        ("a", {"temperatur": 1}, "did you mean temperature"),
        ("a", {"stop": ""}, "--stop is empty"),
        ("\ud800", {}, "not valid text"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: object,
    options: dict[str, object],
    message: str,
) -> None:
    folder = tiny_folder(tmp_path_factory.mktemp("model"))
    with pytest.raises(BiddableError, match=message):
        biddable.load(folder).answer(prompt, **options)
