"""A bias-free multilayer perceptron with ReLU between its layers, as in Instant NGP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.mlp import reference

_WIDEST = 128  # columns of a layer that a fused kernel keeps on the chip


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """X W_0, ReLU, W_1, ..., ReLU, W_n: the last layer is linear.

    Parameters
    ----------
    x: [M, D_0]. weights: [D_0, D_1], [D_1, D_2], ...

    Returns
    -------
    [M, D_n], differentiable in x and every weight.

    On a GPU products are of TF32 where it has that; float64, and layers wider than 128, which would
    not stay on the chip, are torch's matrix products, as in the reference.

    Raises
    ------
    ValueError
        If the widths do not chain.

    Examples
    --------
    >>> mlp(torch.tensor([[1.0, -2.0]]), [torch.eye(2), torch.ones(2, 1)])
    tensor([[1.]])
    """
    check_widths(x.shape[-1], weights)
    if backend.choose(x) == "reference" or not fits(x, weights):
        return reference.mlp(x, weights)
    out: Tensor = _Mlp.apply(x, *weights)  # type: ignore[no-untyped-call]
    return out


def check_widths(width: int, weights: Sequence[Tensor]) -> None:
    """Raise a ValueError unless an input of this width can pass all weights."""
    widths = [width, *(w.shape[1] for w in weights)]
    if [w.shape[0] for w in weights] != widths[:-1]:
        raise ValueError(
            f"mlp: input of width {width}, weights {[tuple(w.shape) for w in weights]}"
        )


def fits(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the fused kernel of this tensor's backend can hold the network."""
    widest = max(len(weights[0]), *(w.shape[1] for w in weights))
    return backend.choose(x) != "gpu" or (x.dtype != torch.float64 and widest <= _WIDEST)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.kernels = backend.load("mlp", x)
        out: Tensor = ctx.kernels.forward(x, weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        found: tuple[Tensor | None, ...]
        found = ctx.kernels.backward(x, weights, grad, ctx.needs_input_grad[0])
        return found
