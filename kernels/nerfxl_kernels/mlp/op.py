"""A bias-free multilayer perceptron with ReLU between its layers, as in Instant NGP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.mlp import cpu, reference


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """X W_0, ReLU, W_1, ..., ReLU, W_n: the last layer is linear.

    Parameters
    ----------
    x: [M, D_0]. weights: [D_0, D_1], [D_1, D_2], ...

    Returns
    -------
    [M, D_n], differentiable in x and every weight.

    Raises
    ------
    ValueError
        If the widths do not chain.

    Examples
    --------
    >>> mlp(torch.tensor([[1.0, -2.0]]), [torch.eye(2), torch.ones(2, 1)])
    tensor([[1.]])
    """
    widths = [x.shape[-1], *(w.shape[1] for w in weights)]
    if [w.shape[0] for w in weights] != widths[:-1]:
        raise ValueError(
            f"mlp: input of width {widths[0]}, weights {[tuple(w.shape) for w in weights]}"
        )
    if backend.choose(x) == "reference":
        return reference.mlp(x, weights)
    out: Tensor = _MlpCpu.apply(x, *weights)  # type: ignore[no-untyped-call]
    return out


class _MlpCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        out = cpu.forward(x, weights)
        ctx.save_for_backward(x, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        return cpu.backward(x, weights, grad, ctx.needs_input_grad[0])
