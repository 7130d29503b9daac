"""The commands by name, each with the record of its options and its line in the help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biddable import settings


@dataclass(frozen=True, slots=True)
class Command:
    """A command: commands/NAME.py has its function and `run`; --config reads a `config` record."""

    options: type[Any]
    help: str
    printing: type[Any] = settings.Printing
    config: type[Any] | None = None
    resume: bool = False


COMMANDS = {
    "check": Command(
        settings.CheckSettings, "show what would be learned, and what is wrong with the data",
        printing=settings.CheckPrinting, config=settings.Settings,
    ),
    "train": Command(
        settings.Settings, "tune a base model on the data, and judge it on held-out rows",
        printing=settings.TrainPrinting, config=settings.Settings, resume=True,
    ),
    "chat": Command(
        settings.ChatSettings, "talk to a model, prompted as in training",
        printing=settings.NoPrinting,
    ),
    "compare": Command(settings.CompareSettings, "judge base and tuned on the same held-out rows"),
    "serve": Command(
        settings.ServeSettings, "serve models as OpenAI does, and a page to try them",
        printing=settings.NoPrinting,
    ),
    "pretrain": Command(
        settings.PretrainSettings, "train a small base model from scratch on plain text",
        config=settings.PretrainSettings, resume=True,
    ),
    "mine": Command(
        settings.MineSettings, "make rows of documents, code, commits, mail and tickets"
    ),
    "export": Command(
        settings.ExportSettings, "write a tuned model for other programs, and prove it there"
    ),
    "convert": Command(
        settings.ConvertSettings, "make a base of a PyTorch checkpoint of a nanoGPT"
    ),
    "lab": Command(
        settings.LabSettings, "see template, tokens and mask of an example in the browser",
        printing=settings.NoPrinting,
    ),
}  # fmt: skip
