"""Rows kept in the cache are those that were encoded, for exactly what they were encoded from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from biddable.data.conversation import Conversation, Message
from biddable.dataset import cache as kept
from biddable.dataset.mapped_rows import (
    mapped_conversations,
    mapped_examples,
    write_conversations,
    write_examples,
)
from biddable.dataset.prepare import prepare
from biddable.dataset.prepared import Prepared
from biddable.display.report import MOST_COMPARED, training_answers
from biddable.encoding.encode import Example
from biddable.settings import Settings
from folders import base_folder, rows, write_jsonl

KNOWN = ("base", "tokenizer", "template", "max_length")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("kept")
    base = base_folder(folder / "base")
    many = [row | {"assistant": row["assistant"] * (n % 3 + 1)} for n, row in enumerate(rows() * 3)]
    return Settings(data=(write_jsonl(folder / "data.jsonl", many),), base=base, max_length=200)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that every data set goes to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("biddable.dataset.prepare.FEWEST", 1)
    return tmp_path / "biddable" / "rows"


def content(prepared: Prepared) -> dict[str, Any]:
    """All that is known of the data, as plain lists."""
    values = {f.name: getattr(prepared, f.name) for f in fields(prepared) if f.name not in KNOWN}
    sides = {name: values.pop(name) for name in ("train", "held_out")}
    values |= {n: (list(s.conversations), list(s.examples)) for n, s in sides.items()}
    return values | {"lengths": list(prepared.lengths)}


def test_kept_rows_are_those_that_were_encoded(
    settings: Settings, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = content(prepare(settings)), content(prepare(settings))
    (place,) = cache.glob("[!.]*")
    assert (place / "ids.npy").is_file()
    monkeypatch.setattr("biddable.dataset.prepare.load_cached", lambda *_: None)
    monkeypatch.setattr("biddable.dataset.prepare.FEWEST", 10**9)
    assert first == again == content(prepare(settings))
    assert len(first["train"][1]) > 100
    assert first["held_out"][1]


def test_examples_and_conversations_come_back_as_they_went(tmp_path: Path) -> None:
    examples = [
        Example([70_000, 1, 2], [0.0, 0.5, 1 / 3], "a.jsonl", 1, 2),
        Example([5], [0.0], "b.jsonl", 7),
        Example([5, 6], [0.0, 1e-300]),
    ]
    call = {"tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}]}
    conversations = [
        Conversation([Message("user", "é\ud800\n"), Message("assistant", "", 0.25, call)], "a", 1),
        Conversation([Message("user", "?")], "b", 2, "group", [{"name": "f"}]),
    ]
    write_examples(examples, tmp_path)
    write_conversations(conversations, tmp_path)
    mapped = mapped_examples(tmp_path)
    assert [(list(e.input_ids), list(e.weights), e.file, e.line, e.turn) for e in mapped] == [
        (e.input_ids, e.weights, e.file, e.line, e.turn) for e in examples
    ]
    assert [e.line for e in mapped[1:]] == [7, 0]
    assert mapped[-1].input_ids[1] == 6
    with pytest.raises(IndexError):
        mapped[3]
    assert list(mapped_conversations(tmp_path)) == conversations


CHANGES: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "seed": lambda s: {"seed": 1},
    "system": lambda s: {"system": "Be brief."},
    "loss_on": lambda s: {"loss_on": "all"},
    "max_length": lambda s: {"max_length": 199},
    "too_long": lambda s: {"too_long": "error"},
    "template": lambda s: {"template": "llama2"},
    "eval": lambda s: {"eval": s.data[0]},
    "group_by": lambda s: {"group_by": "assistant"},
    "map": lambda s: {"map": "user=user,assistant=assistant"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_the_rows_is_in_the_key(settings: Settings, cache: Path, change: str) -> None:
    prepare(settings)
    prepare(replace(settings, lr=1.0, batch_size=3, out="elsewhere"))
    assert len(list(cache.glob("[!.]*"))) == 1
    prepare(replace(settings, **CHANGES[change](settings)))
    assert len(list(cache.glob("[!.]*"))) == 2


def test_a_changed_file_tokenizer_or_package_finds_nothing(
    settings: Settings, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    here = replace(settings, data=(write_jsonl(data, rows()),))
    prepare(here)
    data.write_text(data.read_text().replace("cup", "mug", 1))
    assert "mug" in next(iter(prepare(here).conversations())).messages[1].content
    assert len(list(cache.glob("[!.]*"))) == 2
    base = Path(base_folder(tmp_path / "base"))
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    prepare(replace(here, base=str(base)))
    assert len(list(cache.glob("[!.]*"))) == 3
    monkeypatch.setattr(kept, "own_source", lambda: "another version")
    prepare(here)
    assert len(list(cache.glob("[!.]*"))) == 4


@pytest.mark.parametrize("name", ["ids.npy", "runs.npy", "conversations.jsonl", "prepared.json"])
def test_damaged_rows_are_named_and_made_anew(settings: Settings, cache: Path, name: str) -> None:
    whole = content(prepare(settings))
    (place,) = cache.glob("[!.]*")
    content_of = bytearray((place / name).read_bytes())
    content_of[len(content_of) // 2] ^= 1
    (place / name).write_bytes(content_of)
    rebuilt = content(prepare(settings))
    assert rebuilt["findings"].pop().code == "kept_rows_damaged"
    assert rebuilt == whole == content(prepare(settings))


def test_a_cache_that_cannot_be_written_stops_nothing(
    settings: Settings, cache: Path, tmp_path: Path
) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("no folder")
    prepared = prepare(settings)
    assert prepared.findings[-1].code == "rows_not_kept"
    assert len(prepared.train.examples) > 100


def test_only_the_newest_data_sets_are_kept(
    settings: Settings, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    (cache / ".killed.part").mkdir(parents=True)
    # Rows that a notebook gave, which its run names as its data, and some not written to their end.
    (cache / "rows-1.jsonl").write_text("{}")
    (cache / ".rows-2.jsonl.part").write_text("{")
    # A folder that was moved to another disk.
    (tmp_path / "elsewhere").mkdir()
    (cache / "moved").symlink_to(tmp_path / "elsewhere")
    for seed in range(4):
        assert "rows_not_kept" not in {
            f.code for f in prepare(replace(settings, seed=seed)).findings
        }
    names = {path.name for path in cache.iterdir()}
    assert {".lock", "rows-1.jsonl"} < names
    assert len(names) == 4
    assert json.loads(next(iter(cache.glob("[!.]*/prepared.json"))).read_text())["rows"] == 240


def test_answers_to_compare_with_are_bounded_and_spread_evenly() -> None:
    rows = [Conversation([Message("user", "?"), Message("assistant", str(n))]) for n in range(9)]
    assert [answer for answer, _ in training_answers(rows)] == [str(n) for n in range(9)]
    answers = training_answers(rows * 3000)
    assert 0.5 * MOST_COMPARED < len(answers) <= MOST_COMPARED
    assert len(set(answers)) == 3
    assert training_answers([]) == []
