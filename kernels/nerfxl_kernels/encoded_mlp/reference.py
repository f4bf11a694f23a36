"""Encoding, then perceptron, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nerfxl_kernels.hash_encoding.reference import hash_encoding
from nerfxl_kernels.mlp.reference import mlp


def encoded_mlp(
    points: Tensor, table: Tensor, cells: tuple[int, ...], weights: Sequence[Tensor]
) -> Tensor:
    """See `nerfxl_kernels.encoded_mlp.op.encoded_mlp`."""
    return mlp(hash_encoding(points, table, cells), weights)
