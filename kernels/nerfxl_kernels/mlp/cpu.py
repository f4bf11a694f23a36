"""The perceptron on the CPU: torch's matrix products over chunks of points that fit the cache.

Backward recomputes the hidden layers of its chunk: cheaper than reading them back from memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 4096


def forward(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[M, D_0] -> [M, D_n]."""
    out = x.new_empty(x.shape[0], weights[-1].shape[1])
    for start in range(0, x.shape[0], _CHUNK):
        rows = slice(start, start + _CHUNK)
        torch.mm(_hidden(x[rows], weights)[-1], weights[-1], out=out[rows])
    return out


def backward(
    x: Tensor, weights: Sequence[Tensor], grad: Tensor, wants_input: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of x (or None) and of each weight from that of the output [M, D_n]."""
    grad_x = torch.empty_like(x) if wants_input else None
    grad_weights = [torch.zeros_like(w) for w in weights]
    for start in range(0, x.shape[0], _CHUNK):
        rows = slice(start, start + _CHUNK)
        layers, g = _hidden(x[rows], weights), grad[rows]
        for i in range(len(weights) - 1, 0, -1):
            grad_weights[i].addmm_(layers[i].T, g)
            g = torch.ops.aten.threshold_backward(g @ weights[i].T, layers[i], 0)
        grad_weights[0].addmm_(layers[0].T, g)
        if grad_x is not None:
            torch.mm(g, weights[0].T, out=grad_x[rows])
    return grad_x, *grad_weights


def _hidden(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The input of every layer."""
    layers = [x]
    for weight in weights[:-1]:
        layers.append((layers[-1] @ weight).relu_())
    return layers
