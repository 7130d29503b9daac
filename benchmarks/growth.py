"""How the time of a step grows: `python -m benchmarks.growth`, a JSON line per setting.

Random ids on the default base. 8 rows of 100 tokens of their own, half of them trained, no common
prefix; then one of rows, prefix length and trained share is changed. The fastest of three steps.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass, replace

from benchmarks.ours import Row, product_rate, useful_flops
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.engine.step import backward_step
from biddable.models.base import resolve_base

OWN, REPEATS = 100, 3


@dataclass(frozen=True)
class Setting:
    """One point of the table."""

    rows: int = 8
    prefix: int = 0
    trained: float = 0.5


SETTINGS = [
    Setting(),
    *(Setting(rows=n) for n in (2, 4, 16)),
    *(Setting(prefix=n) for n in (100, 500, 1500)),
    *(Setting(trained=share) for share in (0.05, 1.0)),
]


def rows_of(setting: Setting) -> list[Row]:
    """Rows with a common beginning and an own end, of which the last share is trained."""
    draw = random.Random(0)
    common = [draw.randrange(1000, 40_000) for _ in range(setting.prefix)]
    count = round(OWN * setting.trained)
    return [
        Row(
            common + [draw.randrange(1000, 40_000) for _ in range(OWN)],
            [0.0] * (setting.prefix + OWN - count) + [1.0] * count,
        )
        for _ in range(setting.rows)
    ]


def main() -> None:
    keep_freed_memory()
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    model = load_model(resolve_base("smollm2"), device, dtype)
    budget = choose_batch_tokens(
        needs_of(model, model.parameters(), 4 * model.num_parameters()), device
    )
    rate = product_rate(dtype, device)
    for setting in [replace(SETTINGS[0]), *SETTINGS]:  # the first warms up
        rows = rows_of(setting)
        plan = plan_step(rows, budget)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            backward_step(model, rows, plan)
            seconds.append(time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
        trained = sum(w > 0 for row in rows for w in row.weights)
        use = useful_flops(model, plan.tokens, trained) / min(seconds) / rate
        figures = {"seconds": min(seconds), "tokens": plan.tokens, "padded": plan.padded_tokens}
        print(json.dumps({**asdict(setting), **figures, "flop_use": round(use, 3)}), flush=True)


if __name__ == "__main__":
    main()
