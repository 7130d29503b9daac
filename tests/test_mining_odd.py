"""Odd trees: each ends in findings, and never in a traceback, a hang or a file overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from biddable.cli import main
from mined import git, mined, write

GOOD = {"good.md": "## Why?\n\nSo.\n\n## Who?\n\nWe.\n"}


def test_an_odd_tree_gives_findings_and_the_good_rows(tmp_path: Path) -> None:
    root = write(tmp_path / "d", {
        **GOOD, "binary.md": b"# A\0\n", "latin.md": b"## Caf\xe9?\n\nOui.\n", "empty.md": b"",
        "utf16.md": "## Wo?\n\nDa.\n".encode("utf-16"), "large.md": b"a\n" * (3 << 20),
        "broken.py": b"def (:\n", "broken.pdf": b"%PDF-1.7 nothing", "broken.json": b'{"a": ',
        "broken.csv": b'question,answer\n"a,b\n', "mail.mbox": b"From x\n\xff\xfe: \n\n",
        "package.json": b'{"name": "x"}', "rows.jsonl": b'{"prompt": "a", "completion": "b"}\n',
        "a.gz": b"\x1f\x8bno", "picture.png": b"\x89PNG", "node_modules/x.md": b"## Why?\n\nNo.\n",
    })  # fmt: skip
    (root / "loop").symlink_to(root)
    (root / "nowhere.md").symlink_to("missing")
    os.mkfifo(root / "pipe.md")
    rows, record = mined(root, tmp_path / "rows.jsonl")
    assert [row["prompt"] for row in rows] == ["Why?", "Who?", "Wo?"]
    assert record["left_out"] == {
        "hidden_file": 1, "no_file": 2, "binary_file": 1, "invalid_utf8": 1, "file_too_large": 1,
        "not_python": 1, "unreadable_pdf": 1, "invalid_json": 1, "invalid_csv": 1,
        "mail_without_text": 1, "unreadable_file": 1, "no_tickets": 3, "already_rows": 1,
    }  # fmt: skip
    assert record["files_of_other_kinds"] == {".png": 1}
    rows, _ = mined(root, tmp_path / "again.jsonl", encoding="cp1252")
    assert "Café?" in [row["prompt"] for row in rows]


def test_a_file_is_never_overwritten_and_records_do_not_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write(tmp_path / "d", GOOD), tmp_path / "rows.jsonl"
    mined(root, out)
    kept = out.read_bytes()
    assert main(["mine", str(root), "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == kept
    mined(root, tmp_path / "other.jsonl", kind="faq")
    assert json.loads((tmp_path / "mined.json").read_text())["out"] == "rows.jsonl"
    assert json.loads((tmp_path / "other.mined.json").read_text())["out"] == "other.jsonl"


def test_its_own_rows_are_not_mined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write(tmp_path, GOOD))
    assert main(["mine", ".", "--out", "one.jsonl"]) == 0
    assert main(["mine", ".", "--out", "two.jsonl", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["rows"] == 2
    assert Path("one.jsonl").read_bytes() == Path("two.jsonl").read_bytes()
    assert json.loads(Path("one.jsonl").read_text().splitlines()[0])["source"] == {
        "path": "good.md", "lines": [3, 3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "no such file"),
        ([], "no file or folder is given"),
        (["-"], "does not read standard input"),
        (["empty"], "nothing could be mined from 0 files"),
        (["good.md", "--out", "no/rows.jsonl"], "folder is not there"),
        (["good.md", "--system", "@none"], "no such file"),
    ],
)
def test_what_cannot_be_mined_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(write(tmp_path, GOOD))
    (tmp_path / "empty").mkdir()
    assert main(["mine", *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.part"))


def test_shallow_clones_nested_and_empty_repositories(tmp_path: Path) -> None:
    origin = write(tmp_path / "origin", GOOD)
    git(origin, "init", "-q")
    for number in range(3):
        write(origin, {f"{number}.md": f"## Why {number}?\n\nSo {number}.\n"})
        git(origin, "add", "-A")
        git(origin, "commit", "-qm", f"Number {number} of all")
    around = tmp_path / "around"
    around.mkdir()
    git(around, "clone", "-q", "--depth", "2", origin.absolute().as_uri(), "inner")
    git(around, "init", "-q", "empty")
    rows, record = mined(around, tmp_path / "rows.jsonl")
    assert [row["kind"] for row in rows].count("commit") == 1
    assert [row["kind"] for row in rows].count("faq") == 5
    assert record["left_out"] == {"shallow_clone": 1}
    (around / "inner" / ".git" / "HEAD").write_text("broken")
    rows, record = mined(around, tmp_path / "again.jsonl")
    assert {row["kind"] for row in rows} == {"faq"}


def test_a_folder_without_git_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(
        tmp_path / "d", {**GOOD, ".hidden/a.md": GOOD["good.md"], "sub/b.md": "## Wo?\n\nDa."}
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    rows, record = mined(root, tmp_path / "rows.jsonl")
    assert [row["prompt"] for row in rows] == ["Why?", "Who?", "Wo?"]
    assert record["left_out"] == {"no_git": 1, "hidden_file": 1}


def test_a_message_in_two_folders_counts_once_and_from_in_a_text_is_no_border(
    tmp_path: Path,
) -> None:
    mail = "From x\nFrom: {0}@b.org\nMessage-ID: <{1}@b>\nReferences: <1@b>\nSubject: A\n\n{2}\n\n"
    box = mail.format("a", 1, "Why?\n\nFrom me, to you.") + mail.format("c", 2, "So \u2013 it is.")
    rows, _ = mined(write(tmp_path / "d", {"a.mbox": box, "b.mbox": box}), tmp_path / "r.jsonl")
    assert [row["completion"] for row in rows] == ["So \u2013 it is."]
    assert rows[0]["prompt"] == "A\n\nWhy?\n\nFrom me, to you."


def test_nothing_that_a_repository_names_is_run(tmp_path: Path) -> None:
    root = write(tmp_path / "d", GOOD)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "The first of all")
    for name in ("core.fsmonitor", "diff.external", "core.pager", "diff.x.textconv"):
        git(root, "config", name, f"touch {tmp_path}/run")
    (root / ".git" / "info" / "attributes").write_text("*.md diff=x\n")
    mined(root, tmp_path / "rows.jsonl")
    assert not (tmp_path / "run").exists()
