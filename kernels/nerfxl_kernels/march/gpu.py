"""Marching in Triton: count, then write; a program a few rays, its tile rays x bins.

Edges are found in closed form and a row's places by a cumulated sum, so there are no atomics and
the bins are the reference's. A ray's columns begin at its own first bin, since most tiles see but a
part of a ray.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch
from nerfxl_kernels.march.reference import offsets_of
from nerfxl_kernels.march.space import Domain, Path

_RAYS, _BINS = 4, 32  # a warp's tile
_SAMPLES = 256  # a program


def march(
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    bins: int,
    within: tuple[Path, Domain, Tensor] | None = None,
    budget: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.march`."""
    rays = enter.shape[0]
    span = tuple(tensor.detach().contiguous() for tensor in (enter, leave, jitter))
    if within is None:
        space: tuple[Any, ...] = (None,) * 7
        options = {"OPEN": False, "EVEN": False}
    else:
        path, domain, occupied = within
        cells = occupied.contiguous().view(torch.uint8)
        space = (*_arrays(path, domain), cells, cells.shape[0])
        options = _options(path, domain)

    def run(offsets: Tensor, m0: Tensor | None, m1: Tensor | None) -> None:
        grid = (triton.cdiv(rays, block(_RAYS)),)
        tile = {"RAYS": block(_RAYS), "BINS": _BINS}
        arguments = (*span, bins, *space, offsets, m0, m1, rays)
        launch(_march, grid, *arguments, warps=1, **options, **tile)

    counts = enter.new_zeros(rays, dtype=torch.int64)
    run(counts, None, None)
    offsets = offsets_of(counts, budget)
    total = int(offsets[-1])
    m0, m1 = enter.new_empty(total), enter.new_empty(total)
    run(offsets, m0, m1)
    return offsets, m0, m1


def place(
    m0: Tensor, m1: Tensor, offsets: Tensor, path: Path, domain: Domain
) -> tuple[Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.place`."""
    samples = m0.shape[0]
    points, length = m0.new_empty(samples, 3), m0.new_empty(samples)
    # The size is told so that the device is not asked for it.
    ray = torch.repeat_interleave(offsets.diff(), output_size=samples)
    launch(
        _place,
        (triton.cdiv(samples, block(_SAMPLES)),),
        *(m0.contiguous(), m1.contiguous(), ray, *_arrays(path, domain)),
        *(points, length, samples),
        **_options(path, domain),
        SAMPLES=block(_SAMPLES),
    )
    return points, length


def _arrays(path: Path, domain: Domain) -> tuple[Tensor, ...]:
    tensors = (path.origins, path.directions, path.first, path.span)
    numbers = _numbers(domain, path.scale, path.first.dtype, path.first.device)
    return *(tensor.detach().contiguous() for tensor in tensors), numbers


def _options(path: Path, domain: Domain) -> dict[str, bool]:
    return {"OPEN": domain.open, "EVEN": math.isinf(path.scale)}


@lru_cache
def _numbers(domain: Domain, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Centre, 1 / half, c. A tensor, since a float argument of a kernel has 32 bits."""
    numbers = torch.tensor([*domain.centre, 1 / domain.half, scale], dtype=dtype, device="cpu")
    return numbers.to(device)


@triton.jit
def _edge(b, jitter, bins, low, high):
    """Edge b of the lattice, cut to the stretch."""
    position = b.to(jitter.dtype) + jitter
    count = tl.cast(bins, jitter.dtype)
    # In float32 `/` rounds otherwise than torch and numba; div_rn knows no float64.
    edge = tl.div_rn(position, count) if position.dtype == tl.float32 else position / count
    return tl.minimum(tl.maximum(edge, low), high)


@triton.jit
def _distance(s, c, EVEN: tl.constexpr):
    if EVEN:
        t = s
    else:
        e = tl.exp(s)
        t = 0.5 * c * (e - 1 / e)
    return t


@triton.jit
def _coordinate(vectors, p, inside, axis: tl.constexpr):
    return tl.load(vectors + p * 3 + axis, mask=inside, other=0)


@triton.jit
def _geometry(origins, directions, first, span, p, inside):
    """Origins, directions, s_0 and s_1 of rays p."""
    origin = (
        _coordinate(origins, p, inside, 0),
        _coordinate(origins, p, inside, 1),
        _coordinate(origins, p, inside, 2),
    )
    direction = (
        _coordinate(directions, p, inside, 0),
        _coordinate(directions, p, inside, 1),
        _coordinate(directions, p, inside, 2),
    )
    s0 = tl.load(first + p, mask=inside, other=0)
    s1 = tl.load(span + p, mask=inside, other=0)
    return origin, direction, s0, s1


@triton.jit
def _field_point(origin, direction, t, numbers, OPEN: tl.constexpr):
    """Field coordinates at distances t."""
    inverse = tl.load(numbers + 3)
    x = (origin[0] + t * direction[0] - tl.load(numbers)) * inverse
    y = (origin[1] + t * direction[1] - tl.load(numbers + 1)) * inverse
    z = (origin[2] + t * direction[2] - tl.load(numbers + 2)) * inverse
    if OPEN:
        n = tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.maximum(tl.abs(z), 1))
        shrink = (2 - 1 / n) / n
        x, y, z = 0.25 * (x * shrink + 2), 0.25 * (y * shrink + 2), 0.25 * (z * shrink + 2)
    else:
        x, y, z = 0.5 * (x + 1), 0.5 * (y + 1), 0.5 * (z + 1)
    return x, y, z


@triton.jit
def _cell(x, side):
    return tl.minimum(tl.maximum((x * side).to(tl.int32), 0), side - 1).to(tl.int64)


@triton.jit
def _march(
    enter,
    leave,
    jitter,
    bins,
    origins,
    directions,
    first,
    span,
    numbers,
    occupied,
    side,
    offsets,
    m0,
    m1,
    rays,
    OPEN: tl.constexpr,
    EVEN: tl.constexpr,
    RAYS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Without m0, count into `offsets`; else write at the offsets."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    low = tl.load(enter + p, mask=inside, other=0)
    high = tl.load(leave + p, mask=inside, other=0)
    shift = tl.load(jitter + p, mask=inside, other=0)
    wanted = high > low
    if m0 is not None:
        at = tl.load(offsets + p, mask=inside, other=0)
        wanted &= tl.load(offsets + p + 1, mask=inside, other=0) > at
    # One bin early and one late: rounding may move these two, but not the edges below.
    begin = tl.floor(low * bins - shift).to(tl.int32) - 1
    end = tl.ceil(high * bins - shift).to(tl.int32) + 1
    longest = tl.max(tl.where(wanted, end - begin, 0), axis=0)
    low, high, shift, wanted = low[:, None], high[:, None], shift[:, None], wanted[:, None]
    if occupied is not None:
        origin, direction, s0, s1 = _geometry(
            origins, directions, first, span, p[:, None], inside[:, None]
        )
        c = tl.load(numbers + 4)

    count = tl.zeros((RAYS,), tl.int32)
    for start in range(0, longest, BINS):
        b = begin[:, None] + start + tl.arange(0, BINS)[None, :]
        near = _edge(b, shift, bins, low, high)
        far = _edge(b + 1, shift, bins, low, high)
        keep = wanted & (far > near)
        if occupied is not None:
            t = _distance(s0 + 0.5 * (near + far) * s1, c, EVEN)
            x, y, z = _field_point(origin, direction, t, numbers, OPEN)
            cell = (_cell(x, side) * side + _cell(y, side)) * side + _cell(z, side)
            keep &= tl.load(occupied + cell, mask=keep, other=0) != 0
        kept = keep.to(tl.int32)
        if m0 is not None:
            place = at[:, None] + count[:, None] + tl.cumsum(kept, axis=1) - 1
            tl.store(m0 + place, near, mask=keep)
            tl.store(m1 + place, far, mask=keep)
        count += tl.sum(kept, axis=1)
    if m0 is None:
        tl.store(offsets + p, count.to(tl.int64), mask=inside)


@triton.jit
def _place(
    m0,
    m1,
    ray,
    origins,
    directions,
    first,
    span,
    numbers,
    points,
    length,
    count,
    OPEN: tl.constexpr,
    EVEN: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    inside = m < count
    near = tl.load(m0 + m, mask=inside, other=0)
    far = tl.load(m1 + m, mask=inside, other=0)
    p = tl.load(ray + m, mask=inside, other=0)
    origin, direction, s0, s1 = _geometry(origins, directions, first, span, p, inside)
    c = tl.load(numbers + 4)
    size = _distance(s0 + far * s1, c, EVEN) - _distance(s0 + near * s1, c, EVEN)
    tl.store(length + m, size, mask=inside)
    t = _distance(s0 + 0.5 * (near + far) * s1, c, EVEN)
    x, y, z = _field_point(origin, direction, t, numbers, OPEN)
    tl.store(points + m * 3, x, mask=inside)
    tl.store(points + m * 3 + 1, y, mask=inside)
    tl.store(points + m * 3 + 2, z, mask=inside)
