"""Hash encoding in numba: points in parallel forward, levels in parallel backward.

Backward gives each thread whole levels, so no two threads add to one table: no atomics, and the
sum has one order whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]

_P1, _P2 = 2654435761, 805459861
_BLOCK = 512  # points encoded level by level, so that a coarse level stays in cache


def forward(points: Tensor, table: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Features [M, L F] of points [M, 3]."""
    out = points.new_empty(points.shape[0], table.shape[0] * table.shape[2])
    _forward(
        points.detach().contiguous().numpy(),
        table.detach().numpy(),
        np.asarray(cells),
        (0,) * table.shape[2],
        out.numpy(),
    )
    return out


def backward(points: Tensor, grad: Tensor, cells: tuple[int, ...], grad_table: Tensor) -> None:
    """Add the gradient [M, L F] of the features to grad_table [L, T, F]."""
    _backward(
        points.detach().contiguous().numpy(),
        grad.numpy(),
        np.asarray(cells),
        (0,) * grad_table.shape[2],
        grad_table.numpy(),
        get_num_threads(),
    )


def backward_points(points: Tensor, table: Tensor, grad: Tensor, cells: tuple[int, ...]) -> Tensor:
    """The gradient [M, 3] of the points from that of the features [M, L F]; 0 where clamped."""
    out = torch.empty_like(points, memory_format=torch.contiguous_format)
    _backward_points(
        points.detach().contiguous().numpy(),
        table.detach().numpy(),
        grad.numpy(),
        np.asarray(cells),
        (0,) * table.shape[2],
        out.numpy(),
    )
    return out


@njit(inline="always")
def _cell(x: Any, n: Any, zero: Any, one: Any) -> Any:
    """The cell of a coordinate along an edge of n cells, and the share of the way through it.

    In the points' own precision: constants of another would turn all arithmetic to float64.
    """
    position = min(max(x, zero), one) * n
    corner = min(np.int64(position), np.int64(n - one))
    return corner, position - corner * one


@njit(inline="always")
def _dense(i: int, j: int, k: int, side: int) -> tuple[int, ...]:
    """Rows of the eight vertices of a cell, x fastest, where every vertex has its own."""
    row = i + side * (j + side * k)
    up = row + side * side
    return row, row + 1, row + side, row + side + 1, up, up + 1, up + side, up + side + 1


@njit(inline="always")
def _hashed(i: int, j: int, k: int, mask: Any) -> tuple[Any, ...]:
    """The same where vertices share rows. Only low bits count, so 32 bits may wrap around."""
    x0, x1 = np.uint32(i), np.uint32(i + 1)
    y0, z0 = np.uint32(j) * np.uint32(_P1), np.uint32(k) * np.uint32(_P2)
    y1, z1 = y0 + np.uint32(_P1), z0 + np.uint32(_P2)
    return (
        (x0 ^ y0 ^ z0) & mask,
        (x1 ^ y0 ^ z0) & mask,
        (x0 ^ y1 ^ z0) & mask,
        (x1 ^ y1 ^ z0) & mask,
        (x0 ^ y0 ^ z1) & mask,
        (x1 ^ y0 ^ z1) & mask,
        (x0 ^ y1 ^ z1) & mask,
        (x1 ^ y1 ^ z1) & mask,
    )


@njit(inline="always")
def _blend(grid: Array, row: tuple[Any, ...], f: int, u: Any, v: Any, w: Any) -> Any:
    """Trilinear interpolation of feature f, as seven linear ones."""
    a, c = grid[row[0], f], grid[row[2], f]
    e, g = grid[row[4], f], grid[row[6], f]
    a += u * (grid[row[1], f] - a)
    c += u * (grid[row[3], f] - c)
    e += u * (grid[row[5], f] - e)
    g += u * (grid[row[7], f] - g)
    a += v * (c - a)
    e += v * (g - e)
    return a + w * (e - a)


@njit(inline="always")
def _spread(grid: Array, row: tuple[Any, ...], f: int, u: Any, v: Any, w: Any, g: Any) -> None:
    """The transpose of `_blend`: add g to the eight vertices by their shares."""
    far = g * w
    near = g - far
    for share, first in ((near, 0), (far, 4)):
        upper = share * v
        lower = share - upper
        part = lower * u
        grid[row[first], f] += lower - part
        grid[row[first + 1], f] += part
        part = upper * u
        grid[row[first + 2], f] += upper - part
        grid[row[first + 3], f] += part


@njit(inline="always")
def _add_slope(
    grid: Array, row: tuple[Any, ...], f: int, u: Any, v: Any, w: Any, g: Any, out: Array
) -> None:
    """Add g times the derivatives of `_blend` by u, v and w to out [3]."""
    a, b, c, d = grid[row[0], f], grid[row[1], f], grid[row[2], f], grid[row[3], f]
    e, h, i, j = grid[row[4], f], grid[row[5], f], grid[row[6], f], grid[row[7], f]
    near, far = (b - a) + v * ((d - c) - (b - a)), (h - e) + v * ((j - i) - (h - e))
    a, c, e, i = a + u * (b - a), c + u * (d - c), e + u * (h - e), i + u * (j - i)
    out[0] += g * (near + w * (far - near))
    out[1] += g * ((c - a) + w * ((i - e) - (c - a)))
    out[2] += g * ((e - a) + v * ((i - c) - (e - a)))


@njit(parallel=True, cache=True, error_model="numpy", fastmath=True)
def _forward(
    points: Array,
    table: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],  # its length is F, known to the compiler
    out: Array,
) -> None:
    count, rows, width = points.shape[0], table.shape[1], len(features)
    zero, one = points.dtype.type(0), points.dtype.type(1)
    mask = np.uint32(rows - 1)
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        for level in range(cells.shape[0]):
            side, grid = cells[level] + 1, table[level]
            n = one * cells[level]
            if side**3 <= rows:  # outside the loop, where the compiler leaves it
                for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _dense(i, j, k, side)
                    for f in range(width):
                        out[m, level * width + f] = _blend(grid, row, f, u, v, w)
            else:
                for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _hashed(i, j, k, mask)
                    for f in range(width):
                        out[m, level * width + f] = _blend(grid, row, f, u, v, w)


@njit(parallel=True, cache=True, error_model="numpy", fastmath=True)
def _backward(
    points: Array,
    grad: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    grad_table: Array,
    threads: int,
) -> None:
    count, levels, rows, width = points.shape[0], cells.shape[0], grad_table.shape[1], len(features)
    zero, one = points.dtype.type(0), points.dtype.type(1)
    mask = np.uint32(rows - 1)
    for thread in prange(threads):
        for level in range(thread, levels, threads):
            side, grid = cells[level] + 1, grad_table[level]
            n = one * cells[level]
            if side**3 <= rows:
                for m in range(count):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _dense(i, j, k, side)
                    for f in range(width):
                        _spread(grid, row, f, u, v, w, grad[m, level * width + f])
            else:
                for m in range(count):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _hashed(i, j, k, mask)
                    for f in range(width):
                        _spread(grid, row, f, u, v, w, grad[m, level * width + f])


@njit(parallel=True, cache=True, error_model="numpy", fastmath=True)
def _backward_points(
    points: Array,
    table: Array,
    grad: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    out: Array,
) -> None:
    count, rows, width = points.shape[0], table.shape[1], len(features)
    zero, one = points.dtype.type(0), points.dtype.type(1)
    mask = np.uint32(rows - 1)
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
            out[m, 0] = out[m, 1] = out[m, 2] = zero
        for level in range(cells.shape[0]):
            side, grid = cells[level] + 1, table[level]
            n = one * cells[level]
            if side**3 <= rows:
                for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _dense(i, j, k, side)
                    for f in range(width):
                        g = n * grad[m, level * width + f]
                        _add_slope(grid, row, f, u, v, w, g, out[m])
            else:
                for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
                    i, u = _cell(points[m, 0], n, zero, one)
                    j, v = _cell(points[m, 1], n, zero, one)
                    k, w = _cell(points[m, 2], n, zero, one)
                    row = _hashed(i, j, k, mask)
                    for f in range(width):
                        g = n * grad[m, level * width + f]
                        _add_slope(grid, row, f, u, v, w, g, out[m])
        for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
            for axis in range(3):
                if not zero <= points[m, axis] <= one:
                    out[m, axis] = zero
