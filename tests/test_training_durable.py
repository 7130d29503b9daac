"""Nothing lost: kills, a full disk, damaged files, a second process, changed inputs."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import biddable
from biddable import storage as durable
from biddable.cli import main
from biddable.errors import BiddableError
from biddable.storage import AtomicFolder, is_sound, write_whole
from biddable.training import checkpoint
from biddable.training.checkpoint import Progress, load_checkpoint, read_best, save_best
from biddable.training.loop import SECONDS_BETWEEN_SAVES, _save_is_due
from biddable.training.run_folder import Lock, RunFolder, cut_log
from folders import base_folder, rows, write_jsonl
from test_training_checkpoint import save, trained_state

HERE = Path(__file__).parent / "helpers"
PYTHONPATH = os.pathsep.join([str(Path(biddable.__file__).parent.parent), str(HERE)])
ENV = {**os.environ, "PYTHONPATH": PYTHONPATH}


def test_a_run_that_is_killed_anywhere_ends_as_if_it_had_not_been() -> None:
    """The short form of `make crash`; tests/helpers/crash.py says what it does."""
    command = [sys.executable, str(HERE / "crash.py"), "--every", "29", "--trials", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ENV)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["points_of_the_save_path"] > 80
    assert figures["crashed_at"] > 3


def test_only_a_later_second_signal_leaves_at_once() -> None:
    code = (
        "import os, signal, sys\n"
        "from biddable.training import interrupt as module\n"
        # A clock of its own: no machine is too slow for it.
        "class Clock:\n"
        "    def monotonic(self): return self.now\n"
        "module.time = Clock()\n"
        "with module.Interrupt() as interrupt:\n"
        "    for second in (1.0, 1.0, 1.0 + float(sys.argv[1])):\n"
        "        module.time.now = second\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert interrupt.exit_code == 143\n"
    )
    codes = [
        subprocess.run([sys.executable, "-c", code, wait], check=False, env=ENV).returncode
        for wait in ("0", "2.1")
    ]
    assert codes == [0, 143]


def test_content_is_on_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was flushed: each file, then their folder, then the new name."""
    order: list[str] = []
    flush, rename = durable.flush, Path.rename
    monkeypatch.setattr(durable, "flush", lambda p: (order.append(f"flush {p.name}"), flush(p)))

    def renamed(self: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with AtomicFolder(tmp_path / "step-1") as aside:
        (aside / "a.txt").write_text("a")
    expected = ["flush a.txt", "flush manifest.json", "flush .step-1.part", "rename to step-1"]
    assert order == [*expected, f"flush {tmp_path.name}"]


def test_best_weights_stay_while_a_checkpoint_names_them(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    save_best(tmp_path, 2, weights.gather())
    save(tmp_path, Progress(3, best_step=2), weights, optimizer, 1)
    save_best(tmp_path, 4, weights.gather())
    assert {p.name for p in tmp_path.glob("best-*")} == {"best-000002", "best-000004"}
    save(tmp_path, Progress(6, best_step=4), weights, optimizer, 1)
    assert {p.name for p in tmp_path.iterdir()} == {"best-000004", "step-000006"}


def test_a_checkpoint_whose_best_weights_are_damaged_is_passed_over(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    save(tmp_path, Progress(3), weights, optimizer, 2)
    save_best(tmp_path, 5, weights.gather())
    save(tmp_path, Progress(6, best_step=5), weights, optimizer, 2)
    file = tmp_path / "best-000005" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    progress, damaged = load_checkpoint(tmp_path, weights, optimizer)
    assert (progress.step, damaged) == (3, ["step-000006"])
    with pytest.raises(BiddableError, match="best_damaged"):
        read_best(tmp_path, 5)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_manifest_damages_its_checkpoint(tmp_path: Path, harm: str) -> None:
    weights, optimizer = trained_state(1)
    folder = save(tmp_path, Progress(3), weights, optimizer, 2)
    content = bytearray((folder / "manifest.json").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "manifest.json").write_bytes(content if harm == "flip" else content[:9])
    if harm == "remove":
        (folder / "manifest.json").unlink()
    assert not is_sound(folder)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_harms_no_checkpoint_and_says_what_is_free(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    save_best(tmp_path, 3, weights.gather())
    save(tmp_path, Progress(3, best_step=3), weights, optimizer, 1)
    largest = max(p.stat().st_size for p in tmp_path.rglob("*"))
    # The weights fit; the moments, written after them, do not.
    for size in (100, largest - 1):
        with files_up_to(size), pytest.raises(BiddableError, match=r"bytes are free.*no_space"):
            save(tmp_path, Progress(6), weights, optimizer, 1)
    with files_up_to(100), pytest.raises(BiddableError, match="no_space"):
        save_best(tmp_path, 6, weights.gather())
    assert {p.name for p in tmp_path.iterdir()} == {"best-000003", "step-000003"}
    assert load_checkpoint(tmp_path, *trained_state(2))[0].step == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory with room for one checkpoint of the tiny model and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    weights, _ = trained_state(1)
    size = 9 * checkpoint.weight_bytes(weights) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_during_a_save_harms_no_checkpoint(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Something else took the room between the look at it and the writing.
    monkeypatch.setattr(checkpoint, "need_space", lambda *_: None)
    weights, optimizer = trained_state(1)
    first = save(small_disk, Progress(3), weights, optimizer, 2)
    with pytest.raises(BiddableError, match=r"bytes are free.*no_space"):
        save(small_disk, Progress(6), weights, optimizer, 2)
    assert list(small_disk.iterdir()) == [first]
    assert load_checkpoint(small_disk, weights, optimizer)[0].step == 3


def test_room_is_looked_for_before_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, optimizer = trained_state(1)
    needed = 3 * checkpoint.weight_bytes(weights)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BiddableError, match=f"bytes are needed, {needed:,} bytes are free"):
        save(tmp_path / "new", Progress(3), weights, optimizer, 1)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unwell") as caught, AtomicFolder(tmp_path / "a"):
        raise OSError(errno.EIO, "unwell")
    assert caught.value.errno == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "old")
    with files_up_to(10), pytest.raises(OSError, match="large"):
        write_whole(tmp_path / "a.json", "new" * 10)
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_line_cut_short_leaves_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 1, "a": {}')
    cut_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    cut_log(tmp_path / "none.jsonl", 2)


def test_saves_come_by_steps_or_by_time() -> None:
    assert [s for s in range(1, 8) if _save_is_due(s, 3, saved=0.0)] == [3, 6]
    now = time.monotonic()
    assert not _save_is_due(3, 0, saved=now)
    assert _save_is_due(3, 0, saved=now - SECONDS_BETWEEN_SAVES - 1)


def test_the_lock_file_stays_so_that_nobody_locks_a_deleted_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    with Lock(RunFolder(tmp_path)):
        before = (tmp_path / ".lock").stat().st_ino
    with Lock(RunFolder(tmp_path)):
        assert (tmp_path / ".lock").stat().st_ino == before


class Payload:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("durable")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def run_args(place: Path, out: Path, *more: str) -> list[str]:
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(out)]
    small = ["--steps", "4", "--save-every", "2", "--answers", "1", "--device", "cpu"]
    return ["train", *files, *small, "--precision", "fp32", "--resume", "auto", *more]


@pytest.fixture(scope="module")
def begun(place: Path) -> Path:
    """A run that was killed after its first checkpoint, of step 2."""
    out = place / "begun"
    code = (
        "import os, signal, sys\n"
        "from biddable.cli import main\n"
        "from biddable.training import checkpoint\n"
        "plain = checkpoint.save_checkpoint\n"
        "def save(*args):\n"
        "    plain(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save_checkpoint = save\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *run_args(place, out)], check=False, env=ENV)
    assert done.returncode == -signal.SIGKILL
    return out


def copied(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def test_a_poisoned_pickle_is_never_opened(place: Path, begun: Path, tmp_path: Path) -> None:
    run, marker = copied(begun, tmp_path), tmp_path / "made-by-a-pickle"
    for folder in (run, run / "checkpoints", run / "checkpoints" / "step-000002"):
        for name in ("optimizer.pt", "rng_state.pth", "weights.bin", "pytorch_model.bin", "a.pkl"):
            (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    assert main(run_args(place, run)) == 0
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists(), "the payload would not have shown itself"


def test_auto_begins_goes_on_and_says_when_it_is_finished(
    place: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_args(place, tmp_path / "whole")) == 0
    run = copied(begun, tmp_path)
    capsys.readouterr()
    assert main(run_args(place, run)) == 0
    assert "from step 2" in capsys.readouterr().err
    a, b = (load_file(f / "model" / "model.safetensors") for f in (tmp_path / "whole", run))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert main(run_args(place, run)) == 0
    assert "is finished" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 1
    assert "[run_finished]" in capsys.readouterr().err


def test_auto_without_out_takes_the_newest_unfinished_run_of_the_data(
    place: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(begun, tmp_path / "runs" / "data-2026-01-01-1")
    args = run_args(place, tmp_path)
    del args[args.index("--out") : args.index("--out") + 2]
    assert main(args) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["data-2026-01-01-1"]


CHANGES = {
    "seed": (["--seed", "1"], "--seed (was 0, is 1)"),
    "learning rate": (["--lr", "0.5"], "--lr (was 0.0002, is 0.5)"),
    "rows per step": (["--batch-size", "3"], "--batch-size (was 8, is 3)"),
    "template": (["--template-arg", "a=1"], "template; --template-arg (was [], is ['a=1'])"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_changed_option_is_named(
    place: Path, begun: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more, said = CHANGES[name]
    assert main(run_args(place, begun, *more)) == 1
    err = capsys.readouterr().err
    assert "[run_changed]" in err
    assert said in err


def test_everything_that_changed_is_named(
    place: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = copied(begun, tmp_path), tmp_path / "moved"
    shutil.copytree(place / "base", moved)
    config = json.loads((moved / "tokenizer_config.json").read_text())
    (moved / "tokenizer_config.json").write_text(json.dumps({**config, "note": "changed"}))
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    args = run_args(place, run, "--lr", "0.5")
    args[args.index("--base") + 1] = str(moved)
    assert main(args) == 1
    err = capsys.readouterr().err
    for said in ("base model.safetensors", "tokenizer tokenizer_config.json", "--lr (was"):
        assert said in err
    assert "data file" not in err


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_first_step(
    place: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path)
    shutil.rmtree(run / "checkpoints")
    assert main(["train", "--resume", str(run)]) == 0
    events = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert next(e["step"] for e in events if e["event"] == "eval") == 0


def test_a_second_process_on_a_run_is_refused(
    place: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lock(RunFolder(begun)):
        assert main(run_args(place, begun)) == 1
    assert f"written by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="has to become a user who may not write")
def test_a_run_folder_that_may_not_be_written_is_an_error_without_a_traceback(
    place: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path)
    code = (
        "import os, sys; from biddable.cli import main; import biddable.commands.train;"
        f"os.seteuid(65534); sys.exit(main({run_args(place, run)!r}))"
    )
    for folder in (tmp_path, *tmp_path.parents[:3], *place.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    env = {**ENV, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env
    )
    assert done.returncode == 1, done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
