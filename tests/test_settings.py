"""Settings: written and read back equal; unknown names, types and ranges are refused."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.command_table import COMMANDS
from biddable.errors import BiddableError
from biddable.options import (
    ALIASES,
    CHOICES,
    GROUPS,
    RANGES,
    range_of,
    read_config,
    with_values,
    write_config,
)
from biddable.settings import ExportSettings, FitSettings, ServeSettings, Settings
from biddable.training.run_folder import Lock, RunFolder, new_run_folder


@given(
    st.builds(
        Settings,
        data=st.lists(st.text(min_size=1)).map(tuple),
        system=st.text(),
        epochs=st.floats(0.1, 100),
        lr=st.floats(0, 1),
        steps=st.integers(0, 1000),
    )
)
def test_the_config_of_a_run_reads_back_as_the_same_settings(settings: Settings) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        write_config(settings, path)
        assert with_values(Settings(), read_config(str(path))) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 'fast'", "--lr is 'fast'; it has to be a number"),
        ("batchsize = 4", "did you mean batch_size"),
        ("learning_rat = 4", "did you mean learning_rate"),
        ("epochs = true", "--epochs is True; it has to be a number"),
        ("data = 3", "--data is 3; it has to be a text or a list of texts"),
        ("template_arg = [3]", "--template-arg is"),
        ("device = 'gpu'", "one of auto, cuda, mps, cpu; did you mean cpu"),
        ("base = 3", "--base is 3; it has to be a text"),
        ("lr = ", "not TOML"),
    ],
)
def test_a_config_with_a_fault_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(BiddableError, match=message):
        read_config(str(path))


@pytest.mark.parametrize(
    "values",
    [
        {"lr": -1.0},
        {"batch_size": 0},
        {"device": "tpu"},
        {"epochs": 0.0},
        {"lr": 1e9},
        {"batch_size": 2.5},
        {"epochs": "2"},
        {"steps": True},
        {"beta2": 1.0},
        {"eps": 0.0},
        {"seed": -1},
        {"seed": 2**64},
        {"warmup": 2.0},
        {"keep": 0},
        {"steps": 10**12},
        {"lr": None},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BiddableError, match="--"):
        with_values(Settings(), values)


NUMBERS = [
    (kind, f.name)
    for kind in (record for c in COMMANDS.values() for record in (c.options, c.printing))
    for f in fields(kind)
    if isinstance(f.default, int | float) and not isinstance(f.default, bool)
]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, -1e300])
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_no_number_may_be_absurd(kind: type[FitSettings], name: str, value: float) -> None:
    with pytest.raises(BiddableError, match="--" + name.replace("_", "-")):
        with_values(kind(), {name: value})


# Of --base-bits only 0 and 4 are good, so that the error can name what it takes.
@pytest.mark.parametrize(("kind", "name"), [n for n in NUMBERS if n[1] != "base_bits"])
def test_both_ends_of_a_range_are_good(kind: type[FitSettings], name: str) -> None:
    (f,) = (f for f in fields(kind) if f.name == name)
    steps = {"steps": 1} if kind is Settings and name != "steps" else {}
    for end in range_of(f):
        value = type(f.default)(end)
        assert getattr(with_values(kind(), {**steps, name: value}), name) == value


def test_options_stay_within_the_budget() -> None:
    assert len(asdict(Settings())) <= 40


@given(st.sampled_from(["a", "b"]))
def test_paths_and_single_texts_are_taken_as_texts(name: str) -> None:
    values = {"data": Path(name), "eval": Path(name), "out": Path("x")}
    settings = with_values(Settings(), values)
    assert (settings.data, settings.eval, settings.out) == ((name,), name, "x")
    assert with_values(Settings(), {"data": [Path(name), "c"]}).data == (name, "c")


def test_the_home_folder_is_written_out_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell does so in `--out ~/x`, and leaves `--out=~/x` as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    exported = with_values(ExportSettings(), {"run": "~/run", "out": Path("~/x")})
    assert (exported.run, exported.out) == ("/home/me/run", "/home/me/x")
    assert with_values(ServeSettings(), {"runs": ["~/a", "b~/c"]}).runs == ("/home/me/a", "b~/c")
    settings = with_values(Settings(), {"data": "~/rows.jsonl", "eval": "~x", "system": "~/"})
    assert (settings.data, settings.eval, settings.system) == (("/home/me/rows.jsonl",), "~x", "~/")


def test_every_option_has_a_heading_that_is_shown_and_each_alias_stands_for_one_option() -> None:
    for command in COMMANDS.values():
        names = [f.name for f in fields(command.options)]
        flags = [alias for name in names for alias in ALIASES.get(name, ())]
        assert len(flags) == len(set(flags))
        assert not {flag.strip("-").replace("-", "_") for flag in flags} & set(names)
    known = {f.name for c in COMMANDS.values() for r in (c.options, c.printing) for f in fields(r)}
    listed = [name for names in GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) | set(ALIASES) | set(CHOICES) | set(RANGES) <= known


def test_an_existing_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BiddableError, match="exists already"):
        new_run_folder(str(tmp_path / "mine"), ())


def test_run_folders_get_the_next_free_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [new_run_folder("", ("some/my data.jsonl",)).path.name for _ in range(2)]
    assert names[0].startswith("my-data-")
    assert names[0].endswith("-1")
    assert names[1].endswith("-2")


def test_a_run_folder_has_one_writer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config.touch()
    with Lock(folder), pytest.raises(BiddableError, match="written by process"), Lock(folder):
        pass
    with Lock(folder):
        pass
