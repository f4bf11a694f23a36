"""The perceptron in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """See `nerfxl_kernels.mlp.op.mlp`."""
    for weight in weights[:-1]:
        x = (x @ weight).relu()
    return x @ weights[-1]
