"""Hash encoding in numba: points in parallel forward, levels in parallel backward.

A visit to a vertex is a visit to memory. So the rows that a block of points needs are found first,
and each is asked for a few points before its turn: the processor waits for many at once instead of
for one after the other. Levels are the outer loop, one table in the cache at a time. Backward gives
each thread whole levels, so no two threads add to one table: no atomics, and the sum has one order
whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray
from torch import Tensor

from nerfxl_kernels import simd

Array = NDArray[np.floating]
Rows = NDArray[np.uint32]

_P1, _P2 = np.uint32(2654435761), np.uint32(805459861)
_BLOCK = 512  # points whose rows are found together
_AHEAD = 8  # points between asking for a row and using it
_NEAR = 2**16  # entries of a level that the cache holds, so that reading it needs no asking


def forward(points: Tensor, table: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Features [M, L F] of points [M, 3]."""
    out = points.new_empty(points.shape[0], table.shape[0] * table.shape[2])
    _run(_forward, points, table, cells, out)
    return out


def backward(points: Tensor, grad: Tensor, cells: tuple[int, ...], grad_table: Tensor) -> None:
    """Add the gradient [M, L F] of the features to grad_table [L, T, F]."""
    _run(_backward, points, grad_table, cells, grad)


def backward_points(points: Tensor, table: Tensor, grad: Tensor, cells: tuple[int, ...]) -> Tensor:
    """The gradient [M, 3] of the points from that of the features [M, L F]; 0 where clamped."""
    out = torch.zeros_like(points, memory_format=torch.contiguous_format)
    _run(_backward_points, points, table, cells, grad, out)
    return out.masked_fill_((points < 0) | (points > 1), 0)


def _run(
    kernel: Any, points: Tensor, table: Tensor, cells: tuple[int, ...], *others: Tensor
) -> None:
    """Start a kernel; numba has no half precision, so a table of it is widened first."""
    table = table.detach().to(points.dtype)
    along_axes = points.new_empty(3, points.shape[0]).numpy()  # neighbours side by side
    _turn(points.detach().contiguous().numpy(), along_axes)
    arrays = (tensor.detach().contiguous().numpy() for tensor in (table, *others))
    kernel(along_axes, *arrays, np.asarray(cells), (0,) * table.shape[2], get_num_threads())


@njit(parallel=True, cache=True)
def _turn(points: Array, along_axes: Array) -> None:
    """[M, 3] -> [3, M], which torch does on one thread and slowly."""
    for m in prange(points.shape[0]):
        for axis in range(3):
            along_axes[axis, m] = points[m, axis]


@njit(cache=True, error_model="numpy", fastmath=True)
def _locate(x: Array, n: int, factor: np.uint32, corner: Rows, share: Array) -> None:
    """Cells of coordinates along an edge of n cells, times a factor, and shares of the way through.

    In the points' own precision, without branches: the compiler makes vectors of it.
    """
    zero, one, edge = x.dtype.type(0), x.dtype.type(1), x.dtype.type(n)
    last = np.int32(n - 1)
    for m in range(x.shape[0]):
        position = min(max(x[m], zero), one) * edge
        cell = max(np.int32(0), min(np.int32(position), last))  # a NaN is any integer
        corner[m] = np.uint32(np.uint32(cell) * factor)
        share[m] = position - x.dtype.type(cell)


@njit(cache=True, error_model="numpy")
def _dense(x: Rows, y: Rows, z: Rows, step: np.uint32, rows: Rows) -> None:
    for m in range(x.shape[0]):
        rows[m] = x[m] + y[m] + z[m] + step


@njit(cache=True, error_model="numpy")
def _hashed(
    x: Rows, y: Rows, z: Rows, i: np.uint32, j: np.uint32, k: np.uint32, mask: np.uint32, rows: Rows
) -> None:
    """Only low bits count, so 32 bits may wrap around."""
    for m in range(x.shape[0]):
        rows[m] = (np.uint32(x[m] + i) ^ np.uint32(y[m] + j) ^ np.uint32(z[m] + k)) & mask


@njit(cache=True, error_model="numpy")
def _find(points: Array, first: int, n: int, grid: Array, rows: Rows, shares: Array) -> int:
    """Locate points [3, M] from the first on, as many as there is room for, on a level.

    rows: [8, room], of the vertices around each point, x fastest. shares: [3, room]. The first of
    them are asked for. Returns how many points there were.
    """
    count = min(points.shape[1] - first, shares.shape[1])
    side, size = np.uint32(n + 1), grid.shape[0]
    dense = (n + 1) ** 3 <= size
    factor_y, factor_z = (side, np.uint32(side * side)) if dense else (_P1, _P2)
    x, y, z = np.empty(count, np.uint32), np.empty(count, np.uint32), np.empty(count, np.uint32)
    _locate(points[0, first : first + count], n, np.uint32(1), x, shares[0])
    _locate(points[1, first : first + count], n, factor_y, y, shares[1])
    _locate(points[2, first : first + count], n, factor_z, z, shares[2])
    for corner in range(8):
        i, j, k = np.uint32(corner & 1), np.uint32(corner >> 1 & 1), np.uint32(corner >> 2)
        j, k = np.uint32(j * factor_y), np.uint32(k * factor_z)
        if dense:
            _dense(x, y, z, np.uint32(i + j + k), rows[corner])
        else:
            _hashed(x, y, z, i, j, k, np.uint32(size - 1), rows[corner])
    for m in range(min(_AHEAD, count)):
        _ask_for(grid, rows, m)
    return count


@njit(inline="always")
def _ask_for(grid: Array, rows: Rows, m: int) -> None:
    """The rows of a point; two neighbours along x mostly lie in one cache line."""
    for corner in range(0, 8, 2):
        simd.prefetch(grid, np.intp(rows[corner, m]) * grid.shape[1])


@njit(inline="always")
def _row(grid: Array, rows: Rows, corner: int, m: int, features: tuple[int, ...]) -> Any:
    return simd.load(grid, np.intp(rows[corner, m]) * len(features), features)


@njit(inline="always")
def _mix(a: Any, b: Any, share: Any) -> Any:
    return simd.add(a, simd.scale(simd.subtract(b, a), share))


@njit(inline="always")
def _add_to(
    grid: Array, rows: Rows, corner: int, m: int, features: tuple[int, ...], g: Any
) -> None:
    row = _row(grid, rows, corner, m, features)
    simd.store(grid, np.intp(rows[corner, m]) * len(features), simd.add(row, g))


@njit(parallel=True, cache=True)
def _forward(
    points: Array,
    table: Array,
    out: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],  # its length is F, known to the compiler
    threads: int,
) -> None:
    for thread in prange(threads):
        _encode(points, table, out, cells, features, thread, threads)


@njit(cache=True, error_model="numpy")
def _encode(
    points: Array,
    table: Array,
    out: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    thread: int,
    threads: int,
) -> None:
    """Trilinear interpolation, as seven linear ones."""
    rows, shares = np.empty((8, _BLOCK), np.uint32), np.empty((3, _BLOCK), points.dtype)
    for level in range(cells.shape[0]):
        grid = table[level]
        far = grid.size > _NEAR  # backward asks always: no gain was seen there
        for first in range(thread * _BLOCK, points.shape[1], threads * _BLOCK):
            count = _find(points, first, cells[level], grid, rows, shares)
            for m in range(count):
                if far and m + _AHEAD < count:
                    _ask_for(grid, rows, m + _AHEAD)
                u, v, w = shares[0, m], shares[1, m], shares[2, m]
                a = _mix(_row(grid, rows, 0, m, features), _row(grid, rows, 1, m, features), u)
                b = _mix(_row(grid, rows, 2, m, features), _row(grid, rows, 3, m, features), u)
                c = _mix(_row(grid, rows, 4, m, features), _row(grid, rows, 5, m, features), u)
                d = _mix(_row(grid, rows, 6, m, features), _row(grid, rows, 7, m, features), u)
                place = (first + m) * out.shape[1] + level * len(features)
                simd.store(out, place, _mix(_mix(a, b, v), _mix(c, d, v), w))


@njit(parallel=True, cache=True)
def _backward(
    points: Array,
    grad_table: Array,
    grad: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    threads: int,
) -> None:
    for thread in prange(threads):
        _collect(points, grad_table, grad, cells, features, thread, threads)


@njit(cache=True, error_model="numpy")
def _collect(
    points: Array,
    grad_table: Array,
    grad: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    thread: int,
    threads: int,
) -> None:
    """The transpose of `_encode`: a gradient is split in two, three times."""
    rows, shares = np.empty((8, _BLOCK), np.uint32), np.empty((3, _BLOCK), points.dtype)
    for level in range(thread, cells.shape[0], threads):
        grid = grad_table[level]
        for first in range(0, points.shape[1], _BLOCK):
            count = _find(points, first, cells[level], grid, rows, shares)
            for m in range(count):
                if m + _AHEAD < count:
                    _ask_for(grid, rows, m + _AHEAD)
                u, v, w = shares[0, m], shares[1, m], shares[2, m]
                place = (first + m) * grad.shape[1] + level * len(features)
                g = simd.load(grad, place, features)
                upper = simd.scale(g, w)
                lower = simd.subtract(g, upper)
                b, d = simd.scale(lower, v), simd.scale(upper, v)
                a, c = simd.subtract(lower, b), simd.subtract(upper, d)
                _split(grid, rows, 0, m, features, a, u)
                _split(grid, rows, 2, m, features, b, u)
                _split(grid, rows, 4, m, features, c, u)
                _split(grid, rows, 6, m, features, d, u)


@njit(inline="always")
def _split(
    grid: Array, rows: Rows, corner: int, m: int, features: tuple[int, ...], g: Any, u: Any
) -> None:
    """Add a gradient to the two ends of the edge along x that begins at a corner."""
    far = simd.scale(g, u)
    _add_to(grid, rows, corner, m, features, simd.subtract(g, far))
    _add_to(grid, rows, corner + 1, m, features, far)


@njit(parallel=True, cache=True)
def _backward_points(
    points: Array,
    table: Array,
    grad: Array,
    out: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    threads: int,
) -> None:
    for thread in prange(threads):
        _descend(points, table, grad, out, cells, features, thread, threads)


@njit(cache=True, error_model="numpy")
def _descend(
    points: Array,
    table: Array,
    grad: Array,
    out: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    thread: int,
    threads: int,
) -> None:
    """Derivatives of `_encode` by the three shares: of the same eight products with g."""
    rows, shares = np.empty((8, _BLOCK), np.uint32), np.empty((3, _BLOCK), points.dtype)
    p = np.empty(8, points.dtype)
    for level in range(cells.shape[0]):
        grid, n = table[level], points.dtype.type(cells[level])
        for first in range(thread * _BLOCK, points.shape[1], threads * _BLOCK):
            count = _find(points, first, cells[level], grid, rows, shares)
            for m in range(count):
                if m + _AHEAD < count:
                    _ask_for(grid, rows, m + _AHEAD)
                u, v, w = shares[0, m], shares[1, m], shares[2, m]
                g = simd.load(grad, (first + m) * grad.shape[1] + level * len(features), features)
                for corner in range(8):
                    p[corner] = simd.dot(g, _row(grid, rows, corner, m, features))
                x00, x10 = p[1] - p[0], p[3] - p[2]  # along x at y, z = 00 and 10
                x01, x11 = p[5] - p[4], p[7] - p[6]
                near, far = x00 + v * (x10 - x00), x01 + v * (x11 - x01)
                a, b, c, d = p[0] + u * x00, p[2] + u * x10, p[4] + u * x01, p[6] + u * x11
                out[first + m, 0] += n * (near + w * (far - near))
                out[first + m, 1] += n * ((b - a) + w * ((d - c) - (b - a)))
                out[first + m, 2] += n * ((c - a) + v * ((d - b) - (c - a)))
