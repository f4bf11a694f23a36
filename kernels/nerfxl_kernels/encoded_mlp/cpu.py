"""Encoding, then perceptron, on the CPU: by chunks whose features stay in the cache."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nerfxl_kernels.hash_encoding import cpu as encoding
from nerfxl_kernels.mlp import cpu as perceptron

_CHUNK = 65536  # so many that a level's table, fetched once a chunk, serves many points


def forward(
    points: Tensor, table: Tensor, cells: tuple[int, ...], weights: Sequence[Tensor]
) -> Tensor:
    """[M, 3] -> [M, D_n]."""
    table = table.to(points.dtype)  # once, not for every chunk
    out = points.new_empty(len(points), weights[-1].shape[1])
    for start in range(0, len(points), _CHUNK):
        rows = slice(start, start + _CHUNK)
        out[rows] = perceptron.forward(encoding.forward(points[rows], table, cells), weights)
    return out
