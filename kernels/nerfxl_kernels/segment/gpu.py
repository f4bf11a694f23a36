"""Segments in Triton: a program a few rays, which it walks in chunks of samples.

Sums along a ray are scans inside a chunk, and carried from one chunk to the next.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch, opacity

_RAYS = 4  # a program
_CHUNK = 32  # samples of each ray at a time: one warp a ray
_WIDEST = 16  # channels at a time


def forward(
    density: Tensor,
    channels: Tensor,
    length: Tensor,
    middle: Tensor,
    width: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values [P, 3 + C], weights [M], and transmittance [M] behind each sample, for backward."""
    count, each = channels.shape
    rays = offsets.shape[0] - 1
    values = density.new_empty(rays, 3 + each)
    weights, passed = density.new_empty(count), density.new_empty(count)
    constants = _constants(each)
    launch(
        _forward,
        (triton.cdiv(rays, constants["RAYS"]), max(1, triton.cdiv(each, constants["WIDTH"]))),
        *_contiguous(density, channels, length, middle, width, offsets),
        *(values, weights, passed, rays),
        **constants,
    )
    return values, weights, passed


def backward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of density [M] and channels [M, C] from that of values [P, 3 + C].

    inputs: those of `forward` but for density, what it returned, and the gradient of values.
    """
    channels, length, offsets = inputs[0], inputs[1], inputs[4]
    grad_density, grad_channels = (
        torch.empty_like(like, memory_format=torch.contiguous_format) for like in (length, channels)
    )
    rays = offsets.shape[0] - 1
    constants = _constants(channels.shape[1])
    launch(
        _backward,
        (triton.cdiv(rays, constants["RAYS"]),),
        *_contiguous(*inputs),
        *(grad_density, grad_channels, rays),
        **constants,
    )
    return grad_density, grad_channels


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().contiguous() for tensor in tensors)


def _constants(each: int) -> dict[str, int]:
    width = min(_WIDEST, triton.next_power_of_2(max(1, each)))
    return {"C": each, "WIDTH": width, "RAYS": block(_RAYS), "CHUNK": _CHUNK}


@triton.jit
def _before(x):
    """Sums over the columns in front of each one, [R, S], none of them found as a difference."""
    column = tl.broadcast_to(tl.arange(0, x.shape[1])[None, :], x.shape)
    shifted = tl.gather(x, tl.maximum(column - 1, 0), axis=1)
    return tl.cumsum(tl.where(column > 0, shifted, 0), axis=1)


@triton.jit
def _forward(
    density,
    channels,
    length,
    middle,
    width,
    offsets,
    values,
    weights,
    passed,
    rays,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    RAYS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Programs along the second axis of the grid share out the channels; the first has the rest."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = p < rays
    start = tl.load(offsets + p, mask=real, other=0)
    stop = tl.load(offsets + p + 1, mask=real, other=0)
    column = tl.arange(0, CHUNK)[None, :]
    tau = tl.zeros((RAYS,), density.dtype.element_ty)
    opaque, moment, distortion = tau, tau, tau
    sums = tl.zeros((RAYS, WIDTH), density.dtype.element_ty)
    for at in range(0, tl.max(stop - start), CHUNK):
        i = start[:, None] + at + column
        inside = i < stop[:, None]
        depth = tl.load(density + i, mask=inside, other=0)
        depth *= tl.load(length + i, mask=inside, other=0)
        m = tl.load(middle + i, mask=inside, other=0)
        delta = tl.load(width + i, mask=inside, other=0)
        in_front = tau[:, None] + _before(depth)
        w = tl.exp(-in_front) * opacity(depth)
        if tl.program_id(1) == 0:
            tl.store(weights + i, w, mask=inside)
            tl.store(passed + i, tl.exp(-(in_front + depth)), mask=inside)
        # Pairs (j < i), counted twice.
        apart = m * (opaque[:, None] + _before(w)) - (moment[:, None] + _before(w * m))
        distortion += tl.sum(2 * w * apart + w * w * delta / 3, axis=1)
        tau += tl.sum(depth, axis=1)
        opaque += tl.sum(w, axis=1)
        moment += tl.sum(w * m, axis=1)
        used = inside[:, :, None] & (c < C)[None, None, :]
        value = tl.load(channels + i[:, :, None] * C + c[None, None, :], mask=used, other=0)
        sums += tl.sum(w[:, :, None] * value, axis=1)
    row = values + p * (3 + C)
    if tl.program_id(1) == 0:
        tl.store(row, tau, mask=real)
        tl.store(row + 1, moment, mask=real)
        tl.store(row + 2, distortion, mask=real)
    tl.store(row[:, None] + 3 + c[None, :], sums, mask=real[:, None] & (c < C)[None, :])


@triton.jit
def _backward(
    channels,
    length,
    middle,
    width,
    offsets,
    values,
    weights,
    passed,
    grad,
    grad_density,
    grad_channels,
    rays,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    RAYS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Back to front, the columns of a chunk too; the formula is told in `cpu`."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    real = p < rays
    start = tl.load(offsets + p, mask=real, other=0)
    stop = tl.load(offsets + p + 1, mask=real, other=0)
    row = p * (3 + C)
    opaque = opacity(tl.load(values + row, mask=real, other=0))
    moment = tl.load(values + row + 1, mask=real, other=0)
    g_tau = tl.load(grad + row, mask=real, other=0)[:, None]
    g_moment = tl.load(grad + row + 1, mask=real, other=0)[:, None]
    g_distortion = tl.load(grad + row + 2, mask=real, other=0)[:, None]
    column = tl.arange(0, CHUNK)[None, :]
    behind = tl.zeros((RAYS,), values.dtype.element_ty)
    opaque_behind, moment_behind = behind, behind
    for at in range(0, tl.max(stop - start), CHUNK):
        i = stop[:, None] - 1 - at - column
        inside = i >= start[:, None]
        w = tl.load(weights + i, mask=inside, other=0)
        m = tl.load(middle + i, mask=inside, other=0)
        delta = tl.load(width + i, mask=inside, other=0)
        pull = m * (opaque[:, None] - 2 * (opaque_behind[:, None] + _before(w)))
        pull -= moment[:, None] - 2 * (moment_behind[:, None] + _before(w * m))
        q = g_moment * m + g_distortion * (2 * pull + 2 * w * delta / 3)
        for lowest in range(0, C, WIDTH):
            c = lowest + tl.arange(0, WIDTH)
            used = inside[:, :, None] & (c < C)[None, None, :]
            place = i[:, :, None] * C + c[None, None, :]
            at_row = grad + row[:, None] + 3 + c[None, :]
            g = tl.load(at_row, mask=real[:, None] & (c < C)[None, :], other=0)[:, None, :]
            q += tl.sum(g * tl.load(channels + place, mask=used, other=0), axis=2)
            tl.store(grad_channels + place, w[:, :, None] * g, mask=used)
        left = tl.load(passed + i, mask=inside, other=0)
        grad_depth = left * q - (behind[:, None] + _before(w * q)) + g_tau
        scale = tl.load(length + i, mask=inside, other=0)
        tl.store(grad_density + i, scale * grad_depth, mask=inside)
        behind += tl.sum(w * q, axis=1)
        opaque_behind += tl.sum(w, axis=1)
        moment_behind += tl.sum(w * m, axis=1)
