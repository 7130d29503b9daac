"""What the README shows is run: its example row, its commands and its Python."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from biddable.cli import main
from folders import base_folder, rows

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# A small base and few steps stand for the default ones, which take minutes.
SMALL = {
    "biddable train data.jsonl": "--steps 2 --answers 2 --base BASE --out runs/NAME",
    "biddable train data.jsonl --lora 16": "--steps 2 --answers 2 --base BASE --out runs/lora",
    # The small base has two layers.
    "biddable train data.jsonl --top-layers 8": (
        "--top-layers 1 --steps 2 --answers 2 --base BASE --out runs/top"
    ),
}


def block(kind: str) -> str:
    """The first code block of a kind."""
    match = re.search(rf"```{kind}\n(.*?)```", README, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with data.jsonl, which begins with the README's row, and with documents."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs/faq.md").write_text("# FAQ\n\n## Are you open on Sundays?\n\nFrom ten to two.\n")
    data = [json.loads(block("json")), *rows(40)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    return base_folder(tmp_path / "base")


def test_its_commands_run(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is two plus two?"))
    commands = [c for c in re.findall(r"\| `(biddable [^`]+)` \|", README) if c.count(" ") > 1]
    *commands, resumed = sorted(commands, key=lambda c: "--resume" in c)
    # tests/test_exporting_gguf.py exports to a real llama.cpp, with a tokenizer that it knows.
    commands = [command for command in commands if "export" not in command]
    verbs = ["check", "train", "chat", "compare", "train", "train", "mine"]
    assert [c.split()[1] for c in commands] == verbs
    for command in commands:
        words = f"{command} {SMALL.get(command, '')}".replace("smollm2", base).split()[1:]
        assert main([base if word == "BASE" else word for word in words]) == 0
    # The run is finished, so there is nothing to go on with: the command says so.
    assert main(resumed.split()[1:]) == 1


def test_its_python_runs(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = block("python").replace("epochs=2", f"steps=2, answers=2, base={base!r}")
    code = code.replace('check("data.jsonl"', f'check("data.jsonl", base={base!r}')
    exec(compile(code, "README.md", "exec"), {})
    sentence, answer = capsys.readouterr().out.split("\n", 1)
    assert sentence.startswith("Too few eval rows")
    assert answer


def test_the_verdict_stands_near_the_top() -> None:
    assert "\nverdict" in "\n".join(README.splitlines()[:40])
