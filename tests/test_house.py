"""The house stays small: what tests/helpers/house.py counts is bounded here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import house


def test_no_file_and_no_function_grows_long() -> None:
    assert [part for part in house.files() if part.lines > 300] == []
    assert [part for part in house.functions() if part.lines > 45] == []


def test_values_are_named_for_what_they_are() -> None:
    assert len(house.vague_names()) <= 60


def test_a_reader_follows_few_lines_from_the_command_to_the_gradient() -> None:
    script = (
        "import house, json; way, _ = house.traced_run(); "
        "print(json.dumps([[p.name, p.lines] for p in way]))"
    )
    paths = [str(house.ROOT.parent), str(Path(house.__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(paths), "PATH": "", "HOME": str(Path.home())},
    )  # fmt: skip
    way = json.loads(done.stdout.splitlines()[-1])
    assert sum(lines for _, lines in way) <= 900
    assert len({name.partition(":")[0] for name, _ in way}) < 15
