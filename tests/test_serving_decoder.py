"""The decoder's thread: little memory, too many requests, a batch that fails, clients that go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import torch

from biddable.engine.precision import load_model
from biddable.generation.generate import generate
from biddable.models.adapter_files import base_text, weight_sums
from biddable.models.adapters import add_adapter, save_adapter
from biddable.models.base import Base, load_tokenizer, resolve_base
from biddable.models.model_files import model_files
from biddable.serving.decoder import Decoder
from biddable.serving.jobs import Failure, Job, Order, Piece
from biddable.serving.served import Served, load_served
from folders import base_folder

LIMIT = 30
PROMPTS = [[5 + i, 9, 30] for i in range(10)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = base_folder(tmp_path_factory.mktemp("model") / "base")
    (model,) = load_served([folder], False, torch.device("cpu"))
    return model


@pytest.fixture
def decoder(served: Served) -> Iterator[Decoder]:
    """One whose memory is for one row alone."""
    decoder = Decoder([served], memory=0)
    yield decoder
    decoder.end()


def job(served: Served, number: int, prompt: list[int]) -> tuple[Job, Queue[Piece | Failure]]:
    queue: Queue[Piece | Failure] = Queue()
    return Job(number, Order(served, prompt, None, LIMIT), queue.put), queue


def text(queue: Queue[Piece | Failure]) -> str:
    pieces = []
    while not pieces or pieces[-1].finish is None:
        piece = queue.get(timeout=60)
        if isinstance(piece, Failure):
            raise piece
        pieces.append(piece)
    return "".join(piece.text for piece in pieces)


def alone(served: Served, prompt: list[int]) -> str:
    (answer,) = generate(served.model, [prompt], stop_ids=served.stop_ids, max_new_tokens=LIMIT)
    return str(served.tokenizer.decode(answer.ids))


def adapter_run(base: Base, run: Path, seed: int) -> str:
    """A run folder with a random adapter of the base."""
    model = add_adapter(load_model(base, torch.device("cpu")), 4, seed)
    torch.manual_seed(seed)
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    tensors = {name: torch.randn_like(p) * 0.2 for name, p in parameters}
    files = model_files(model, load_tokenizer(base), chat_template=None, stop_ids=[1])
    origin = (str(base.folder), base_text(str(base.folder), weight_sums(base.folder)))
    save_adapter(model, tensors, files, origin, run / "adapter")
    return str(run)


def test_adapters_share_one_copy_of_their_base_and_give_the_answers_of_each_alone(
    tmp_path: Path,
) -> None:
    base = resolve_base(base_folder(tmp_path / "base"))
    runs = [adapter_run(base, tmp_path / name, i) for i, name in enumerate(("one", "two"))]
    models = load_served(runs, True, torch.device("cpu"))
    assert [m.name for m in models] == ["one", "two", "base"]
    plain = dict(models[-1].model.named_parameters())
    for adapted in models[:2]:
        own = {n: p for n, p in adapted.model.named_parameters() if ".lora_" not in n}
        assert own
        assert all(plain[name.replace(".frozen", "")] is p for name, p in own.items())
    decoder = Decoder(models)
    jobs = [job(m, 10 * k + i, PROMPTS[i]) for k, m in enumerate(models) for i in range(5)]
    for one, _ in jobs:
        decoder.submit(one)
    written = [text(queue) for _, queue in jobs]
    decoder.end()
    expected = []
    for folder in (*runs, str(base.folder)):
        (single,) = load_served([folder], False, torch.device("cpu"))
        expected += [alone(single, prompt) for prompt in PROMPTS[:5]]
    assert written == expected
    assert len({*written}) > 5


def test_where_memory_is_for_one_row_the_others_wait_and_too_many_are_refused(
    served: Served, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biddable.serving.decoder.MOST_WAITING", 4)
    jobs = [job(served, i, prompt) for i, prompt in enumerate(PROMPTS)]
    taken, statuses = [], []
    for place, (one, _) in enumerate(jobs):
        try:
            decoder.submit(one)
            taken.append(place)
        except Failure as failure:
            statuses.append(failure.status)
    most = 0
    while decoder.busy:
        most = max(most, decoder.running)
    assert most == 1
    assert 4 <= len(taken) < 10
    assert set(statuses) == {429}
    assert [text(jobs[i][1]) for i in taken] == [alone(served, PROMPTS[i]) for i in taken]


def test_a_place_among_those_that_wait_is_free_when_its_client_goes(
    served: Served, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biddable.serving.decoder.MOST_WAITING", 1)
    accepted = []
    for i in range(20):
        one, queue = job(served, i, PROMPTS[0])
        decoder.submit(one)
        accepted.append(one)
        one.gone = i < 19
    assert text(queue) == alone(served, PROMPTS[0])
    assert len(accepted) == 20


def test_a_batch_that_fails_ends_its_answers_and_no_others(
    served: Served, decoder: Decoder
) -> None:
    bad, bad_queue = job(served, 0, [10**6])
    decoder.submit(bad)
    with pytest.raises(Failure, match="internal error") as failure:
        text(bad_queue)
    assert failure.value.status == 500
    good, queue = job(served, 1, PROMPTS[1])
    decoder.submit(good)
    assert text(queue) == alone(served, PROMPTS[1])


def test_the_end_ends_every_answer_with_an_error(served: Served) -> None:
    decoder = Decoder([served], memory=0)
    jobs = [job(served, i, PROMPTS[0]) for i in range(9)]
    for one, _ in jobs:
        decoder.submit(one)
    decoder.end()
    with pytest.raises(Failure, match="has ended"):
        text(jobs[-1][1])
    with pytest.raises(Failure, match="is ending"):
        decoder.submit(jobs[0][0])
