"""The Segment product in Triton: a program a block of rays, which meet their tiles in order."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch, opacity

_RAYS = 32  # a program of one warp: the tiles of a ray follow each other, so rays are spread wide
_WIDEST = 16  # channels at a time


def forward(values: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N, 3 + C] and [N, K] -> product [N, 3 + C].

    And [N, K, 2], for backward: tau and moment in front of the i-th tile of each ray.
    """
    tiles, rays, width = values.shape
    out, front = values.new_empty(rays, width), values.new_empty(rays, tiles, 2)
    constants = _constants(width - 3)
    launch(
        _forward,
        (triton.cdiv(rays, block(_RAYS)), max(1, triton.cdiv(width - 3, constants["WIDTH"]))),
        *(values.detach().contiguous(), order.contiguous(), out, front, rays, tiles),
        warps=1,
        **constants,
    )
    return out, front


def backward(
    values: Tensor, order: Tensor, front: Tensor, grad: Tensor, own: tuple[int, ...]
) -> Tensor:
    """Gradient of values [K, N, 3 + C] from that of the product; zero but for the tiles `own`."""
    tiles, rays, width = values.shape
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    launch(
        _backward,
        (triton.cdiv(rays, block(_RAYS)),),
        *(values.detach().contiguous(), order.contiguous(), front, grad),
        *(_flags(own, tiles, values.device), out, rays, tiles),
        warps=1,
        **_constants(width - 3),
    )
    return out


def transmittance(tau: Tensor, order: Tensor) -> Tensor:
    """See `nerfxl_kernels.compose.op.transmittance`."""
    out = torch.empty_like(tau, memory_format=torch.contiguous_format)
    tiles, rays = tau.shape
    launch(
        _transmittance,
        (triton.cdiv(rays, block(_RAYS)),),
        *(tau.contiguous(), order.contiguous(), out, rays, tiles),
        warps=1,
        RAYS=block(_RAYS),
    )
    return out


def _constants(channels: int) -> dict[str, int]:
    width = min(_WIDEST, triton.next_power_of_2(max(1, channels)))
    return {"C": channels, "WIDTH": width, "RAYS": block(_RAYS)}


@lru_cache
def _flags(own: tuple[int, ...], tiles: int, device: torch.device) -> Tensor:
    """Which tiles are owned, [K], made once: a copy to the device waits for it."""
    chosen = set(own)
    return torch.tensor([tile in chosen for tile in range(tiles)], dtype=torch.int32).to(device)


@triton.jit
def _forward(
    values,
    order,
    out,
    front,
    rays,
    tiles,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    RAYS: tl.constexpr,
):
    """Programs along the second axis of the grid share out the channels; the first has the rest."""
    n = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = n < rays
    used = real[:, None] & (c < C)[None, :]
    tau = tl.zeros((RAYS,), values.dtype.element_ty)
    moment, distortion = tau, tau
    channels = tl.zeros((RAYS, WIDTH), values.dtype.element_ty)
    for i in range(tiles):
        place = n * tiles + i
        if tl.program_id(1) == 0:
            tl.store(front + place * 2, tau, mask=real)
            tl.store(front + place * 2 + 1, moment, mask=real)
        k = tl.load(order + place, mask=real, other=0)
        y = values + (k * rays + n) * (3 + C)
        tau_y = tl.load(y, mask=real, other=0)
        moment_y = tl.load(y + 1, mask=real, other=0)
        distortion_y = tl.load(y + 2, mask=real, other=0)
        channels_y = tl.load(y[:, None] + 3 + c[None, :], mask=used, other=0)
        t = tl.exp(-tau)
        cross = moment_y * opacity(tau) - opacity(tau_y) * moment
        distortion += t * (t * distortion_y + 2 * cross)
        moment += t * moment_y
        channels += t[:, None] * channels_y
        tau += tau_y
    row = out + n * (3 + C)
    if tl.program_id(1) == 0:
        tl.store(row, tau, mask=real)
        tl.store(row + 1, moment, mask=real)
        tl.store(row + 2, distortion, mask=real)
    tl.store(row[:, None] + 3 + c[None, :], channels, mask=used)


@triton.jit
def _backward(
    values,
    order,
    front,
    grad,
    own,
    out,
    rays,
    tiles,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    RAYS: tl.constexpr,
):
    """Reverse mode, back to front: g_tau and g_moment are those of what is in front of a tile."""
    n = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    real = n < rays
    g = grad + n * (3 + C)
    g_tau = tl.load(g, mask=real, other=0)
    g_moment = tl.load(g + 1, mask=real, other=0)
    g_distortion = tl.load(g + 2, mask=real, other=0)
    for step in range(tiles):
        place = n * tiles + (tiles - 1 - step)
        tau_x = tl.load(front + place * 2, mask=real, other=0)
        moment_x = tl.load(front + place * 2 + 1, mask=real, other=0)
        k = tl.load(order + place, mask=real, other=0)
        mine = tl.load(own + k, mask=real, other=0) != 0
        y = values + (k * rays + n) * (3 + C)
        g_y = out + (k * rays + n) * (3 + C)
        tau_y = tl.load(y, mask=real, other=0)
        moment_y = tl.load(y + 1, mask=real, other=0)
        distortion_y = tl.load(y + 2, mask=real, other=0)
        t, opacity_x, opacity_y = tl.exp(-tau_x), opacity(tau_x), opacity(tau_y)
        g_cross = 2 * t * g_distortion
        g_tau_y = g_tau - g_cross * tl.exp(-tau_y) * moment_x
        tl.store(g_y, tl.where(mine, g_tau_y, 0), mask=real)
        tl.store(g_y + 1, tl.where(mine, t * g_moment + g_cross * opacity_x, 0), mask=real)
        tl.store(g_y + 2, tl.where(mine, t * t * g_distortion, 0), mask=real)
        shade = g_moment * moment_y
        for lowest in range(0, C, WIDTH):
            c = lowest + tl.arange(0, WIDTH)[None, :]
            used = real[:, None] & (c < C)
            g_c = tl.load(g[:, None] + 3 + c, mask=used, other=0)
            shade += tl.sum(g_c * tl.load(y[:, None] + 3 + c, mask=used, other=0), axis=1)
            tl.store(g_y[:, None] + 3 + c, tl.where(mine[:, None], t[:, None] * g_c, 0), mask=used)
        cross = moment_y * opacity_x - opacity_y * moment_x
        g_tau -= t * shade + g_cross * (t * distortion_y + cross - moment_y * t)
        g_moment -= g_cross * opacity_y


@triton.jit
def _transmittance(tau, order, out, rays, tiles, RAYS: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    real = n < rays
    in_front = tl.zeros((RAYS,), tau.dtype.element_ty)
    for i in range(tiles):
        k = tl.load(order + n * tiles + i, mask=real, other=0)
        tl.store(out + k * rays + n, tl.exp(-in_front), mask=real)
        in_front += tl.load(tau + k * rays + n, mask=real, other=0)
