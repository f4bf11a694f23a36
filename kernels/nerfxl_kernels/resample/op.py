"""Importance sampling along rays that are cut into tiles (mip-NeRF 360 sec. 3 and 4, per tile).

The ray's density of samples is p(m) = T_before w(m) + padding, where w are the proposal's weights
inside a tile and T_before its transmittance up to the tile. Tile k holds the stretch
[start_k, end_k] of the cumulated p, known to every rank from K numbers a ray; of the N + 1 edges at
equal steps of the cumulated p it takes those that fall into its stretch, and adds its own faces
where the edges go on in front or behind. So a ray has N samples, one more for each face between
its first and last edge, and a tile in front of the first or behind the last gets none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.resample import reference


def optical_depth(depths: Tensor, offsets: Tensor) -> Tensor:
    """Tau of each ray, the sum of its bins' optical depths: [B], [P + 1] -> [P].

    >>> optical_depth(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 2, 3]))
    tensor([3., 0., 3.])
    """
    return torch.segment_reduce(depths, "sum", offsets=offsets)


def resample(
    m0: Tensor,
    m1: Tensor,
    depth: Tensor,
    offsets: Tensor,
    before: Tensor,
    stretch: Tensor,
    jitter: Tensor,
    samples: int,
    padding: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Place samples where the proposal sees light end.

    Parameters
    ----------
    m0, m1, depth: [B], the proposal's bins and their optical depths sigma_i l_i.
    offsets: [P + 1] int64, the bins of each ray.
    before: [P], the proposal's transmittance in front of the tile.
    stretch: [P, 2] in [0, 1], the tile's part of the ray's cumulated p, as a share of the whole.
    jitter: [P] in [0, 1): edge j lies at (j + jitter) / (samples + 1).
    samples: N, of a whole ray.
    padding: the constant added to p, before p is normalised.

    Returns
    -------
    offsets [P + 1] int64 and ends m0, m1 [M] of contiguous samples.

    Raises
    ------
    ValueError
        If samples < 1 or padding <= 0.
    """
    if samples < 1 or padding <= 0:
        raise ValueError(f"resample: samples {samples}, padding {padding}; expected positive")
    inputs = (m0, m1, depth, offsets, before, stretch, jitter)
    kernels = backend.load("resample", m0)
    drawn: tuple[Tensor, Tensor, Tensor] = kernels.resample(*inputs, samples, padding)
    return drawn


def interlevel(
    depth: Tensor,
    m0: Tensor,
    m1: Tensor,
    offsets: Tensor,
    sample_weights: Tensor,
    sample_m0: Tensor,
    sample_m1: Tensor,
    sample_offsets: Tensor,
    exit_tau: Tensor,
    scale: Tensor,
) -> Tensor:
    """The proposal's loss (mip-NeRF 360 eq. 13), local to the tile.

        sum_rays scale sum_i max(0, w_i - bound_i)^2 / (w_i + 1e-7)

    bound_i sums the proposal's weights of all bins that overlap sample i. What lies behind the
    tile counts as one more sample, of weight exp(-exit_tau), with the proposal's transmittance
    as its bound: without it a proposal could stay opaque where the field no longer is, and hide
    the tiles behind.

    Parameters
    ----------
    depth, m0, m1: [B]; offsets: [P + 1]: the proposal's optical depths and bins.
    sample_weights, sample_m0, sample_m1: [M]; sample_offsets: [P + 1]: the field's, constants.
    exit_tau: [P], the field's -log transmittance. scale: [P].

    Returns
    -------
    Scalar, differentiable in depth.
    """
    constants = (sample_weights, sample_m0, sample_m1, sample_offsets, exit_tau, scale)
    inputs = (depth, m0, m1, offsets, *(tensor.detach() for tensor in constants))
    if backend.choose(depth) == "reference":
        return reference.interlevel(*inputs)
    out: Tensor = _Interlevel.apply(*inputs)  # type: ignore[no-untyped-call]
    return out


class _Interlevel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        loss, grad_depth = backend.load("resample", inputs[0]).interlevel(*inputs)
        ctx.save_for_backward(grad_depth)
        total: Tensor = loss.sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (grad_depth,) = ctx.saved_tensors
        return grad * grad_depth, *(None,) * 9
