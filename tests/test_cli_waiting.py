"""How threads wait: asleep where another program is at work, as the environment says if it does."""

import pytest

from biddable.cli import waiting


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert waiting() == {}
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert waiting() == {}


def test_the_load_of_this_machine_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """How high it is depends on the machine, and what is said follows from it as below."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert waiting() in ({"GOMP_SPINCOUNT": "30000"}, {"OMP_WAIT_POLICY": "PASSIVE"})


@pytest.mark.parametrize(("busy", "name"), [(19.9, "GOMP_SPINCOUNT"), (20.1, "OMP_WAIT_POLICY")])
def test_how_busy_is_busy(monkeypatch: pytest.MonkeyPatch, busy: float, name: str) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: busy)
    assert list(waiting()) == [name]
