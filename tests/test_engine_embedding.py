"""The gradient of the input embedding equals PyTorch's own."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from biddable.engine.embedding import embed


@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    padding=st.none() | st.integers(0, 9),
    passes=st.integers(1, 3),
    tied=st.booleans(),
    trained=st.booleans(),
)
def test_equals_pytorch(
    ids: list[int], padding: int | None, passes: int, tied: bool, trained: bool
) -> None:
    torch.manual_seed(len(ids))
    table = nn.Embedding(10, 4, padding_idx=padding, dtype=torch.float64)
    nn.init.normal_(table.weight)  # the padding row too, as in a loaded model
    table.weight.requires_grad_(trained)
    layer = nn.Linear(4, 10, bias=False, dtype=torch.float64)
    if tied:
        layer.weight = table.weight
    tokens = torch.tensor([ids])
    gradients = []
    for ours in (True, False):
        table.weight.grad = layer.weight.grad = None
        for _ in range(passes):
            hidden = embed(table, tokens) if ours else table(tokens)
            loss = layer(hidden.tanh()).square().sum()
            if loss.requires_grad:
                loss.backward()
        gradients.append([None if p.grad is None else p.grad for p in (table.weight, layer.weight)])
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_more_than_a_table_is_called() -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 3

    table = Scaled(5, 2)
    assert torch.equal(embed(table, torch.tensor([[1, 2]])), table(torch.tensor([[1, 2]])))
