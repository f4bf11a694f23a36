"""The product of D Segments along each ray (NeRF-XL eq. 5-8): a monoid, folded front to back.

x in front of y, with T = exp(-tau) and A = 1 - T:

    tau = tau_x + tau_y      C = C_x + T_x C_y      D = D_x + T_x D_y
    L = L_x + T_x^2 L_y + 2 T_x (D_y A_x - A_y D_x)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.compose import reference


def compose(values: Tensor) -> Tensor:
    """Fold the Segments of every ray, front to back.

    Parameters
    ----------
    values: [D, N, 3 + C] = (tau, moment, distortion, channels), C >= 0; values[i, n] is the i-th
        Segment along ray n, and all zeros, the identity, where there is none.

    Returns
    -------
    [N, 3 + C], differentiable in values; the identity if D = 0.

    Raises
    ------
    ValueError
        If values are not of that shape.

    Examples
    --------
    A Segment of optical depth ln 2 hides half of the channel behind it:

    >>> values = torch.zeros(2, 1, 4)
    >>> values[:, 0, 0] = torch.tensor(2.0).log()
    >>> values[:, 0, 3] = torch.tensor([0.5, 0.25])
    >>> compose(values)[0, 3]  # 1/2 + 1/2 * 1/4
    tensor(0.6250)
    """
    if values.ndim != 3 or values.shape[2] < 3:
        raise ValueError(f"compose: found values {tuple(values.shape)}, expected [D, N, 3 + C]")
    if backend.choose(values) == "reference":
        return reference.compose(values)
    out: Tensor = _Compose.apply(values)  # type: ignore[no-untyped-call]
    return out


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.kernels = backend.load("compose", values)
        out, front = ctx.kernels.forward(values)
        ctx.save_for_backward(values, front)
        composed: Tensor = out
        return composed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gradient: Tensor = ctx.kernels.backward(*ctx.saved_tensors, grad.contiguous())
        return gradient
