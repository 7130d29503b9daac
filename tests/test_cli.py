"""The command line: names that hands know, suggestions, help, and how threads wait."""

from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest

from biddable.cli import main, read_arguments, waiting
from biddable.command_table import COMMANDS
from biddable.errors import BiddableError

BAD = "\x1b]0;title\x07\x1b[31mred"


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


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command line says of words that it refuses as a fault of usage."""
    assert main(list(words)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian", "a"], "did you mean train?"),
        (["train", "a", "--epoch-count", "3"], "did you mean --epochs?"),
        (["train", "a", "--learnin-rate", "3"], "did you mean --learning-rate?"),
        (["check", "a", "--strickt"], "did you mean --strict?"),
        (["train", "a", "--precision", "fp31"], "did you mean fp32?"),
        (["check", "a", "--lr", "1"], "train and pretrain have it"),
        (["chat", "a", "b"], "'b' is one argument too many"),
        (["train", "a", "--lr", "7"], "a number from 0 to 1"),
        (["train", "a", "--lora", "-1"], "a whole number from 0 to 1024"),
        (["train", "a", "--steps", "5", "--epochs", "2"], "--steps and --epochs each say"),
        (["pretrain", "a", "--minutes", "1", "--steps", "5"], "--steps and --minutes each say"),
        (["lab", "--json"], "check, train"),
        (["chat", "smollm2", "--json"], "have it"),
        ([], ""),
    ],
)
def test_what_is_misspelled_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    if words:
        assert meant in said(capsys, *words)
        return
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["check", "dato.jsonl"], "data.jsonl"),
        (["check", "data.jsonl", "--template", "chatlm"], "did you mean chatml?"),
        (["chat", "runs/nmae"], "runs/name"),
        (["chat", "run/name", "-p", "a"], "did you mean runs/name?"),
        (["chat", "smolm2", "-p", "a"], "did you mean smollm2?"),
        (["train", "data.jsonl", "--config", "c.toml"], "did you mean warmup?"),
    ],
)
def test_files_templates_models_and_keys_get_one_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    meant: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "data.jsonl").write_text("{}")
    (tmp_path / "runs" / "name").mkdir(parents=True)
    (tmp_path / "c.toml").write_text("warm_up = 0.1")
    assert main(words) == 1
    assert meant in capsys.readouterr().err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("{}")
    return tmp_path


@pytest.mark.usefixtures("place")
def test_aliases_underscores_and_mixed_order_say_the_same() -> None:
    plain = ["a", "--lr", "0.1", "--base", "b", "--out", "c", "--max-length", "9", "--epochs", "2"]
    known = ["--learning_rate=0.1", "--model", "b", "a", "--output_dir", "c"]
    known += ["--max_seq_length", "9", "--num_train_epochs", "2.0"]
    parse = partial(read_arguments, "train", COMMANDS["train"])
    assert parse(plain) == parse(known)


@pytest.mark.usefixtures("place")
def test_a_value_keeps_its_underscores() -> None:
    options, _ = read_arguments("train", COMMANDS["train"], ["a", "--group_by=my_group"])
    assert options["group_by"] == "my_group"


def test_what_is_given_beside_a_config_wins_and_check_reads_that_of_train(place: Path) -> None:
    config = place / "config.toml"
    config.write_text('data = ["a"]\nlr = 0.5\nmap = "user=x,assistant=y"\nseed = 3\n')
    words = ["--config", str(config), "--seed", "4"]
    options, _ = read_arguments("check", COMMANDS["check"], words)
    assert options == {"data": ("a",), "map": "user=x,assistant=y", "seed": 4}


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        ([], {"steps": 7}),
        (["--epochs", "2"], {"epochs": 2.0}),
        (["--steps", "3"], {"steps": 3}),
        (["--seed", "3"], {"steps": 7}),
    ],
)
def test_one_length_decides_and_a_given_one_before_that_of_a_config(
    place: Path, words: list[str], lengths: dict[str, float]
) -> None:
    (place / "c.toml").write_text('data = ["a"]\nsteps = 7\nepochs = 5.0\n')
    options, _ = read_arguments("train", COMMANDS["train"], ["--config", "c.toml", *words])
    assert {k: v for k, v in options.items() if k in ("steps", "epochs")} == lengths


@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_the_screen_and_names_every_option(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, command in COMMANDS.items():
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= columns
        flags = [f for f in fields(command.options) if not f.metadata.get("nargs")]
        assert all(f"--{f.name.replace('_', '-')}" in text for f in flags)


def test_an_unexpected_error_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"secret {BAD}\nsecond line")

    monkeypatch.setattr("biddable.commands.check.check", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", "-"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: RuntimeError: secret \\x1b")
    assert "Traceback" not in said
    (report,) = tmp_path.iterdir()
    assert report.name in said
    assert "in broken" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), ""),
        (BrokenPipeError(), ""),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied [system]"),
        (OSError(28, "No space left on device", "a"), "make room on this disk"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out_of_memory"),
        (RecursionError("deep"), "internal_error"),
        (BiddableError("mine", "wrong", ""), "error: wrong [mine]"),
    ],
)
def test_how_errors_end(
    error: BaseException,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def raising(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("biddable.commands.check.check", raising)
    monkeypatch.setattr("biddable.cli.drop_output", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", "-"]) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    err = capsys.readouterr().err
    assert said in err
    assert bool(said) == bool(err)


@pytest.mark.parametrize(
    "args",
    [
        ["check", "\udcff.jsonl"],
        ["chat", "smollm2", "-p", "\udce9"],
        ["train", "a", "--system", "\ud800"],
        ["chat", "smollm2", "-p", "a", "--stop", "\udc80"],
        ["convert", "a\udcff.pt", "--out", "b"],
    ],
)
def test_what_is_no_text_is_refused_before_anything_is_loaded(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 1
    assert "[not_text]" in capsys.readouterr().err
