"""One place prints, and nothing that it prints steers a terminal."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

import biddable
from biddable import terminal
from biddable.cli import main
from biddable.terminal import Guarded, console, guard, line, steers, visible, write_json
from folders import base_folder

ROOT = Path(biddable.__file__).parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
BAD = "\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b1A\x7f\r\u202egnp.exe\u2066\u200b\u2028\x1b]8;;http://x\x1b\\l"
# Anything else that a stream may hold: our own colors are sequences of digits that end in m.
ANY = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(BAD))


def steering(text: str) -> list[str]:
    return [c for c in text if steers(c) and c not in "\n\t"]


def printing_calls(tree: ast.AST) -> list[str]:
    """What prints, or names a stream that could."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("print", "input", "stdout", "stderr"):
            names.append(node.id)
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "rich"):
            names += [a.name for a in node.names if a.name in ("stdout", "stderr", "print")]
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (owner, node.attr.strip("_")) in (
                ("sys", "stdout"),
                ("sys", "stderr"),
                ("os", "write"),
            ):
                names.append(f"{owner}.{node.attr}")
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("Console", "get_console", "basicConfig", "StreamHandler", "print_exc"):
                names.append(name)
    return names


def test_no_other_module_prints() -> None:
    places = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in ROOT.rglob("*.py")
        if path.name != "terminal.py"
        for name in printing_calls(ast.parse(path.read_text(encoding="utf-8")))
    }
    # Processes of their own, which answer through a pipe.
    assert places == {"template/sandbox.py: sys.stdout", "exporting/llama_server.py: sys.stdout"}


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "sys.stdout.write('a')",
        "sys.__stderr__.write('a')",
        "from sys import stdout",
        "Console(stderr=True)",
        "rich.console.Console()",
        "from rich import print",
        "os.write(2, b'')",
    ],
)
def test_each_way_to_print_is_seen(code: str) -> None:
    assert printing_calls(ast.parse(code))


@given(ANY)
def test_a_visible_text_steers_nothing_and_is_itself_where_nothing_did(text: str) -> None:
    assert not steering(visible(text))
    assert visible(visible(text)) == visible(text)
    if not steering(text):
        assert visible(text) == text


@given(ANY, st.lists(st.integers(0, 40)))
def test_a_stream_may_be_cut_anywhere(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    parts = [text[a:b] for a, b in pairwise(places)]
    written = io.StringIO()
    for part in parts:
        Guarded(written).write(part)
    # A carriage return begins a line of a progress bar, where a write begins with it.
    assert not steering(re.sub("\r", "", written.getvalue()))


@pytest.mark.parametrize("color", [False, True])
def test_whatever_is_printed_steers_nothing(
    color: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if color:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    out = console()
    table = Table(BAD)
    table.add_row(BAD)
    for thing in (BAD, Text(BAD, "bold red"), table, f"[bold]{BAD}[/bold] :smile:"):
        out.print(thing, style="green")
    said = capsys.readouterr().err
    own = re.compile(r"\x1b\[[0-9;]*m")
    assert bool(own.search(said)) == color
    assert not steering(own.sub("", said))
    assert "[bold]" in said
    assert ":smile:" in said
    for word in ("\\x1b", "\\u202e", "\\x9b", "\\x7f"):
        assert word in said


def test_json_is_exact_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    value = {BAD: [BAD, "ü", "\ud800", 1.5, True, None]}
    write_json({**value, "loss": float("inf"), "list": (float("nan"),)})
    said = capsys.readouterr().out
    assert said.isascii()
    assert not steering(said)
    assert json.loads(said) == {**value, "loss": None, "list": [None]}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_data_is_exact_for_a_program_and_visible_on_a_terminal() -> None:
    pipe, screen = io.StringIO(), Terminal()
    for stream in (pipe, screen):
        Guarded(stream, exact=True).write(BAD)
    assert pipe.getvalue() == BAD
    assert not steering(screen.getvalue())


def test_a_guarded_stream_is_guarded_once() -> None:
    raw = io.StringIO()
    Guarded(Guarded(raw)).write("a\\x1b\x1b")
    assert raw.getvalue() == "a\\x1b\\x1b"


def python(code: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, env={**ENV, **env}
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "cp437", "utf-8:strict", "cp1252"])
def test_no_character_fails_in_a_narrow_code_page(encoding: str) -> None:
    code = (
        "from biddable.terminal import console, exact_output, guard, notices\n"
        "guard()\n"
        "text = 'ü€漢😀\\ud800\\udcff▁█…'\n"
        "exact_output().write(text); notices().write(text); console().print(text); print(text)\n"
    )
    done = python(code, PYTHONIOENCODING=encoding)
    assert (done.returncode, b"Error" in done.stderr) == (0, False), done.stderr


def test_what_other_packages_and_python_itself_print_is_guarded() -> None:
    code = (
        "import sys, warnings, logging\n"
        "from biddable.terminal import guard\n"
        f"guard(); bad = {BAD!r}\n"
        "print(bad, file=sys.stderr); warnings.warn(bad); logging.warning(bad)\n"
        "raise RuntimeError(bad)\n"
    )
    done = python(code, PYTHONUTF8="1")
    assert not steering(done.stderr.decode())
    assert done.stderr.count(b"\\x1b]0;title") >= 4


def test_closed_streams_break_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m biddable check nothing.jsonl --json >&- 2>&- <&-"
    done = subprocess.run(["sh", "-c", command], check=False, cwd=tmp_path, env=ENV)
    assert done.returncode == 1


def test_a_full_disk_and_a_reader_that_has_gone_end_without_a_traceback(tmp_path: Path) -> None:
    for ending in ("--json > /dev/full", "--json | true", "2>&1 | true"):
        command = f"{sys.executable} -m biddable check nothing.jsonl {ending}"
        done = subprocess.run(
            ["sh", "-c", command], check=False, cwd=tmp_path, env=ENV, capture_output=True
        )
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["check", f"{BAD}.jsonl"],
        ["train", "a.jsonl", "--template", BAD],
        ["chat", BAD, "-p", "x"],
        ["convert", BAD, "--out", "x"],
        ["check", "a.jsonl", "--base", BAD],
        ["train", "a.jsonl", "--config", BAD],
        ["train", f"--{BAD}"],
        [BAD],
    ],
)
def test_arguments_are_quoted_without_steering(args: list[str], tmp_path: Path) -> None:
    row = {"messages": [{"role": r, "content": BAD} for r in ("user", "assistant")]}
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 9)
    done = subprocess.run(
        [sys.executable, "-m", "biddable", *args], check=False, cwd=tmp_path, capture_output=True,
        env={**ENV, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert not steering(done.stderr.decode())
    assert b"Traceback" not in done.stderr


def test_data_and_file_names_steer_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_folder(tmp_path / "base")
    row = {"messages": [{"role": r, "content": BAD} for r in ("user", "assistant")], BAD: 1}
    bad = {"messages": [{"role": BAD, "content": "a"}]}
    path = tmp_path / f"a{BAD.replace('/', '')}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [row, bad, *[row] * 8]))
    capsys.readouterr()
    main(["check", str(path), "--base", str(tmp_path / "base"), "--show", "3", "--json"])
    out, err = capsys.readouterr()
    assert not steering(out + err)
    assert json.loads(out)["rows"] == 10


def test_guarding_twice_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    guard()
    inner = sys.stderr.stream  # type: ignore[attr-defined]
    guard()
    assert sys.stderr.stream is inner  # type: ignore[attr-defined]
    assert isinstance(terminal.console().file, io.StringIO)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_a_terminal_wraps_stays_beside_its_name(width: int) -> None:
    file = io.StringIO()
    out = Console(file=file, width=width, force_terminal=True, color_system=None)
    line(out, "data", "a word and " * 12 + "x" * 100)
    head, *rest = file.getvalue().splitlines()
    assert head.startswith("data        a word and")
    assert rest
    assert all(text.startswith(" " * 12) for text in rest)
    assert max(len(text) for text in (head, *rest)) <= width
