"""Hash encoding in numba: points in parallel forward, levels in parallel backward.

Backward gives each thread whole levels, so no two threads add to one table: no atomics, and the
sum has one order whatever the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray
from torch import Tensor

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


@njit(inline="always")
def _cell(x: float, n: int) -> tuple[int, float]:
    position = min(max(x, 0.0), 1.0) * n
    corner = min(int(position), n - 1)
    return corner, position - corner


@njit(inline="always")
def _rows(i: int, j: int, k: int, n: int, rows: int) -> tuple[np.int64 | int, ...]:
    """Terms of the row index along each axis: near and far vertex of x, y, z."""
    if (n + 1) ** 3 <= rows:
        side = n + 1
        return i, i + 1, side * j, side * (j + 1), side * side * k, side * side * (k + 1)
    p1, p2 = np.int64(2654435761), np.int64(805459861)
    return i, i + 1, j * p1, (j + 1) * p1, k * p2, (k + 1) * p2


@njit(inline="always")
def _row(x: int, y: int, z: int, dense: bool, mask: int) -> int:
    return x + y + z if dense else (x ^ y ^ z) & mask


@njit(parallel=True, cache=True, error_model="numpy", fastmath=True)
def _forward(
    points: NDArray[np.floating],
    table: NDArray[np.floating],
    cells: NDArray[np.int64],
    features: tuple[int, ...],  # its length is F, known to the compiler
    out: NDArray[np.floating],
) -> None:
    count, rows, width = points.shape[0], table.shape[1], len(features)
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        for level in range(cells.shape[0]):
            n = cells[level]
            dense, mask = (n + 1) ** 3 <= rows, rows - 1
            grid = table[level]
            for m in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
                i, u = _cell(points[m, 0], n)
                j, v = _cell(points[m, 1], n)
                k, w = _cell(points[m, 2], n)
                x0, x1, y0, y1, z0, z1 = _rows(i, j, k, n, rows)
                r000, r100 = _row(x0, y0, z0, dense, mask), _row(x1, y0, z0, dense, mask)
                r010, r110 = _row(x0, y1, z0, dense, mask), _row(x1, y1, z0, dense, mask)
                r001, r101 = _row(x0, y0, z1, dense, mask), _row(x1, y0, z1, dense, mask)
                r011, r111 = _row(x0, y1, z1, dense, mask), _row(x1, y1, z1, dense, mask)
                for f in range(width):
                    low = (1 - v) * (grid[r000, f] + u * (grid[r100, f] - grid[r000, f])) + v * (
                        grid[r010, f] + u * (grid[r110, f] - grid[r010, f])
                    )
                    high = (1 - v) * (grid[r001, f] + u * (grid[r101, f] - grid[r001, f])) + v * (
                        grid[r011, f] + u * (grid[r111, f] - grid[r011, f])
                    )
                    out[m, level * width + f] = low + w * (high - low)


@njit(parallel=True, cache=True, error_model="numpy", fastmath=True)
def _backward(
    points: NDArray[np.floating],
    grad: NDArray[np.floating],
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    grad_table: NDArray[np.floating],
    threads: int,
) -> None:
    count, levels, rows, width = points.shape[0], cells.shape[0], grad_table.shape[1], len(features)
    for thread in prange(threads):
        for level in range(thread, levels, threads):
            n = cells[level]
            dense, mask = (n + 1) ** 3 <= rows, rows - 1
            grid = grad_table[level]
            for m in range(count):
                i, u = _cell(points[m, 0], n)
                j, v = _cell(points[m, 1], n)
                k, w = _cell(points[m, 2], n)
                x0, x1, y0, y1, z0, z1 = _rows(i, j, k, n, rows)
                for c in range(8):
                    x = x1 if c & 1 else x0
                    y = y1 if c & 2 else y0
                    z = z1 if c & 4 else z0
                    row = _row(x, y, z, dense, mask)
                    weight = (
                        (u if c & 1 else 1 - u) * (v if c & 2 else 1 - v) * (w if c & 4 else 1 - w)
                    )
                    for f in range(width):
                        grid[row, f] += weight * grad[m, level * width + f]
