"""Experiment trackers: each step and evaluation handed on through the tracker's own package.

Where it goes, and who may see it, is set as that package says (WANDB_MODE, MLFLOW_TRACKING_URI,
...); nothing is handed on unless `--report-to` asks for it.
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
# A number of an event by its name in the tracker, with the step.
Send = Callable[[Mapping[str, float], int], None]
# (where to send the numbers, what ends the run in the tracker)
Opened = tuple[Send, Callable[[], None]]


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
        raise BiddableError(
            "missing_extra",
            f"--report-to {name} needs a package that cannot be loaded: {error}",
            f"pip install 'biddable[{name}]'",
        ) from error


@contextmanager
def tracker(
    name: str, package: Any, folder: Path, config: Mapping[str, Any], out: Console
) -> Generator[Log]:
    """A log that hands the numbers of steps and evaluations to a tracker while entered.

    Args:
        package: what `tracker_package` gave.
        folder: the run folder, whose name is the run's; config: the settings, shown there.

    Raises:
        BiddableError: `tracker`, it does not start.
    """
    if package is None:
        yield lambda event: None
        return
    try:
        # Some greet on standard output, which is for data.
        with redirect_stdout(cast(TextIO, notices())):
            send, close = _OPEN[name](package, folder, config)
    except Exception as error:  # Each tracker has errors of its own.
        raise BiddableError(
            "tracker",
            f"{name} does not start: {error}",
            f"set {name} up as its own documentation says, or leave --report-to out",
        ) from error
    attempt = _until_it_fails(name, out)

    def log(event: Mapping[str, Any]) -> None:
        found = numbers(event)
        if found:
            attempt(lambda: send(found, event["step"]))

    try:
        yield log
    finally:
        attempt(close)


def _until_it_fails(name: str, out: Console) -> Callable[[Callable[[], None]], None]:
    """Runs what it is given, but after the first failure, which it tells, nothing more.

    A run of hours does not end because a server went away.
    """
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

    return attempt


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a step as `train/NAME`, of an evaluation as `eval/NAME`; none of others."""
    group = {"step": "train", "eval": "eval"}.get(event["event"])
    return {
        f"{group}/{name}": value
        for name, value in event.items()
        if group and type(value) in (int, float) and name != "step"
    }


def _tensorboard(package: Any, folder: Path, config: Mapping[str, Any]) -> Opened:
    writer = package.SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("settings", "\n".join(f"    {k} = {v!r}" for k, v in config.items()))

    def send(found: Mapping[str, float], step: int) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return send, writer.close


def _wandb(package: Any, folder: Path, config: Mapping[str, Any]) -> Opened:
    run = package.init(project=PROJECT, name=folder.name, dir=str(folder), config=dict(config))
    return lambda found, step: run.log(dict(found), step=step), run.finish


def _trackio(package: Any, folder: Path, config: Mapping[str, Any]) -> Opened:
    package.init(project=PROJECT, name=folder.name, config=dict(config))
    return lambda found, step: package.log(dict(found), step=step), package.finish


def _mlflow(package: Any, folder: Path, config: Mapping[str, Any]) -> Opened:
    package.set_experiment(PROJECT)
    package.start_run(run_name=folder.name)
    package.log_params({name: str(value)[:500] for name, value in config.items()})
    return lambda found, step: package.log_metrics(dict(found), step=step), package.end_run


_OPEN: Mapping[str, Callable[[Any, Path, Mapping[str, Any]], Opened]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
