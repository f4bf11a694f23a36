"""Sparse Adam in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adam(
    parameter: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See `nerfxl_kernels.adam.op.adam`."""
    b1, b2 = betas
    touched = grad != 0
    new_first = b1 * first + (1 - b1) * grad
    new_second = b2 * second + (1 - b2) * grad * grad
    scale = rate / (1 - b1**step)
    move = scale * new_first / ((new_second / (1 - b2**step)).sqrt() + eps)
    parameter.copy_(torch.where(touched, parameter - move, parameter))
    first.copy_(torch.where(touched, new_first, first))
    second.copy_(torch.where(touched, new_second, second))
    grad.zero_()
