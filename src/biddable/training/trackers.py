"""Experiment trackers: each step and evaluation is sent through the tracker's own package.

Where it goes, and who may see it, is set as that package says (WANDB_MODE, MLFLOW_TRACKING_URI);
nothing is sent without `--report-to`. docs/design.md says why accelerate is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from biddable.errors import BiddableError
from biddable.terminal import notices
from biddable.training.log import Log

PROJECT = "biddable"
# Takes numbers by name, and the step.
Send = Callable[[dict[str, float], int], None]


def tracker_package(name: str) -> Any:
    """The package behind a name of `settings.TRACKERS`; None for `none`.

    Raises:
        BiddableError: `missing_extra`, it is not installed.
    """
    if name == "none":
        return None
    try:
        return import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        what = f"--report-to {name} needs a package that cannot be loaded: {error}"
        raise BiddableError("missing_extra", what, f"pip install 'biddable[{name}]'") from error


@contextmanager
def tracker(
    name: str, package: Any, folder: Path, config: Mapping[str, Any], out: Console
) -> Generator[Log]:
    """A log that sends the numbers of steps and evaluations to a tracker.

    After the first failure, which is shown, nothing more is sent: a run of hours does not end
    because a server went away.

    Args:
        package: what `tracker_package` gave.
        folder: the run folder, whose name is the run's; config: the settings, shown there.

    Raises:
        BiddableError: `tracker`, it does not start.
    """
    if package is None:
        yield lambda event: None
        return
    failed = False

    def attempt(action: Callable[[], None]) -> None:
        nonlocal failed
        try:
            if not failed:
                with redirect_stdout(cast(TextIO, notices())):
                    action()
        except Exception as error:
            failed = True
            out.print(Text(f"{name} failed, nothing more is sent to it: {error}"))

    def log(event: Mapping[str, Any]) -> None:
        if values := figures(event):
            attempt(lambda: send(values, event["step"]))

    send, close = _started(name, package, folder, dict(config))
    try:
        yield log
    finally:
        attempt(close)


def _started(name: str, package: Any, folder: Path, config: dict[str, Any]) -> Any:
    """What sends figures to the tracker, and what closes it."""
    try:
        # Some greet on standard output, which is for data.
        with redirect_stdout(cast(TextIO, notices())):
            return _open(name, package, folder, config)
    except Exception as error:  # Each tracker has errors of its own.
        fix = f"set {name} up as its own documentation says, or leave --report-to out"
        raise BiddableError("tracker", f"{name} does not start: {error}", fix) from error


def figures(event: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a step as `train/NAME`, of an evaluation as `eval/NAME`; else empty."""
    group = {"step": "train", "eval": "eval"}.get(event["event"])
    return {
        f"{group}/{name}": value
        for name, value in event.items()
        if group and type(value) in (int, float) and name != "step"
    }


def _open(
    name: str, package: Any, folder: Path, config: dict[str, Any]
) -> tuple[Send, Callable[[], None]]:
    """Starts a run in the tracker: what sends numbers to it, and what ends it."""
    if name == "tensorboard":
        writer = package.SummaryWriter(str(folder / "tensorboard"))
        writer.add_text("settings", "\n".join(f"    {k} = {v!r}" for k, v in config.items()))

        def send(values: dict[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return send, writer.close
    if name == "mlflow":
        package.set_experiment(PROJECT)
        package.start_run(run_name=folder.name)
        package.log_params({key: str(value)[:500] for key, value in config.items()})
        return lambda values, step: package.log_metrics(values, step=step), package.end_run
    if name == "trackio":
        package.init(project=PROJECT, name=folder.name, config=config)
        return lambda values, step: package.log(values, step=step), package.finish
    run = package.init(project=PROJECT, name=folder.name, dir=str(folder), config=config)
    return lambda values, step: run.log(values, step=step), run.finish
