"""Several ranks come to the weights of one; rows are shared out whole and evenly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import biddable
from biddable.engine.plan import plan_step
from biddable.engine.shares import share_rows
from biddable.storage import is_sound
from folders import base_folder, rows, write_jsonl
from tiny import CONFIGS, Row

HERE = Path(__file__).parent / "helpers"
PYTHONPATH = os.pathsep.join([str(Path(biddable.__file__).parent.parent), str(HERE)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    counts = ["1", "2", "3", "2s", "3s", "2+1", "2+3", "2s+1", "2s+3s", "2+3s"]
    command = [sys.executable, "-W", "error", str(HERE / "rank_fit.py"), str(folder), *counts]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["2", "3", "2s", "3s", "2+1", "2+3", "2s+1", "2s+3s", "2+3s"])
def test_ranks_come_to_the_weights_of_one_process(runs: Path, name: str) -> None:
    one = load_file(runs / "1" / "weights.safetensors")
    many = load_file(runs / name / "weights.safetensors")
    assert one.keys() == many.keys()
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["2", "3", "3s"])
def test_one_log_counts_all_ranks(runs: Path, name: str) -> None:
    def steps(run: str) -> list[dict[str, float]]:
        events = map(json.loads, (runs / run / "log.jsonl").read_text().splitlines())
        return [e for e in events if e["event"] == "step"]

    assert [e["step"] for e in steps(name)] == list(range(1, 11))
    for one, many in zip(steps("1"), steps(name), strict=True):
        assert many["trained_tokens"] == one["trained_tokens"]
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_shards_of_every_architecture_give_the_gradient_of_one_process(tmp_path: Path) -> None:
    file = tmp_path / "laws.jsonl"
    command = [sys.executable, "-W", "error", str(HERE / "rank_laws.py"), str(file)]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, timeout=900
    )
    assert done.returncode == 0, done.stderr
    laws = [json.loads(line) for line in file.read_text().splitlines()]
    assert {f["kind"] for f in laws if f["dtype"] == "fp32"} == {*CONFIGS, "lfm2"}
    for law in laws:
        exact = law["dtype"] != "bf16"
        assert law["gradient"] <= (1e-5 if exact else 0.05), law
        assert law["loss"] <= (1e-6 if exact else 1e-3), law
        assert law["held_out"] <= (1e-6 if exact else 1e-3), law
        # The first rank's micro-batches are those of one process: nothing else may differ.
        assert exact or law["rows"] == "both" or law["gradient"] <= 1e-6, law


def test_adapters_of_every_architecture_get_the_gradient_of_one_process(tmp_path: Path) -> None:
    written = tmp_path / "laws.jsonl"
    command = [sys.executable, "-W", "error", str(HERE / "rank_laws.py"), str(written), "adapters"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, timeout=900
    )
    assert done.returncode == 0, done.stderr
    laws = [json.loads(line) for line in written.read_text().splitlines()]
    assert {law["kind"] for law in laws if law["dtype"] == "fp32"} == {*CONFIGS, "lfm2"}
    assert {law["dtype"] for law in laws} == {"fp32", "bf16", "4 bits"}
    for law in laws:
        half = law["dtype"] == "bf16"
        assert law["gradient"] <= (0.05 if half else 1e-5), law
        assert law["loss"] <= (1e-3 if half else 1e-6), law


@pytest.mark.parametrize("bits", [[], ["--base-bits", "4"]])
def test_an_adapter_of_two_ranks_is_that_of_one_process(tmp_path: Path, bits: list[str]) -> None:
    given = [write_jsonl(tmp_path / "data.jsonl", rows()), "--base", base_folder(tmp_path / "base")]
    given += ["--steps", "4", "--answers", "2", "--lora", "4", "--each", *bits]
    given += ["--device", "cpu", "--precision", "fp32"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", run)):
        command = [*start, "-m", "biddable", "train", *given, "--out", str(tmp_path / name)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=env, timeout=900
        )
        assert done.returncode == 0, done.stderr
    file = Path("data") / "adapter" / "adapter_model.safetensors"
    one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-5, msg=key)
    cards = [json.loads((tmp_path / n / "data/scorecard.json").read_text()) for n in ("one", "two")]
    losses = [card["held_out_loss"]["tuned"] for card in cards]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_sharded_run_gives_the_model_and_the_scorecard_of_one_process(tmp_path: Path) -> None:
    given = [write_jsonl(tmp_path / "data.jsonl", rows()), "--base", base_folder(tmp_path / "base")]
    given += ["--steps", "4", "--answers", "2", "--lr", "1e-3"]
    given += ["--device", "cpu", "--precision", "fp32"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", run)):
        command = [*start, "-m", "biddable", "train", *given, "--shard", "on"]
        command += ["--out", str(tmp_path / name)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=env, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert ("fp32 on cpu, sharded" in done.stderr) == (name == "two")
    one, two = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-5, msg=key)
    cards = [json.loads((tmp_path / n / "scorecard.json").read_text()) for n in ("one", "two")]
    losses = [card["held_out_loss"]["tuned"] for card in cards]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_signal_to_torchrun_has_its_ranks_save_and_leave(tmp_path: Path) -> None:
    data, out = write_jsonl(tmp_path / "data.jsonl", rows()), tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "-m", "biddable", "train", data, "--base", base_folder(tmp_path / "base"),
        "--out", str(out), "--steps", "100000", "--answers", "1",
        "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        agent = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    log = out / "log.jsonl"
    while agent.poll() is None and not (log.exists() and '"event": "step"' in log.read_text()):
        time.sleep(0.1)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait() not in (0, -signal.SIGKILL), said.read_text()
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == "saved", said.read_text()
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    assert checkpoint.name == f"step-{last['step']:06d}"
    assert is_sound(checkpoint)


def row(prefix: int, suffix: int, own: int) -> Row:
    """A row that shares `prefix` tokens with others and then has `suffix` of its own."""
    ids = [7] * prefix + [100 + own] * suffix + [1]
    return Row(ids, [0.0] * (len(ids) - 1) + [1.0])


def test_a_prefix_group_stays_together_where_that_balances() -> None:
    rows = [row(100, 10, n) for n in range(4)] + [row(0, 60, n) for n in (4, 5)]
    assert sorted(share_rows(rows, 2)) == [[0, 1, 2, 3], [4, 5]]


def test_a_group_larger_than_a_fair_share_is_cut() -> None:
    shares = share_rows([row(20, 50, n) for n in range(8)], 4)
    assert [len(s) for s in shares] == [2, 2, 2, 2]


def test_more_ranks_than_rows_leave_some_without() -> None:
    assert sorted(map(len, share_rows([row(0, 5, 1), row(0, 5, 2)], 3))) == [0, 1, 1]
    assert share_rows([row(0, 5, 1)], 1) == [[0]]


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0, 20, 40]), st.integers(1, 60)), min_size=1, max_size=24
    ),
    st.integers(1, 5),
)
def test_each_row_goes_to_one_rank_and_no_rank_gets_more_than_its_part(
    sizes: list[tuple[int, int]], ranks: int
) -> None:
    rows = [row(prefix, suffix, n) for n, (prefix, suffix) in enumerate(sizes)]
    shares = share_rows(rows, ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(rows)))
    tokens = [plan_step([rows[i] for i in share], 10_000).tokens for share in shares]
    whole = plan_step(rows, 10_000)
    largest = max(len(e.input_ids) for e in rows)
    # A list schedule ends at most one unit after the fair end; a cut group pays its prefix again.
    assert max(tokens) <= whole.tokens / ranks + sum(map(len, whole.prefixes)) + 2 * largest + 60
