"""How threads wait: asleep where another program is at work, as the environment says if it does."""

import os
import subprocess
import sys

import pytest

from biddable.cli.main import waiting


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert waiting() == {}
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert waiting() == {}


def test_on_a_busy_machine_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        # The machine counts in hundredths of a second, and a process takes some to start.
        assert {"OMP_WAIT_POLICY": "PASSIVE"} in [waiting() for _ in range(10)]
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("busy", "name"), [(19.9, "GOMP_SPINCOUNT"), (20.1, "OMP_WAIT_POLICY")])
def test_how_busy_is_busy(monkeypatch: pytest.MonkeyPatch, busy: float, name: str) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: busy)
    assert list(waiting()) == [name]
