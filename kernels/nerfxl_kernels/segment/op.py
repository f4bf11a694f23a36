"""Volume rendering inside one tile (NeRF-XL eq. 2-8): packed samples -> one Segment per ray.

With tau_i = sigma_i l_i, T_i = exp(-sum_{j<i} tau_j) (local: 1 at the tile's entry) and
w_i = T_i (1 - exp(-tau_i)):

    tau = sum_i tau_i     D = sum_i w_i m_i     C = sum_i w_i c_i
    L = sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 delta_i
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.segment import reference


def segment(
    density: Tensor,
    channels: Tensor,
    length: Tensor,
    middle: Tensor,
    width: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fold the samples of each ray into a Segment.

    Parameters
    ----------
    density: [M], 1 / scene unit, >= 0.
    channels: [M, C], C >= 0: what is summed by weight, such as a colour, a normal or features.
    length: [M], scene units: what density is multiplied by.
    middle, width: [M]: m_i and delta_i of the moment and distortion, ascending along each ray.
    offsets: [P + 1] int64: ray p owns samples offsets[p] to offsets[p + 1].

    Returns
    -------
    values: [P, 3 + C] = (tau, moment, distortion, channels), differentiable in density and
        channels.
    weights: [M], w_i, without gradient.

    Raises
    ------
    ValueError
        If shapes disagree.

    Examples
    --------
    One ray, two samples of optical depth ln 2: weights 1/2 and 1/4.

    >>> half = torch.full((2,), 2.0).log()
    >>> one, at = torch.ones(2), torch.tensor([0.0, 1.0])
    >>> values, weights = segment(half, torch.ones(2, 3), one, at, 0 * one, torch.tensor([0, 2]))
    >>> weights
    tensor([0.5000, 0.2500])
    >>> values[0, 1:4]  # D = 1/4, L = 2 * 1/2 * 1/4 * 1, first channel = 3/4
    tensor([0.2500, 0.2500, 0.7500])

    A second moment of m is the channel m^2, here beside a constant:

    >>> channels = torch.stack([at**2, one], -1)
    >>> values, _ = segment(half, channels, one, at, 0 * one, torch.tensor([0, 2]))
    >>> values[0, 3:]  # 1/2 * 0 + 1/4 * 1, 1/2 + 1/4
    tensor([0.2500, 0.7500])
    """
    count = density.shape[0]
    shapes = (channels.shape, length.shape, middle.shape, width.shape)
    if shapes != ((count, *channels.shape[-1:]), (count,), (count,), (count,)):
        raise ValueError(f"segment: {count} densities with shapes {[tuple(s) for s in shapes]}")
    if backend.choose(density) == "reference":
        return reference.segment(density, channels, length, middle, width, offsets)
    out: tuple[Tensor, Tensor] = _Segment.apply(density, channels, length, middle, width, offsets)  # type: ignore[no-untyped-call]
    return out


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernels = backend.load("segment", inputs[0])
        values, weights, passed = ctx.kernels.forward(*inputs)
        ctx.save_for_backward(*inputs[1:], values, weights, passed)
        ctx.mark_non_differentiable(weights)
        return values, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        grad_density, grad_channels = ctx.kernels.backward(*saved, grads[0].contiguous())
        return grad_density, grad_channels, None, None, None, None
