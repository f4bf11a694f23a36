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
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]

_P1, _P2 = 2654435761, 805459861
_BLOCK = 512  # points whose rows are found together
_AHEAD = 8  # points between asking for a row and using it


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
    arrays = (tensor.detach().contiguous().numpy() for tensor in (points, table, *others))
    kernel(*arrays, np.asarray(cells), (0,) * table.shape[2], get_num_threads())


@intrinsic  # type: ignore[untyped-decorator]
def _ask_for(_: Any, array: Any, entry: Any) -> Any:  # noqa: ARG001
    """Fetch into the cache what lies at an entry of a contiguous array; waits for nothing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], shape)
        to_read, keep, data = ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)
        where = builder.bitcast(builder.gep(start, [args[1]]), byte)
        builder.call(prefetch, [where, to_read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@njit(inline="always")
def _cell(x: Any, n: Any, zero: Any, one: Any) -> Any:
    """The cell of a coordinate along an edge of n cells, and the share of the way through it.

    In the points' own precision: constants of another would turn all arithmetic to float64.
    """
    position = min(max(x, zero), one) * n
    corner = max(0, min(np.int64(position), np.int64(n - one)))  # a NaN is any integer
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


@njit(cache=True, error_model="numpy", fastmath=True)
def _find(points: Array, n: int, grid: Array, rows: NDArray[np.uint32], shares: Array) -> int:
    """Locate the first points on a level, as many as there is room for, and ask for the nearest.

    rows: [room, 8], of the vertices around each point. shares: [room, 3]. Returns how many.
    """
    zero, one = points.dtype.type(0), points.dtype.type(1)
    edge, side, mask = one * n, n + 1, np.uint32(grid.shape[0] - 1)
    count = min(points.shape[0], rows.shape[0])
    if side**3 <= grid.shape[0]:  # outside the loop, where the compiler leaves it
        for m in range(count):
            i, shares[m, 0] = _cell(points[m, 0], edge, zero, one)
            j, shares[m, 1] = _cell(points[m, 1], edge, zero, one)
            k, shares[m, 2] = _cell(points[m, 2], edge, zero, one)
            found = _dense(i, j, k, side)
            for c in range(8):
                rows[m, c] = found[c]
    else:
        for m in range(count):
            i, shares[m, 0] = _cell(points[m, 0], edge, zero, one)
            j, shares[m, 1] = _cell(points[m, 1], edge, zero, one)
            k, shares[m, 2] = _cell(points[m, 2], edge, zero, one)
            found = _hashed(i, j, k, mask)
            for c in range(8):
                rows[m, c] = found[c]
    for m in range(_AHEAD):
        _ask_for_rows(grid, rows, m, count)
    return count


@njit(inline="always")
def _ask_for_rows(grid: Array, rows: NDArray[np.uint32], m: int, count: int) -> None:
    if m < count:
        for c in range(8):
            _ask_for(grid, np.intp(rows[m, c]) * grid.shape[1])


@njit(inline="always")
def _rows_of(rows: NDArray[np.uint32], m: int) -> tuple[Any, ...]:
    return (
        rows[m, 0],
        rows[m, 1],
        rows[m, 2],
        rows[m, 3],
        rows[m, 4],
        rows[m, 5],
        rows[m, 6],
        rows[m, 7],
    )


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


@njit(cache=True, error_model="numpy", fastmath=True)
def _encode(
    points: Array,
    table: Array,
    out: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    thread: int,
    threads: int,
) -> None:
    rows, shares = np.empty((_BLOCK, 8), np.uint32), np.empty((_BLOCK, 3), points.dtype)
    for level in range(cells.shape[0]):
        grid, column = table[level], level * len(features)
        for first in range(thread * _BLOCK, points.shape[0], threads * _BLOCK):
            count = _find(points[first:], cells[level], grid, rows, shares)
            for m in range(count):
                _ask_for_rows(grid, rows, m + _AHEAD, count)
                row, u, v, w = _rows_of(rows, m), shares[m, 0], shares[m, 1], shares[m, 2]
                for f in range(len(features)):
                    out[first + m, column + f] = _blend(grid, row, f, u, v, w)


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


@njit(cache=True, error_model="numpy", fastmath=True)
def _collect(
    points: Array,
    grad_table: Array,
    grad: Array,
    cells: NDArray[np.int64],
    features: tuple[int, ...],
    thread: int,
    threads: int,
) -> None:
    rows, shares = np.empty((_BLOCK, 8), np.uint32), np.empty((_BLOCK, 3), points.dtype)
    for level in range(thread, cells.shape[0], threads):
        grid, column = grad_table[level], level * len(features)
        for first in range(0, points.shape[0], _BLOCK):
            count = _find(points[first:], cells[level], grid, rows, shares)
            for m in range(count):
                _ask_for_rows(grid, rows, m + _AHEAD, count)
                row, u, v, w = _rows_of(rows, m), shares[m, 0], shares[m, 1], shares[m, 2]
                for f in range(len(features)):
                    _spread(grid, row, f, u, v, w, grad[first + m, column + f])


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


@njit(cache=True, error_model="numpy", fastmath=True)
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
    rows, shares = np.empty((_BLOCK, 8), np.uint32), np.empty((_BLOCK, 3), points.dtype)
    for level in range(cells.shape[0]):
        grid, column = table[level], level * len(features)
        n = points.dtype.type(cells[level])
        for first in range(thread * _BLOCK, points.shape[0], threads * _BLOCK):
            count = _find(points[first:], cells[level], grid, rows, shares)
            for m in range(count):
                _ask_for_rows(grid, rows, m + _AHEAD, count)
                row, u, v, w = _rows_of(rows, m), shares[m, 0], shares[m, 1], shares[m, 2]
                for f in range(len(features)):
                    g = n * grad[first + m, column + f]
                    _add_slope(grid, row, f, u, v, w, g, out[first + m])
