"""`biddable check` as a user meets it: counts, masks, the dump, exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import biddable
from biddable.cli import main
from folders import base_folder, rows, tokenizer, write_jsonl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def check_args(place: Path, data: Path, *more: str) -> list[str]:
    return ["check", str(data), "--base", str(place / "base"), *more]


def test_the_json_has_the_keys_of_the_design(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(check_args(place, place / "data.jsonl", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == report["examples"] == 80
    assert report["stop_token_trained"] is True
    assert report["dropped"] == 0
    assert 0 < report["trained_tokens"] < report["tokens"]
    assert report["findings"] == []


def test_the_dump_trains_every_answer_of_a_conversation_and_nothing_else(
    place: Path, tmp_path: Path
) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which colour has the red cup?"},
        {"role": "assistant", "content": "Colour: red."},
        {"role": "user", "content": "And the blue coat?"},
        {"role": "assistant", "content": "Colour: blue."},
    ]
    data = tmp_path / "turns.jsonl"
    lines = [
        json.dumps({"messages": [*turns[:3], {**turns[3], "content": f"And {i}?"}, turns[4]]})
        for i in range(12)
    ]
    data.write_text("\r\n".join(["", *lines, ""]), encoding="utf-8-sig")
    dump = tmp_path / "dump.jsonl"
    assert main(check_args(place, data, "--dump", str(dump))) == 0
    dumped = [json.loads(text) for text in dump.read_text().splitlines()]
    trained: dict[int, list[str]] = {}
    for example in dumped:
        ids, weights = example["input_ids"], example["weights"]
        assert len(ids) == len(weights)
        kept = [i for i, w in zip(ids, weights, strict=True) if w > 0]
        trained.setdefault(example["line"], []).append(tokenizer().decode(kept))
    # This tokenizer merges the frame's space with the answer, so each turn is its own example.
    both = ["Colour: red.\n</s>", "Colour: blue.\n</s>"]
    assert trained == dict.fromkeys(range(2, 14), both)


def test_the_mask_is_shown_without_colour(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(check_args(place, place / "data.jsonl", "--line", "3")) == 0
    err = capsys.readouterr().err
    assert "data.jsonl:3" in err
    assert "[[" in err
    assert "(stop)" in err
    assert "\x1b[" not in err


def test_the_worst_row_is_shown_first(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {**rows()[40], "user": "Which colour has it? " * 8}
    data = Path(write_jsonl(tmp_path / "one-long.jsonl", [*rows()[:40], long]))
    assert main(check_args(place, data, "--show", "1", "--worst")) == 0
    assert "one-long.jsonl:41" in capsys.readouterr().err


def test_the_page_loads_nothing(place: Path, tmp_path: Path) -> None:
    page = tmp_path / "mask.html"
    assert main(check_args(place, place / "data.jsonl", "--html", str(page))) == 0
    text = page.read_text(encoding="utf-8")
    assert "Colour" in text
    assert "http:" not in text
    assert "https:" not in text
    assert "<script" not in text


def test_warnings_fail_only_when_strict(place: Path, tmp_path: Path) -> None:
    data = Path(write_jsonl(tmp_path / "twice.jsonl", rows() + rows()[:1]))
    assert main(check_args(place, data)) == 0
    assert main(check_args(place, data, "--strict")) == 1


def test_fix_writes_a_clean_copy_and_leaves_the_input_alone(place: Path, tmp_path: Path) -> None:
    data = Path(write_jsonl(tmp_path / "twice.jsonl", rows() + rows()[:3]))
    before = data.read_bytes()
    fixed = tmp_path / "fixed.jsonl"
    main(check_args(place, data, "--fix", str(fixed)))
    assert data.read_bytes() == before
    assert main(check_args(place, fixed, "--strict")) == 0
    assert len(fixed.read_text().splitlines()) == 80


def test_fix_says_what_it_did_and_never_holds_rows_of_eval(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [{**rows()[0], "user": "nan"}, {**rows()[1], "user": "which\r\ncolour?"}]
    lines = [*rows()[:40], *odd, *rows()[:3]]
    data = Path(write_jsonl(tmp_path / "the data.jsonl", lines))
    held_out = Path(write_jsonl(tmp_path / "heldout.jsonl", rows()[40:60]))
    more = ["--eval", str(held_out)]
    assert main(check_args(place, data, *more)) == 0
    command = capsys.readouterr().err.splitlines()[-1].partition("biddable ")[2]
    assert "--fix" in command
    assert main(shlex.split(command)) == 0
    fixed = tmp_path / "the data-fixed.jsonl"
    notices = capsys.readouterr().err.splitlines()
    assert notices[-2].endswith(
        "41 rows written; 3 repeated rows left out, 1 row without a value left out, "
        "1 row with plain line ends now"
    )
    asked = [json.loads(text)["messages"][1]["content"] for text in fixed.read_text().splitlines()]
    assert asked == [row["user"] for row in rows()[:40]] + ["which\ncolour?"]
    assert main(shlex.split(notices[-1].partition("biddable ")[2])) == 0


def test_without_eval_fix_keeps_the_order_of_the_data(place: Path, tmp_path: Path) -> None:
    data = Path(write_jsonl(tmp_path / "data.jsonl", rows()))
    assert main(check_args(place, data, "--fix", str(tmp_path / "fixed.jsonl"))) == 0
    written = [
        json.loads(text)["messages"] for text in (tmp_path / "fixed.jsonl").read_text().splitlines()
    ]
    assert [m[1]["content"] for m in written] == [row["user"] for row in rows()]


def test_findings_are_shown_by_kind_the_most_frequent_error_first(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    texts = [json.dumps({**row, "id": 1}) for row in rows()[:60]]
    texts += ['{"user": "u", "assistant": ""}'] * 2 + ["{,}"] * 30 + texts[:1]
    data.write_text("\n".join(texts))
    assert main(check_args(place, data, "--json")) == 1
    captured = capsys.readouterr()
    shown = [
        text for text in captured.err.splitlines() if text.startswith(("error", "warn", "note"))
    ]
    codes = [text.rpartition("[")[2].rstrip("]") for text in shown]
    assert codes[:3] == ["invalid_json", "empty_assistant", "duplicate_exact"]
    assert codes[3:] == ["unused_columns"]
    assert f"at {data}:63, {data}:64, {data}:65 and 27 more" in captured.err
    assert "\n32 errors, 1 warning\n" in captured.err
    findings = json.loads(captured.out)["findings"]
    assert len(findings) == 21 + 2 + 1 + 1
    assert {"code", "severity", "file", "line", "message", "fix"} <= findings[0].keys()
    assert sum(f["count"] for f in findings if f["code"] == "invalid_json") == 30


EARLY = (
    ("nofile.jsonl", "missing_file"),
    ("data.jsonl --eval nofile.jsonl", "missing_file"),
    ("data.jsonl --system @nofile.txt", "missing_file"),
    ("data.jsonl --dump data.jsonl", "output_exists"),
    ("data.jsonl --fix data.jsonl", "output_exists"),
    ("data.jsonl --html none/page.html", "output_not_writable"),
    ("data.jsonl --dump new --fix new", "option"),
    ("data.jsonl --encoding cp12x", "option"),
    ("data.jsonl --map user=a", "invalid_map"),
)


def test_what_cannot_work_is_refused_before_torch_is_loaded(place: Path) -> None:
    # In a process of its own, for this one has loaded it long ago.
    program = (
        "import sys; from biddable.cli import main;"
        "codes = [main(['check', *text.split(), '--json']) for text in sys.argv[1:]];"
        "sys.exit(9 if {'torch', 'transformers', 'numpy'} & set(sys.modules) else min(codes))"
    )
    command = [sys.executable, "-c", program, *(text for text, _ in EARLY)]
    environment = {**os.environ, "PYTHONPATH": str(Path(biddable.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    codes = [json.loads(text)["error"]["code"] for text in done.stdout.splitlines()]
    assert codes == [code for _, code in EARLY]


def test_errors_exit_with_one_and_are_all_listed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "bad.jsonl"
    good = [json.dumps(row) for row in rows()[:12]]
    data.write_text("\n".join([*good, "{", '{"user": "x", "assistant": ""}']))
    assert main(check_args(place, data, "--json")) == 1
    captured = capsys.readouterr()
    errors = [f for f in json.loads(captured.out)["findings"] if f["severity"] == "error"]
    assert [f["line"] for f in errors] == [13, 14]
    assert "bad.jsonl:13" in captured.err


def test_a_missing_file_is_told_as_json_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(check_args(place, tmp_path / "none.jsonl", "--json")) == 1
    assert "none.jsonl" in json.loads(capsys.readouterr().out)["error"]["file"]


def test_a_file_that_is_there_is_not_overwritten(place: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_text("mine")
    assert main(check_args(place, place / "data.jsonl", "--dump", str(dump))) == 1
    assert dump.read_text() == "mine"


def test_every_column_that_is_used_for_its_name_has_a_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    given = [{**row, "weight": k + 0.5, "group": f"g{k}"} for k, row in enumerate(rows()[:60])]
    write_jsonl(data, given)
    assert main(check_args(place, data)) == 0
    shown = capsys.readouterr().err
    assert "Weights 0.5 to 59.5 from the column 'weight' of 60 rows." in shown
    assert "'group'" in shown
