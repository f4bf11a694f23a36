"""Encoding, then perceptron, in one Triton kernel: features never leave the chip."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from nerfxl_kernels.gpu import block, launch
from nerfxl_kernels.hash_encoding.gpu import lattice_of, locate, row_of
from nerfxl_kernels.mlp.gpu import network, pack, shape, store_rows

_POINTS = 64  # a program


def forward(
    points: Tensor, table: Tensor, cells: tuple[int, ...], weights: Sequence[Tensor]
) -> Tensor:
    """[M, 3] -> [M, D_n]."""
    out = points.new_empty(len(points), weights[-1].shape[1])
    levels, rows, features = table.shape
    # Features of a level, and levels, to powers of two: weights of those that are not are zero.
    width = triton.next_power_of_2(features)
    missing = max(triton.next_power_of_2(levels), 16 // width) - levels
    first = weights[0].detach().unflatten(0, (levels, features))
    first = pad(first, (0, 0, 0, width - features, 0, missing)).flatten(0, 1)
    weights = (first, *weights[1:])
    lattice = lattice_of(cells + (1,) * missing, rows, points.device)
    size = block(_POINTS)
    launch(
        _forward,
        (triton.cdiv(len(points), size),),
        *(points.contiguous(), table.contiguous(), lattice, pack(weights), out),
        *(len(points), levels, rows * features),
        **shape(weights),
        F=features,
        LEVELS=levels + missing,
        POINTS=size,
    )
    return out


@triton.jit
def _forward(
    points,
    table,
    lattice,
    weights,
    out,
    count,
    levels,
    level_size,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    F: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
):
    m = tl.program_id(0) * POINTS + tl.arange(0, POINTS).to(tl.int64)
    inside = m < count
    level = tl.arange(0, LEVELS)[None, :]
    _, factor_j, factor_k, mask, i, j, k, u, v, w = locate(
        lattice, level, points, m[:, None], inside[:, None]
    )
    f = tl.arange(0, WIDTHS[0] // LEVELS)[None, None, :]
    grid = table + level[:, :, None].to(tl.int64) * level_size + f
    wanted = inside[:, None, None] & (level < levels)[:, :, None] & (f < F)
    features = tl.zeros((POINTS, LEVELS, WIDTHS[0] // LEVELS), u.dtype)
    for corner in range(8):  # not unrolled: the loads of all corners at once would spill registers
        at_x, at_y, at_z = i + (corner & 1), j + (corner >> 1 & 1), k + (corner >> 2)
        row = row_of(at_x, at_y, at_z, factor_j, factor_k, mask)
        value = tl.load(grid + row[:, :, None] * F, mask=wanted, other=0)
        share = tl.where(corner & 1 == 1, u, 1 - u)
        share *= tl.where(corner & 2 == 2, v, 1 - v)
        share *= tl.where(corner >= 4, w, 1 - w)
        features += share[:, :, None] * value.to(u.dtype)
    value = network(tl.reshape(features, (POINTS, WIDTHS[0])), weights, WIDTHS, PADDED)
    store_rows(out, value, m, inside, WIDTHS[-1], 1, WIDTHS[-1], PADDED[-1])
