"""`--precision auto` says what the hardware has, and so the same each time."""

from __future__ import annotations

import pytest
import torch

from biddable.engine.precision import choose_device, choose_dtype
from biddable.errors import BiddableError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "amx_tile": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_follows_from_the_processor(
    has: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert {choose_dtype("auto", CPU) for _ in range(5)} == {dtype}
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("units", [False, True])
def test_a_gpu_that_only_emulates_bf16_has_none(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: units or including_emulation
    )
    expected = torch.bfloat16 if units else torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "CUDA is not available"),
        ("mps", "GPU is not available"),
        ("tpu", "there is no device 'tpu'"),
        ("", "there is no device ''"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(BiddableError, match=said):
        choose_device(name)
