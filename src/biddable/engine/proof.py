"""The proof before step 1 of how a model may be fed: its examples do not see each other.

Which models that holds for is no list. On the very model two short rows are fed flat, and each
alone through transformers' own attention: what enters the vocabulary head must be the same, and
stay the same where the other row changes. Cross-entropies would not do: over 262,144 words torch's
own is off by 6e-5 in fp32. Rows that short prove nothing about a window or a shared prefix, and a
gradient of the whole model takes long: for these a tiny twin of the model goes through a step.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.attention import NAME
from biddable.engine.beside import feed_on, rely_on_kept
from biddable.engine.head import Head
from biddable.engine.layout import Layout
from biddable.engine.loss import head_logits
from biddable.engine.step import backward_step, feed, plan_for
from biddable.engine.twin import VOCABULARY, small_settings, twin_of
from biddable.errors import BiddableError, first_line

# transformers' plain attention, which honors soft caps, sinks and windows in every model.
STOCK = "eager"
_FORWARD = 1e-5
# Some kinds round as much from one run to the next; leaks were 1e-2 and more.
_GRADIENT = 1e-3
# Half precision rounds more than a leak may change: there the exact bits of isolation decide.
_HALF, _HALF_LEAK = 0.25, 1e-2
_LENGTHS = (13, 9)
# What the forward and backward of a model that cannot be fed so were seen to raise.
MODEL_ERRORS = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError, ImportError,
)  # fmt: skip
# Gradients this much below the largest are zero by nature, such as that of a key's bias.
_NOTHING = 1e-5


@dataclass(frozen=True, slots=True)
class Proof:
    """How a model's rows are fed, and how far that was from each row alone.

    Args:
        name: `flat`, one after another, or `beside` each other.
        error: the largest difference of what enters the head, relative to its largest number.
        prefixes: whether what several rows begin with is fed once.
    """

    name: str
    error: float
    prefixes: bool

    def __str__(self) -> str:
        shared = "; prefixes shared" if self.prefixes else ""
        return f"{self.name}, proven on this model ({self.error:.0e}){shared}"


def prove(model: Any, name: str) -> Proof:
    """Has the model take the first path that is proven on it: flat, else beside each other.

    Args:
        name: of the base, for the message.

    Raises:
        BiddableError: `not_proven`, with what differs on each path.
    """
    faults: list[str] = []
    for attention in (NAME, "sdpa", STOCK):
        path = "flat" if attention == NAME else "beside"
        try:
            error = _forward_error(model, attention)
            why = _fault_of(model, attention, error)
        except MODEL_ERRORS as fault:
            why = f"it cannot be fed so ({first_line(fault)})"
        if not why:
            if path == "beside":
                rely_on_kept(model, _keeps_tokens(*_kind_of(model), attention))
            return Proof(path, error, prefixes=path == "flat")
        faults.append(f"{path}: {why}")
    raise BiddableError(
        "not_proven",
        f"the base {name} ({model.config.model_type}) cannot be trained here, for its rows would "
        f"change each other; {faults[0]}; {faults[-1]}",
        "take a base of another kind; docs/guide/models.md lists kinds that were proven",
    )


def _fault_of(model: Any, attention: str, error: float) -> str:
    """What speaks against a path; nothing where it is proven."""
    if not error <= (_FORWARD if model.dtype == torch.float32 else _HALF):
        return f"what enters its head differs by {error:.0e} from that of each row alone"
    return _fault_of_twin(*_kind_of(model), attention)


def _kind_of(model: Any) -> tuple[Any, Any, str]:
    """The classes of a model and of its configuration, and the small settings of its twin."""
    settings = json.dumps(small_settings(model.config), default=str)
    return type(model), type(model.config), settings


@torch.no_grad()
def _forward_error(model: Any, attention: str) -> float:
    """A path against each row alone on the very model, relative; infinite where a row sees another.

    The model keeps the attention function of the path.
    """
    draw = random.Random(0)
    most = model.get_input_embeddings().weight.shape[0]
    rows = [[draw.randrange(most) for _ in range(n)] for n in _LENGTHS]
    model.set_attn_implementation(STOCK)
    alone = [_alone(model, row) for row in rows]
    _take(model, attention)
    (first, second), cut = rows, len(rows[0]) // 2
    fed, head = feed_flat(model, rows)
    changed, _ = feed_flat(model, [[(i + 1) % most for i in first], second])
    if not _is_same(model, fed[len(first) :], changed[len(first) :]):
        return float("inf")
    hidden = torch.cat([entered for entered, _ in alone])
    logits = torch.cat([given for _, given in alone])
    error = max(relative_error(fed, hidden), relative_error(head_logits(fed, head), logits))
    if attention == NAME:
        return error
    # Nothing but causality keeps what is fed behind a row out of it.
    part, _ = feed_flat(model, [first[:cut], second])
    return max(error, relative_error(part[:cut], fed[:cut]))


def _take(model: Any, attention: str) -> None:
    """Has the model use an attention function, which transformers ignores where it cannot.

    Raises:
        ValueError: it does not.
    """
    model.set_attn_implementation(attention)
    if model.config.get_text_config()._attn_implementation != attention:
        raise ValueError(f"it does not take the attention function {attention}")


def _alone(model: Any, row: list[int]) -> tuple[Tensor, Tensor]:
    """What enters the head (T, D), and the logits (T, V), of one row through transformers alone."""
    entered: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: entered.append(inputs[0])
    )
    try:
        logits = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits
    finally:
        hook.remove()
    return entered[0][0], logits[0]


def feed_flat(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Head]:
    """(T, D) of what enters the head where rows are fed together, each apart; and the head."""
    ids = torch.tensor([[i for row in rows for i in row]], device=model.device)
    places = torch.tensor([[i for row in rows for i in range(len(row))]], device=model.device)
    return feed(model, ids, places, Layout([len(row) for row in rows], [-1] * len(rows)))


def _is_same(model: Any, one: Tensor, other: Tensor) -> bool:
    """To the last bit; experts, whose rows are sorted into one product, to rounding."""
    settings = model.config.get_text_config().to_dict()
    if any("expert" in key for key in settings):
        return relative_error(one, other) <= (
            _FORWARD if model.dtype == torch.float32 else _HALF_LEAK
        )
    return torch.equal(one, other)


def relative_error(one: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest number; not a number where one is none."""
    return float((one - other).abs().max() / other.abs().max())


@cache
def _fault_of_twin(kind: Any, config_class: Any, settings: str, attention: str) -> str:
    """What is wrong with a step of a tiny twin; nothing where it is that of its rows alone."""
    twin = twin_of(kind, config_class.from_dict(json.loads(settings)), STOCK)
    rows = _rows()
    exact = _gradients_alone(twin, rows)
    largest = max(float(grad.abs().max()) for grad in exact.values())
    _take(twin, attention)
    for budget in (10_000, 30):
        twin.zero_grad()
        backward_step(twin, rows, plan_for(twin, rows, budget))
        for key, grad in exact.items():
            own = twin.get_parameter(key).grad
            if grad.abs().max() < _NOTHING * largest:
                continue
            error = float("inf") if own is None else relative_error(own, grad)
            if not error <= _GRADIENT:
                return f"in a tiny model of its kind the gradient of {key} differs by {error:.0e}"
    return ""


@cache
@torch.no_grad()
def _keeps_tokens(kind: Any, config_class: Any, settings: str, attention: str) -> bool:
    """Whether a tiny twin's next tokens follow as well from what it keeps of those before, over
    more of them than its window is long."""
    twin = twin_of(kind, config_class.from_dict(json.loads(settings)), STOCK)
    _take(twin, attention)
    rely_on_kept(twin, True)
    first, second = (list(row.input_ids) for row in _rows()[:2])
    kept: dict[str, Any] = {}
    try:
        for length in range(len(first) // 2, len(first)):
            rows = [first[:length], second[:length]]
            logits, kept = feed_on(twin, rows, kept)
            whole = twin(input_ids=torch.tensor(rows), use_cache=False).logits[:, -1]
            if not (kept and relative_error(logits, whole) <= _GRADIENT):
                return False
    except MODEL_ERRORS:
        return False
    return True


def _rows() -> list[Example]:
    """Ragged rows longer than the twin's window: two begin alike, two do not."""
    draw = random.Random(1)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    common = tokens(18)
    starts = [common + tokens(3), common + tokens(6), tokens(14), tokens(5)]
    return [
        Example([*start, *tokens(n)], [0.0] * len(start) + [draw.choice([0.5, 1.0, 2.0])] * n)
        for start, n in zip(starts, (4, 2, 3, 6), strict=True)
    ]


def _gradients_alone(twin: Any, rows: Sequence[Example]) -> dict[str, Tensor]:
    """The gradient of the rows' loss, each fed alone through transformers' own attention."""
    twin.zero_grad()
    for row in rows:
        logits = twin(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
        targets, weights = torch.tensor(row.input_ids[1:]), torch.tensor(row.weights[1:])
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        torch.autograd.backward((losses * weights).sum())
    return {key: p.grad.clone() for key, p in twin.named_parameters() if p.grad is not None}
