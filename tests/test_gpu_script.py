"""`make gpu` runs whole on a CPU with tiny shapes; what a machine lacks or breaks is a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import LAWS, OWN, Session, install
from benchmarks.gpu_workloads import TINY, WORK, result_of, write_workload

ROOT = Path(__file__).parents[1]


def run(out: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the lines that the file holds; they are those that are printed."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (file,) = out.glob("gpu-*.jsonl")
    text = file.read_text(encoding="utf-8")
    assert text == done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in text.splitlines()]


def test_all_parts_run_on_a_cpu_and_every_law_holds(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "--device", "cpu", "--small", "--seconds", "3000")
    assert [line for line in lines if "fault" in line or "skipped" in line] == []
    assert [line for line in lines if line.get("held") is False] == []
    assert code == 0
    assert {line["part"] for line in lines if "held" in line} == set(LAWS)
    ours = [line for line in lines if line.get("side") == "ours"]
    assert [line["work"] for line in ours] == list(WORK)
    for line in ours:
        assert line["tokens_per_second"] > 0
        assert line["fed_tokens"] > 0
        assert line["peak"] > 0
    header = {"device", "torch", "driver", "peer", "commit", "date", "command"}
    assert all(header <= set(line) for line in lines)


def test_what_does_not_fit_into_the_time_is_skipped_and_said(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "--device", "cpu", "--small", "--seconds", "1", "resume", "tiny")
    assert [line["part"] for line in lines if "skipped" in line] == ["resume", "tiny ours"]
    assert code == 0


def test_a_machine_without_the_device_is_told_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, lines = run(tmp_path, "--small")
    assert lines[-1]["fault"] == "PyTorch is missing or finds no cuda"
    assert code == 1


def session(lines: Any, most: float = 1e9) -> Session:
    return Session(dict(os.environ), {"peer": ""}, [lines], deadline=1e12, most=most)


def test_a_part_that_fails_is_a_line_with_the_end_of_its_traceback(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w+") as file:
        work = session(file)
        script = "print('{\"case\": 1}'); print('noise'); raise ValueError('it broke')"
        assert work.run("resume", [sys.executable, "-c", script]) == [{"case": 1}]
        file.seek(0)
        line = json.loads(file.read())
    assert line == {"part": "resume", "fault": "ValueError: it broke", "exit_code": 1, "peer": ""}
    assert work.faults == 1


def test_a_part_that_hangs_is_ended_and_keeps_its_lines(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w+") as file:
        work = session(file, most=5.0)
        script = """echo '{"case": 1}'; echo '{"unfinished'; exec sleep 600"""
        assert work.run("train", ["sh", "-c", script]) == [{"case": 1}]
        file.seek(0)
        assert json.loads(file.read())["fault"] == "it did not end within 5 seconds"


@pytest.mark.parametrize(
    ("wheel", "own"),
    [
        ("torch-2.13.0-cp312-cp312-linux_x86_64.whl", True),
        ("nvidia_cublas_cu13-13.0-py3-none-any.whl", True),
        ("triton-3.6.0-cp312-cp312-linux_x86_64.whl", True),
        ("transformers-5.23.0-py3-none-any.whl", False),
        ("torchmetrics-1.9.0-py3-none-any.whl", False),
    ],
)
def test_the_machine_keeps_its_own_pytorch(wheel: str, own: bool) -> None:
    assert bool(OWN.match(wheel)) == own


def test_a_wheel_that_pip_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    assert "broken" in install(str(tmp_path), tmp_path / "site")


def test_rows_are_those_of_the_workload_and_speed_counts_all_their_tokens(tmp_path: Path) -> None:
    path = write_workload("W3", "tiny", tmp_path)
    work = json.loads(path.read_text())
    rows = work["rows"]
    assert len({tuple(row["input_ids"][:150]) for row in rows}) == 1
    assert {len(row["input_ids"]) - 150 for row in rows} <= set(range(6, 41))
    assert all(sum(i != -100 for i in row["labels"]) >= 3 for row in rows)
    assert max(max(row["input_ids"]) for row in rows) < TINY["tiny"]["vocab_size"]
    steps = [
        {"step": n, "loss": 1.0, "seconds": 9.0 if n < 3 else 2.0, "tokens": 5} for n in range(1, 6)
    ]
    counted = [rows[i] for step in work["order"][2:] for i in step]
    speed = sum(len(row["input_ids"]) for row in counted) / 3 / 2.0
    assert result_of(path, [*steps, {"peak": 7}])["tokens_per_second"] == pytest.approx(speed)
    assert "fault" in result_of(path, steps[:3])
