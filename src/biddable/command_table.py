"""The commands by name: the record of their options and what the help says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biddable.settings import (
    ChatSettings,
    CheckPrinting,
    CheckSettings,
    CompareSettings,
    ConvertSettings,
    ExportSettings,
    LabSettings,
    MineSettings,
    PretrainSettings,
    Printing,
    ServeSettings,
    Settings,
    TrainPrinting,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command: commands/NAME.py has its function and `run`; --config reads a `config` record."""

    options: type[Any]
    help: str
    printing: type[Any] = Printing
    config: type[Any] | None = None
    resume: bool = False


COMMANDS = {
    "check": Command(
        CheckSettings, "show what would be learned, and what is wrong with the data",
        printing=CheckPrinting, config=Settings,
    ),
    "train": Command(
        Settings, "tune a base model on the data, and judge it on held-out rows",
        printing=TrainPrinting, config=Settings, resume=True,
    ),
    "chat": Command(ChatSettings, "talk to a model, asked as it was in training"),
    "compare": Command(CompareSettings, "judge base and tuned on the same held-out rows"),
    "serve": Command(ServeSettings, "serve models as OpenAI does, and a page to try them"),
    "pretrain": Command(
        PretrainSettings, "train a small base model from scratch on plain text",
        config=PretrainSettings, resume=True,
    ),
    "mine": Command(MineSettings, "make rows of documents, code, commits, mail and tickets"),
    "export": Command(ExportSettings, "write a tuned model for other programs, and prove it there"),
    "convert": Command(ConvertSettings, "make a base of a PyTorch checkpoint of a nanoGPT"),
    "lab": Command(LabSettings, "see template, tokens and mask of an example in the browser"),
}  # fmt: skip
