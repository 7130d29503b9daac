"""One thread writes all answers: what waits is decoded together and joins between two tokens."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from biddable.engine.memory import free_bytes
from biddable.errors import BiddableError
from biddable.generation.batch import BATCH_TOKENS, Batch, hold
from biddable.generation.generate import BATCH_ROWS
from biddable.generation.sampler import make_sampler
from biddable.serving.jobs import Failure, Job
from biddable.serving.served import Served

# Requests that wait for a row; the next one is refused.
MOST_WAITING = 256
# Part of the free memory that the keys and values of the rows may take.
MEMORY_SHARE = 0.5


class Lane:
    """The answers of one model that are being written."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.jobs: dict[int, Job] = {}
        self._held = hold(served.model, served.held) if served.held else None
        self._batch = Batch(served.model, self._held)
        self._greedy = make_sampler()

    def join(self, jobs: Sequence[Job]) -> None:
        """Feeds the prompts of some jobs, and takes them in."""
        self.jobs |= {job.number: job for job in jobs}
        self._batch.join([job.order.prompt for job in jobs], [job.number for job in jobs])

    def step(self) -> None:
        """One more token of every answer; those that end with it leave, and those whose client has
        gone."""
        self._leave([number for number, job in self.jobs.items() if job.gone])
        if not self.jobs:
            return
        batch = self._batch
        tokens = self._greedy(batch.logits, ())
        for place, name in enumerate(batch.names):
            if name is None:
                continue
            job, logits = self.jobs[name], batch.logits[place]
            if job.order.sample is not None:
                tokens[place] = job.order.sample(logits[None], [0])[0]
            if job.take(tokens[place], logits):
                self._leave([name])
        if batch:
            batch.step(tokens)

    def fail(self, failure: Failure) -> None:
        """Ends all answers with an error and begins anew."""
        for job in self.jobs.values():
            job.post(failure)
        self.jobs = {}
        self._batch = Batch(self.served.model, self._held)

    def _leave(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.jobs[number]
        self._batch.leave(numbers)


class Decoder:
    """The thread, and the jobs that wait for it.

    Args:
        memory: bytes that the keys and values of all rows may take; None: a share of what is free.

    Attributes:
        ended: no more is written.
    """

    def __init__(self, models: Sequence[Served], memory: int | None = None) -> None:
        self._lanes = {served.name: Lane(served) for served in models}
        self._bytes = {served.name: _bytes_a_token(served.model) for served in models}
        free = min((free_bytes(served.model.device) for served in models), default=0)
        self._memory = int(free * MEMORY_SHARE) if memory is None else memory
        self._waiting: deque[Job] = deque()
        self._awake = threading.Condition()
        self.ended = False
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs without a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return sum(len(lane.jobs) for lane in self._lanes.values())

    @property
    def busy(self) -> bool:
        """Whether an answer is wanted that has not ended."""
        return self.waiting > 0 or self.running > 0

    def submit(self, job: Job) -> None:
        """Has an answer written, which comes through `job.post`.

        Raises:
            Failure: too many wait, or the server ends.
        """
        with self._awake:
            if self.ended:
                raise Failure(503, "the server is ending", code="server_ending")
            if len(self._waiting) >= MOST_WAITING:
                self._waiting = deque(job for job in self._waiting if not job.gone)
            if len(self._waiting) >= MOST_WAITING:
                what = f"{MOST_WAITING} requests wait already; try again in a few seconds"
                raise Failure(429, what, kind="rate_limit_error", code="too_many_waiting")
            self._waiting.append(job)
            self._awake.notify()

    def end(self) -> None:
        """Ends the thread, and every answer with an error."""
        with self._awake:
            self.ended = True
            self._awake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._awake:
                self._awake.wait_for(lambda: self.ended or self.busy)
                if self.ended:
                    break
                coming = self._admit()
            for name, lane in self._lanes.items():
                jobs = [job for job in coming if job.order.served.name == name]
                try:
                    if jobs:
                        lane.join(jobs)
                    lane.step()
                except Exception as error:
                    # Whatever goes wrong in a batch ends its answers, never the thread.
                    lane.fail(_failure_of(error))
        failure = Failure(503, "the server has ended", code="server_ending")
        for job in self._waiting:
            job.post(failure)
        for lane in self._lanes.values():
            lane.fail(failure)

    def _admit(self) -> list[Job]:
        """The jobs that get a row now: as many prompts as one pass takes, so that the answers under
        way are not held up for long, and as the memory has room for."""
        admitted: list[Job] = []
        tokens = 0
        while self._waiting:
            job = self._waiting[0]
            if job.gone:
                self._waiting.popleft()
                continue
            tokens += len(job.order.prompt)
            if (admitted and tokens > BATCH_TOKENS) or not self._has_room([*admitted, job]):
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _has_room(self, coming: Sequence[Job]) -> bool:
        """Whether the rows and these may stand together, each as long as the longest may become."""
        need, rows = 0, 0
        for name, lane in self._lanes.items():
            jobs = [*lane.jobs.values(), *(job for job in coming if job.order.served.name == name)]
            widest = max((len(job.order.prompt) + job.order.limit for job in jobs), default=0)
            need += len(jobs) * widest * self._bytes[name]
            rows += len(jobs)
        return rows == 1 or (rows <= BATCH_ROWS and need <= self._memory)


def _bytes_a_token(model: Any) -> int:
    """Bytes of the keys and values of one token."""
    prefix = hold(model, [0]).prefix
    tensors: list[Tensor] = [*prefix.keys.values(), *prefix.values.values()]
    return sum(tensor.nbytes for tensor in tensors)


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, BiddableError):
        return Failure(400, str(error), code=error.finding.code)
    what = f"internal error while the answer was written: {type(error).__name__}: {error}"
    return Failure(500, what, kind="server_error", code="internal_error")
