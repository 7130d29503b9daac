"""Trackers get every number of the log, through their own packages, and never end a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from biddable.errors import BiddableError
from biddable.settings import TRACKERS
from biddable.terminal import console
from biddable.training.trackers import figures, tracker, tracker_package

EVENTS: list[dict[str, Any]] = [
    {"event": "eval", "step": 0, "held_out_loss": 4.5, "prompt": "Hi?", "answer": "x"},
    {"event": "step", "step": 1, "loss": 4.0, "learning_rate": 0.25, "tokens": 9},
    {"event": "step", "step": 2, "loss": 3.0, "learning_rate": 0.5, "tokens": 9},
    {"event": "eval", "step": 2, "held_out_loss": 2.5, "best": True, "answer": "y"},
    {"event": "rising", "step": 2, "best_step": 1},
]


def send_all(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    out = Console(file=StringIO())
    with tracker(name, tracker_package(name), folder, {"seed": 3}, out) as log:
        for event in EVENTS:
            log(event)
    assert out.file.getvalue() == ""  # type: ignore[attr-defined]
    # That is for data.
    assert capsys.readouterr().out == ""


def test_only_the_numbers_of_steps_and_evaluations_are_handed_on() -> None:
    assert [figures(e) for e in EVENTS] == [
        {"eval/held_out_loss": 4.5},
        {"train/loss": 4.0, "train/learning_rate": 0.25, "train/tokens": 9},
        {"train/loss": 3.0, "train/learning_rate": 0.5, "train/tokens": 9},
        {"eval/held_out_loss": 2.5},
        {},
    ]


def test_tensorboard_reads_back_what_was_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send_all("tensorboard", tmp_path / "run", capsys)
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    assert [(s.step, s.value) for s in accumulator.Scalars("train/loss")] == [(1, 4.0), (2, 3.0)]
    assert [(s.step, s.value) for s in accumulator.Scalars("eval/held_out_loss")] == [
        (0, 4.5),
        (2, 2.5),
    ]


def test_wandb_writes_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    send_all("wandb", tmp_path / "run", capsys)
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"held_out_loss" in written.read_bytes()


@pytest.mark.filterwarnings("ignore")  # It uses what SQLAlchemy has deprecated.
def test_mlflow_stores_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    send_all("mlflow", tmp_path / "run", capsys)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 4.0), (2, 3.0)]
    assert run.data.params == {"seed": "3"}


def test_trackio_stores_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    send_all("trackio", tmp_path / "run", capsys)
    (stored,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(stored) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    assert [step for step, _ in rows] == [0, 1, 2, 2]
    assert "held_out_loss" in str(rows[0][1])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_there_is_an_error_with_its_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(BiddableError) as caught:
        tracker_package(name)
    assert caught.value.finding.code == "missing_extra"
    assert f"pip install 'biddable[{name}]'" in caught.value.finding.fix


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("no [server] there")


def test_a_tracker_that_does_not_start_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    broken = SimpleNamespace(init=fails)
    with (
        pytest.raises(BiddableError, match=r"wandb does not start: no \[server\] there"),
        tracker("wandb", broken, tmp_path, {}, Console(file=StringIO())),
    ):
        pass


def test_a_tracker_that_fails_on_the_way_is_told_once_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Mapping[str, float]] = []

    def init(**_: object) -> SimpleNamespace:
        print("welcome")
        return run

    def log(metrics: Mapping[str, float], step: int) -> None:
        calls.append(metrics)
        fails()

    run = SimpleNamespace(log=log, finish=fails)
    out = console()
    out.file, out.width = StringIO(), 200
    with tracker("wandb", SimpleNamespace(init=init), tmp_path, {}, out) as sent:
        for event in EVENTS:
            sent(event)
    assert len(calls) == 1
    notices = out.file.getvalue()  # type: ignore[attr-defined]
    assert notices.count("nothing more is sent") == 1
    assert "no [server] there" in notices
    assert capsys.readouterr().out == ""


def test_without_a_tracker_nothing_is_done(tmp_path: Path) -> None:
    with tracker("none", tracker_package("none"), tmp_path, {}, Console()) as log:
        log(EVENTS[1])
    assert list(tmp_path.iterdir()) == []
