"""Multiresolution hash encoding (Mueller et al. 2022, Instant NGP, sec. 3): points -> features.

Level l is a grid of n_l cells an edge. A point's eight surrounding vertices are looked up and
blended trilinearly. Vertex (i, j, k) is row `i + j (n+1) + k (n+1)^2` where the level fits its
table (dense), else row `(i xor j p1 xor k p2) mod T` with p1 = 2654435761, p2 = 805459861.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.hash_encoding import reference

_FINEST = 2**20  # cells an edge; (n + 1)^3 vertices must fit int64
_ROWS = 2**31  # a level; what 32 bits tell apart, and a sign


def resolutions(levels: int, base: int, finest: int) -> tuple[int, ...]:
    """Cells an edge of each level, in geometric progression from base to finest.

    >>> resolutions(4, 16, 128)
    (16, 32, 64, 128)
    """
    if levels == 1:
        return (base,)
    growth = math.log(finest / base) / (levels - 1)
    return tuple(math.floor(base * math.exp(growth * level) + 0.5) for level in range(levels))


def hash_encoding(
    points: Tensor,
    table: Tensor,
    cells: tuple[int, ...],
    accumulate_into: Tensor | None = None,
) -> Tensor:
    """Encode points by every level of a hash grid.

    Parameters
    ----------
    points: [M, 3] in [0, 1]; values outside are clamped to the border.
    table: [L, T, F], T a power of two up to 2^31; in the dtype of points, or float16 beside points
        of float32, with all arithmetic in float32.
    cells: L resolutions, in cells an edge.
    accumulate_into: [L, T, F], contiguous, in the dtype of points. If given, the table's gradient
        is added here in backward and autograd sees none: a buffer that lives as long as the table
        saves filling a fresh one each step, and keeps the gradient of a float16 table in float32
        (autograd would round it to the table's dtype).

    Returns
    -------
    [M, L F], level-major, features fastest.

    The gradient exists for the table and for the points; it is 0 for a coordinate outside [0, 1].
    On the GPU the table's is summed by atomics, in no fixed order; elsewhere runs repeat exactly.

    Raises
    ------
    ValueError
        If shapes or dtypes disagree, T is not a power of two up to 2^31, a resolution is not in
        1 to 2^20, or accumulate_into is not contiguous.
    """
    validate(points, table, cells, accumulate_into)
    if backend.choose(points) == "reference":
        return reference.hash_encoding(points, table, cells, accumulate_into)
    out: Tensor = _HashEncoding.apply(points, table, cells, accumulate_into)  # type: ignore[no-untyped-call]
    return out


def validate(
    points: Tensor, table: Tensor, cells: tuple[int, ...], accumulate_into: Tensor | None
) -> None:
    """Raise a ValueError unless these can be encoded (see `hash_encoding`)."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: found shape {tuple(points.shape)}, expected [M, 3]")
    if table.ndim != 3 or table.shape[0] != len(cells):
        raise ValueError(f"table: found shape {tuple(table.shape)}, expected [{len(cells)}, T, F]")
    rows = table.shape[1]
    if not 1 <= rows <= _ROWS or rows & (rows - 1):
        raise ValueError(f"table: found {rows} rows a level, expected a power of two up to 2^31")
    if cells and not 1 <= min(cells) <= max(cells) <= _FINEST:
        raise ValueError(f"cells: found {cells}, expected 1 to 2^20 an edge")
    halved = (points.dtype, table.dtype) == (torch.float32, torch.float16)
    if points.dtype != table.dtype and not halved:
        raise ValueError(f"points are {points.dtype}, table is {table.dtype}; expected the same")
    if accumulate_into is None:
        return
    if accumulate_into.shape != table.shape:
        raise ValueError(f"accumulate_into: found {tuple(accumulate_into.shape)}, expected table's")
    if accumulate_into.dtype != points.dtype or not accumulate_into.is_contiguous():
        found = f"{accumulate_into.dtype}, strides {accumulate_into.stride()}"
        raise ValueError(f"accumulate_into: found {found}, expected {points.dtype}, contiguous")


class _HashEncoding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        table: Tensor,
        cells: tuple[int, ...],
        accumulate_into: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.cells, ctx.accumulate_into = cells, accumulate_into
        ctx.kernels = backend.load("hash_encoding", points)
        out: Tensor = ctx.kernels.forward(points, table, cells)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = ctx.saved_tensors
        into = ctx.accumulate_into
        grad_points, grad_table = None, None
        if ctx.needs_input_grad[0]:
            grad_points = ctx.kernels.backward_points(points, table, grad, ctx.cells)
        if ctx.needs_input_grad[1]:
            grad_table = table.new_zeros(table.shape, dtype=points.dtype) if into is None else into
            ctx.kernels.backward(points, grad, ctx.cells, grad_table)
        return grad_points, (grad_table if into is None else None), None, None
