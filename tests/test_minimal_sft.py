"""The page that shows the whole idea trains the very weights that the command trains."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biddable import load, train
from folders import SYSTEM, base_folder, rows, write_jsonl

EXAMPLE = Path(__file__).parents[1] / "examples" / "minimal_sft.py"


def test_minimal_sft_fits_a_page_and_trains_the_weights_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_folder(tmp_path / "base")
    data = write_jsonl(tmp_path / "data.jsonl", rows(40))
    page = runpy.run_path(str(EXAMPLE))

    page["minimal_sft"](data, str(tmp_path / "minimal"), base)
    held_out = write_jsonl(tmp_path / "eval.jsonl", rows()[:8])
    options = {"batch_tokens": page["BATCH_TOKENS"], "precision": "fp32", "device": "cpu"}
    trained = train(data, base=base, eval=held_out, out=tmp_path / "run", answers=1, **options)

    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 100
    assert trained.progress.step == trained.progress.best_step == 15
    minimal = load_file(tmp_path / "minimal" / "model.safetensors")
    command = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert minimal.keys() == command.keys()
    for name in minimal:
        assert torch.equal(minimal[name], command[name]), name
    question = {"system": SYSTEM, "temperature": 0, "max_new_tokens": 8}
    answers = [
        load(tmp_path / folder).answer("Which colour has the red cup?", **question)
        for folder in ("minimal", "run")
    ]
    assert "step 15 of 15: loss" in capsys.readouterr().out
    assert answers[0] == answers[1]
