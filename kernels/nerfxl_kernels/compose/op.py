"""The product of K Segments along each ray (NeRF-XL eq. 5-8): a monoid, folded front to back.

x in front of y, with T = exp(-tau) and A = 1 - T:

    tau = tau_x + tau_y      C = C_x + T_x C_y      D = D_x + T_x D_y
    L = L_x + T_x^2 L_y + 2 T_x (D_y A_x - A_y D_x)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.compose import cpu, reference


def compose(values: Tensor, order: Tensor) -> Tensor:
    """Fold the Segments of every ray in the order in which the ray meets the tiles.

    Parameters
    ----------
    values: [K, N, 6] = (tau, moment, distortion, red, green, blue); a missed tile is all zeros,
        the identity.
    order: [N, K] int64: order[n, i] is the i-th tile along ray n.

    Returns
    -------
    [N, 6], differentiable in values.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    tiles, rays = values.shape[0], values.shape[1]
    if values.shape[2:] != (6,) or order.shape != (rays, tiles):
        raise ValueError(f"compose: values {tuple(values.shape)} with order {tuple(order.shape)}")
    if backend.choose(values) == "reference":
        return reference.compose(values, order)
    out: Tensor = _ComposeCpu.apply(values, order)  # type: ignore[no-untyped-call]
    return out


class _ComposeCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(values, order)
        return cpu.forward(values, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, order = ctx.saved_tensors
        return cpu.backward(values, order, grad.contiguous()), None
