"""`--metric FILE.py:FUNCTION`: a user's own metric, from a file that they name."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from math import isfinite
from numbers import Real
from pathlib import Path
from types import ModuleType

from biddable.errors import BiddableError
from biddable.judging.judge import Question
from biddable.terminal import notices

UserMetric = Callable[[str, str], float]
_FIX = "write `def score(reference, answer): ...` in a file, and give --metric FILE.py:score"


def load_metric(option: str) -> UserMetric | None:
    """The function that FILE.py:FUNCTION names; None where nothing is given. Runs the file.

    Raises:
        BiddableError: `metric`, there is no such file or function, the file fails, or the function
            does not take (reference, answer).
    """
    if not option:
        return None
    file, colon, name = option.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise _bad(f"--metric {option!r} is not FILE.py:FUNCTION")
    function = getattr(_loaded(Path(file)), name, None)
    if not callable(function):
        raise _bad(f"{file} has no function {name}")
    try:
        inspect.signature(function).bind("reference", "answer")
    except (TypeError, ValueError) as error:
        raise _bad(f"the metric {name} of {file} does not take (reference, answer)") from error

    def metric(reference: str, answer: str) -> float:
        try:
            # Standard output holds data only, whatever the file prints.
            with redirect_stdout(notices()):
                value = function(reference, answer)
        except SystemExit as error:
            raise RuntimeError("it ends the program") from error
        # A NumPy scalar is no Python number; `item` gives one.
        number = value.item() if hasattr(value, "item") else value
        if not isinstance(number, Real):
            raise TypeError(f"it gave {type(value).__name__}, not a number")
        return float(number)

    return metric


def try_metric(metric: UserMetric | None, questions: Sequence[Question]) -> None:
    """Calls a metric with each reference as its answer, before a model is loaded for it."""
    for question in questions if metric else ():
        metric_value(metric, question, question.reference)  # type: ignore[arg-type]


def metric_value(metric: UserMetric, question: Question, answer: str) -> float:
    """One value of a user's metric."""
    try:
        value = float(metric(question.reference, answer))
        if not isfinite(value):
            raise ValueError(f"it gave {value}")
    except Exception as error:
        raise BiddableError(
            "metric",
            f"the metric failed on this row: {type(error).__name__}: {error}",
            "the function takes (reference, answer), both texts, and returns a finite number",
            file=question.file,
            line=question.line,
        ) from error
    return value


def _loaded(path: Path) -> ModuleType:
    if not path.is_file():
        raise _bad(f"the metric's file {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"biddable_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise _bad(f"the metric's file {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    try:
        with redirect_stdout(notices()):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _bad(f"the metric's file {path} fails: {type(error).__name__}: {error}") from error
    return module


def _bad(what: str) -> BiddableError:
    return BiddableError("metric", what, _FIX)
