"""The Segment product in Triton: a program a block of rays, front to back."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch, opacity

_RAYS = 32  # a program of one warp: a ray's Segments follow each other, so rays are spread wide
_WIDEST = 16  # channels at a time


def forward(values: Tensor) -> tuple[Tensor, Tensor]:
    """[D, N, 3 + C] -> product [N, 3 + C].

    And [D, N, 2], for backward: tau and moment in front of each Segment.
    """
    count, rays, width = values.shape
    out, front = values.new_empty(rays, width), values.new_empty(count, rays, 2)
    constants = _constants(width - 3)
    launch(
        _forward,
        (triton.cdiv(rays, block(_RAYS)), max(1, triton.cdiv(width - 3, constants["WIDTH"]))),
        *(values.detach().contiguous(), out, front, rays, count),
        warps=1,
        **constants,
    )
    return out, front


def backward(values: Tensor, front: Tensor, grad: Tensor) -> Tensor:
    """Gradient of values [D, N, 3 + C] from that of the product."""
    count, rays, width = values.shape
    out = values.new_empty(values.shape)
    launch(
        _backward,
        (triton.cdiv(rays, block(_RAYS)),),
        *(values.detach().contiguous(), front, grad, out, rays, count),
        warps=1,
        **_constants(width - 3),
    )
    return out


def _constants(channels: int) -> dict[str, int]:
    width = min(_WIDEST, triton.next_power_of_2(max(1, channels)))
    return {"C": channels, "WIDTH": width, "RAYS": block(_RAYS)}


@triton.jit
def _forward(
    values,
    out,
    front,
    rays: tl.int64,  # there may be more than 2^31 places
    count,
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
    for i in range(count):
        place = i * rays + n
        if tl.program_id(1) == 0:
            tl.store(front + place * 2, tau, mask=real)
            tl.store(front + place * 2 + 1, moment, mask=real)
        y = values + place * (3 + C)
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
    front,
    grad,
    out,
    rays: tl.int64,  # there may be more than 2^31 places
    count,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    RAYS: tl.constexpr,
):
    """Reverse mode, back to front: g_tau and g_moment are those of what lies in front."""
    n = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    real = n < rays
    g = grad + n * (3 + C)
    g_tau = tl.load(g, mask=real, other=0)
    g_moment = tl.load(g + 1, mask=real, other=0)
    g_distortion = tl.load(g + 2, mask=real, other=0)
    for step in range(count):
        place = (count - 1 - step) * rays + n
        tau_x = tl.load(front + place * 2, mask=real, other=0)
        moment_x = tl.load(front + place * 2 + 1, mask=real, other=0)
        y = values + place * (3 + C)
        g_y = out + place * (3 + C)
        tau_y = tl.load(y, mask=real, other=0)
        moment_y = tl.load(y + 1, mask=real, other=0)
        distortion_y = tl.load(y + 2, mask=real, other=0)
        t, opacity_x, opacity_y = tl.exp(-tau_x), opacity(tau_x), opacity(tau_y)
        g_cross = 2 * t * g_distortion
        tl.store(g_y, g_tau - g_cross * tl.exp(-tau_y) * moment_x, mask=real)
        tl.store(g_y + 1, t * g_moment + g_cross * opacity_x, mask=real)
        tl.store(g_y + 2, t * t * g_distortion, mask=real)
        shade = g_moment * moment_y
        for lowest in range(0, C, WIDTH):
            c = lowest + tl.arange(0, WIDTH)[None, :]
            used = real[:, None] & (c < C)
            g_c = tl.load(g[:, None] + 3 + c, mask=used, other=0)
            shade += tl.sum(g_c * tl.load(y[:, None] + 3 + c, mask=used, other=0), axis=1)
            tl.store(g_y[:, None] + 3 + c, t[:, None] * g_c, mask=used)
        cross = moment_y * opacity_x - opacity_y * moment_x
        g_tau -= t * shade + g_cross * (t * distortion_y + cross - moment_y * t)
        g_moment -= g_cross * opacity_y
