"""Hash encoding in Triton: a program a level and block of points, the level slow.

So one level's table stays in the L2 cache while all points pass it. Features are stored one after
the other, [L F, M], so that neighbouring threads write neighbouring words: what is returned is the
transposed view. Inside a block features are the fastest axis, so that a vertex is one wide load,
and in backward one vector atomic (the order of whose sums is not fixed).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch

_POINTS = 256  # a program


def forward(points: Tensor, table: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Features [M, L F] of points [M, 3]."""
    levels, _, features = table.shape
    out = points.new_empty(levels * features, points.shape[0]).T
    _by_level(_forward, points, table, cells, table.shape, out)
    return out


def backward(points: Tensor, grad: Tensor, cells: tuple[int, ...], grad_table: Tensor) -> None:
    """Add the gradient [M, L F] of the features to grad_table [L, T, F]."""
    _by_level(_backward, points, grad_table, cells, grad_table.shape, grad)


def _by_level(
    kernel: Any,
    points: Tensor,
    table: Tensor,
    cells: tuple[int, ...],
    shape: torch.Size,
    features: Tensor,
) -> None:
    grid = (triton.cdiv(points.shape[0], block(_POINTS)), shape[0])
    launch(kernel, grid, *_arguments(points, table, cells, features), **_constants(shape[2]))


def backward_points(points: Tensor, table: Tensor, grad: Tensor, cells: tuple[int, ...]) -> Tensor:
    """The gradient [M, 3] of the points from that of the features [M, L F]; 0 where clamped."""
    out = torch.empty_like(points, memory_format=torch.contiguous_format)
    levels, _, features = table.shape
    launch(
        _backward_points,
        (triton.cdiv(points.shape[0], block(_POINTS)),),
        *_arguments(points, table, cells, grad),
        out,
        levels,
        **_constants(features),
    )
    return out


def _arguments(
    points: Tensor, table: Tensor, cells: tuple[int, ...], features: Tensor
) -> tuple[Any, ...]:
    rows = table.shape[1]
    strides = (*features.stride(), rows * table.shape[2])
    lattice = lattice_of(cells, rows, points.device)
    return points.detach().contiguous(), table, lattice, features, points.shape[0], *strides


def _constants(features: int) -> dict[str, int]:
    return {"F": features, "WIDTH": triton.next_power_of_2(features), "POINTS": block(_POINTS)}


@lru_cache
def lattice_of(cells: tuple[int, ...], rows: int, device: torch.device) -> Tensor:
    """How a vertex (i, j, k) finds its row, [L, 4]: n, factors of j and k, mask; -1 where dense.

    Dense levels add i, side j and side^2 k; the others xor i, p1 j and p2 k, and mask the result.
    """
    found = []
    for n in cells:
        side = n + 1
        dense = side**3 <= rows
        found.append((n, side, side**2, -1) if dense else (n, 2654435761, 805459861, rows - 1))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 4).to(device)


@triton.jit
def _cell(points, m, inside, axis: tl.constexpr, n):
    """Cell and share of the way through it, along one axis: [POINTS] each."""
    x = tl.load(points + m * 3 + axis, mask=inside, other=0)
    edge = n.to(x.dtype)
    position = tl.minimum(tl.maximum(x, 0), 1) * edge
    corner = tl.maximum(tl.minimum(position.to(tl.int32), n.to(tl.int32) - 1), 0)
    return corner, position - corner.to(x.dtype)


@triton.jit
def locate(lattice, level, points, m, inside):
    """Where points lie on a level: its row of the lattice, corners and shares by axis."""
    n = tl.load(lattice + level * 4)
    factors = (tl.load(lattice + level * 4 + 1), tl.load(lattice + level * 4 + 2))
    mask = tl.load(lattice + level * 4 + 3)
    i, u = _cell(points, m, inside, 0, n)
    j, v = _cell(points, m, inside, 1, n)
    k, w = _cell(points, m, inside, 2, n)
    return n, factors[0], factors[1], mask, i, j, k, u, v, w


@triton.jit
def row_of(i, j, k, factor_j, factor_k, mask):
    """Row of a vertex. 32 bits may wrap around: only low bits count where vertices share rows."""
    x = i.to(tl.uint32)
    y = j.to(tl.uint32) * factor_j.to(tl.uint32)
    z = k.to(tl.uint32) * factor_k.to(tl.uint32)
    return tl.where(mask < 0, x + y + z, (x ^ y ^ z) & mask.to(tl.uint32)).to(tl.int64)


@triton.jit
def _share(bit: tl.constexpr, u):
    """The share of the near vertex (bit 0) or the far one (bit 1) along one axis."""
    return u if bit else 1 - u


@triton.jit
def _forward(
    points,
    table,
    lattice,
    out,
    count,
    stride_m,
    stride_c,
    level_size,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    POINTS: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    level = tl.program_id(1).to(tl.int64)
    f = tl.arange(0, WIDTH)[None, :]
    inside = m < count
    wanted = inside[:, None] & (f < F)
    _, factor_j, factor_k, mask, i, j, k, u, v, w = locate(lattice, level, points, m, inside)
    grid = table + level * level_size + f
    total = tl.zeros((POINTS, WIDTH), u.dtype)
    for corner in tl.static_range(8):
        at_x, at_y, at_z = i + (corner & 1), j + (corner >> 1 & 1), k + (corner >> 2)
        row = row_of(at_x, at_y, at_z, factor_j, factor_k, mask)
        value = tl.load(grid + row[:, None] * F, mask=wanted, other=0)
        share = _share(corner & 1, u) * _share(corner >> 1 & 1, v) * _share(corner >> 2, w)
        total += share[:, None] * value.to(u.dtype)
    at = out + m[:, None] * stride_m + (level * F + f) * stride_c
    tl.store(at, total, mask=wanted)


@triton.jit
def _backward(
    points,
    grad_table,
    lattice,
    grad,
    count,
    stride_m,
    stride_c,
    level_size,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    POINTS: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    level = tl.program_id(1).to(tl.int64)
    f = tl.arange(0, WIDTH)[None, :]
    inside = m < count
    wanted = inside[:, None] & (f < F)
    _, factor_j, factor_k, mask, i, j, k, u, v, w = locate(lattice, level, points, m, inside)
    at = grad + m[:, None] * stride_m + (level * F + f) * stride_c
    g = tl.load(at, mask=wanted, other=0)
    grid = grad_table + level * level_size + f
    for corner in tl.static_range(8):
        at_x, at_y, at_z = i + (corner & 1), j + (corner >> 1 & 1), k + (corner >> 2)
        row = row_of(at_x, at_y, at_z, factor_j, factor_k, mask)
        share = _share(corner & 1, u) * _share(corner >> 1 & 1, v) * _share(corner >> 2, w)
        part = (share[:, None] * g).to(grad_table.dtype.element_ty)
        tl.atomic_add(grid + row[:, None] * F, part, mask=wanted, sem="relaxed")


@triton.jit
def _backward_points(
    points,
    table,
    lattice,
    grad,
    count,
    stride_m,
    stride_c,
    level_size,
    out,
    levels,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    POINTS: tl.constexpr,
):
    """No atomics: a program visits all levels of its points."""
    m = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    f = tl.arange(0, WIDTH)[None, :]
    inside = m < count
    wanted = inside[:, None] & (f < F)
    slope_x = tl.zeros((POINTS,), points.dtype.element_ty)
    slope_y = tl.zeros((POINTS,), points.dtype.element_ty)
    slope_z = tl.zeros((POINTS,), points.dtype.element_ty)
    for level in range(levels):
        n, factor_j, factor_k, mask, i, j, k, u, v, w = locate(lattice, level, points, m, inside)
        at = grad + m[:, None] * stride_m + (level * F + f) * stride_c
        g = tl.load(at, mask=wanted, other=0) * n.to(u.dtype)
        grid = table + level * level_size.to(tl.int64) + f
        for corner in tl.static_range(8):
            at_x, at_y, at_z = i + (corner & 1), j + (corner >> 1 & 1), k + (corner >> 2)
            row = row_of(at_x, at_y, at_z, factor_j, factor_k, mask)
            value = tl.load(grid + row[:, None] * F, mask=wanted, other=0)
            pull = tl.sum(value.to(u.dtype) * g, axis=1)
            p, q, r = _share(corner & 1, u), _share(corner >> 1 & 1, v), _share(corner >> 2, w)
            slope_x += (2 * (corner & 1) - 1) * q * r * pull
            slope_y += (2 * (corner >> 1 & 1) - 1) * p * r * pull
            slope_z += (2 * (corner >> 2) - 1) * p * q * pull
    _store_slope(out, points, m, inside, 0, slope_x)
    _store_slope(out, points, m, inside, 1, slope_y)
    _store_slope(out, points, m, inside, 2, slope_z)


@triton.jit
def _store_slope(out, points, m, inside, axis: tl.constexpr, slope):
    x = tl.load(points + m * 3 + axis, mask=inside, other=0)
    tl.store(out + m * 3 + axis, tl.where((x >= 0) & (x <= 1), slope, 0), mask=inside)
