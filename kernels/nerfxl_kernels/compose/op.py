"""The product of K Segments along each ray (NeRF-XL eq. 5-8): a monoid, folded front to back.

x in front of y, with T = exp(-tau) and A = 1 - T:

    tau = tau_x + tau_y      C = C_x + T_x C_y      D = D_x + T_x D_y
    L = L_x + T_x^2 L_y + 2 T_x (D_y A_x - A_y D_x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.compose import reference


def compose(values: Tensor, order: Tensor, *, own: Sequence[int] | None = None) -> Tensor:
    """Fold the Segments of every ray in the order in which the ray meets the tiles.

    Parameters
    ----------
    values: [K, N, 3 + C] = (tau, moment, distortion, channels), C >= 0; a missed tile is all
        zeros, the identity.
    order: [N, K] int64: order[n, i] is the i-th tile along ray n.
    own: the tiles whose gradient is wanted, all unless given. What lies in front of a tile and
        behind it is constant then: the gradient of the others is exactly zero.

    Returns
    -------
    [N, 3 + C], differentiable in values.

    Raises
    ------
    ValueError
        If shapes disagree, or a tile of `own` is none of the K.

    Examples
    --------
    A tile of optical depth ln 2 hides half of the channel behind it:

    >>> values = torch.zeros(2, 1, 4)
    >>> values[:, 0, 0] = torch.tensor(2.0).log()
    >>> values[:, 0, 3] = torch.tensor([0.25, 0.5])
    >>> compose(values, torch.tensor([[1, 0]]))[0, 3]  # 1/2 + 1/2 * 1/4
    tensor(0.6250)
    """
    tiles = values.shape[0]
    if values.ndim != 3 or values.shape[2] < 3 or order.shape != (values.shape[1], tiles):
        raise ValueError(f"compose: values {tuple(values.shape)} with order {tuple(order.shape)}")
    mine = tuple(range(tiles)) if own is None else tuple(own)
    if not all(0 <= tile < tiles for tile in mine):
        raise ValueError(f"compose: found own {mine}, expected tiles of 0 to {tiles - 1}")
    if backend.choose(values) == "reference":
        return reference.compose(values, order, mine)
    out: Tensor = _Compose.apply(values, order, mine)  # type: ignore[no-untyped-call]
    return out


def transmittance(tau: Tensor, order: Tensor) -> Tensor:
    """What passes all tiles in front of each one: exp(-sum of their tau).

    Times exp(-tau) it is what passes the tile too. For early termination, and for sharing out a
    ray's samples among its tiles.

    Parameters
    ----------
    tau: [K, N].
    order: [N, K] int64, as of `compose`.

    Returns
    -------
    [K, N], by tile as tau is, without gradient.

    Raises
    ------
    ValueError
        If shapes disagree.

    Examples
    --------
    >>> tau = torch.tensor([[2.0], [4.0]]).log()
    >>> transmittance(tau, torch.tensor([[1, 0]]))  # tile 1 is in front, and lets 1/4 pass
    tensor([[0.2500],
            [1.0000]])
    """
    if tau.ndim != 2 or order.shape != (tau.shape[1], tau.shape[0]):
        raise ValueError(f"transmittance: tau {tuple(tau.shape)}, order {tuple(order.shape)}")
    out: Tensor = backend.load("compose", tau).transmittance(tau.detach(), order)
    return out


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor, own: tuple[int, ...]) -> Tensor:
        ctx.kernels, ctx.own = backend.load("compose", values), own
        out, front = ctx.kernels.forward(values, order)
        ctx.save_for_backward(values, order, front)
        composed: Tensor = out
        return composed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.kernels.backward(*ctx.saved_tensors, grad.contiguous(), ctx.own), None, None
