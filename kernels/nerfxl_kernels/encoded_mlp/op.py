"""`mlp(hash_encoding(points, table, cells), weights)` in one pass, for rendering."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.encoded_mlp import reference
from nerfxl_kernels.hash_encoding.op import validate
from nerfxl_kernels.mlp.op import check_widths, fits


def encoded_mlp(
    points: Tensor, table: Tensor, cells: tuple[int, ...], weights: Sequence[Tensor]
) -> Tensor:
    """Encode points by a hash grid and pass them through a perceptron; no gradient.

    Parameters
    ----------
    points: [M, 3], table: [L, T, F], cells: as `hash_encoding` takes them.
    weights: [L F, D_1], [D_1, D_2], ... as `mlp` takes them.

    Returns
    -------
    [M, D_n]: what `mlp` gives for the features of `hash_encoding`, which are nowhere stored.

    Raises
    ------
    ValueError
        Where those two do; or if a gradient is asked for: autograd is on and an input requires it.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (points, table, *weights)):
        raise ValueError(
            "encoded_mlp has no gradient: use it under torch.no_grad(), or hash_encoding and mlp"
        )
    validate(points, table, cells, None)
    check_widths(table.shape[0] * table.shape[2], weights)
    if backend.choose(points) == "reference" or not fits(points, weights):
        return reference.encoded_mlp(points, table, cells, weights)
    out: Tensor = backend.load("encoded_mlp", points).forward(points, table, cells, weights)
    return out
