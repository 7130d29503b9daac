"""A GGUF file converts once, a damaged copy mends itself, and no hostile file is believed."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from biddable.errors import BiddableError
from biddable.models import base as module
from biddable.models.base import cache_folder, load_tokenizer, resolve_base
from biddable.storage import MANIFEST
from folders import base_folder
from gguf_files import CASES, write_gguf

MOST_MEMORY = 200_000  # KiB


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    base_folder(folder / "base")
    write_gguf(folder / "base", folder / "tiny.gguf")
    return folder / "tiny.gguf"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_sound_file_gives_its_own_model(sound: Path) -> None:
    base = resolve_base(str(sound))
    ids = load_tokenizer(base).encode("Which colour has the red cup?")
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (base.folder, sound.parent / "base")]
    with torch.no_grad():
        ours, theirs = (m(torch.tensor([ids])).logits for m in models)
    assert ours.shape == theirs.shape
    stamp = (base.folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_base(str(sound)).folder == base.folder
    assert (base.folder / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_hostile_file_is_refused_by_name(
    name: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = sound.read_bytes()
    damaged = CASES[name](raw)
    assert damaged != raw
    (tmp_path / "x.gguf").write_bytes(damaged)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BiddableError) as caught:
        resolve_base(str(tmp_path / "x.gguf"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert time.process_time() - start < 10
    assert caught.value.finding.code in {"base_damaged", "unsupported_layers"}
    assert [p.name for p in cache_folder().iterdir()] == [".lock"]
    out, errors = capfd.readouterr()
    # No word of a library; ours only where the header is sound.
    assert (out, errors.removeprefix("converting  x.gguf, once\n")) == ("", "")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an empty manifest": lambda f: (f / MANIFEST).write_text(""),
    "a list": lambda f: (f / MANIFEST).write_text("[]"),
    "an object": lambda f: (f / MANIFEST).write_text("{}"),
    "a cut one": lambda f: cut(f / MANIFEST),
    "a number": lambda f: (f / MANIFEST).write_text('{"source": 1, "files": 2}'),
    "a deep one": lambda f: (f / MANIFEST).write_text("[" * 100_000),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "cut weights": lambda f: cut(f / "model.safetensors"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "another config": lambda f: (f / "config.json").write_text("{}"),
    "a file in its place": lambda f: (shutil.rmtree(f), f.write_text("")),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_copy_is_made_anew(name: str, sound: Path) -> None:
    folder = resolve_base(str(sound)).folder
    before = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    DAMAGES[name](folder)
    after = load_file(resolve_base(str(sound)).folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_two_processes_convert_once(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second waits, and then finds what the first made."""
    calls = []
    convert = module._convert

    def counted(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        convert(gguf, folder)
        time.sleep(0.5)

    monkeypatch.setattr(module, "_convert", counted)
    child = os.fork()
    if not child:
        code = 1
        try:
            resolve_base(str(sound))
            code = 10 + len(calls)
        finally:
            os._exit(code)
    resolve_base(str(sound))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) - 10 + len(calls) == 1
