"""The backends a test of a kernel runs on, and tensors that look alike on each of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

GPU = pytest.param("gpu", marks=pytest.mark.gpu)
BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu", GPU])
FAST = pytest.mark.parametrize("backend", ["cpu", GPU])  # what is compared with the reference

COUNTS = pytest.mark.parametrize("count", [0, 1, 63, 1000], ids=lambda n: f"M{n}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform in [0, 1), the same numbers in every dtype (rounded) and on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.rand(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed, otherwise as `random`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), dtype)
