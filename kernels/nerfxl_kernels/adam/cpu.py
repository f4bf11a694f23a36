"""Sparse Adam in numba: reads the gradients, and the rest only where they are not zero."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
_BLOCK = 16384
_LINE = 16  # entries looked at together, and skipped together where none is touched


def adam(
    parameter: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See `nerfxl_kernels.adam.op.adam`."""
    tensors = (parameter, grad, first, second)
    arrays = [tensor.detach().view(-1).numpy() for tensor in tensors]
    b1, b2 = betas
    kind = arrays[0].dtype.type
    numbers = (b1, b2, rate / (1 - b1**step), 1 / math.sqrt(1 - b2**step), eps)
    _adam(*arrays, *(kind(number) for number in numbers))


@njit(parallel=True, cache=True, error_model="numpy")
def _adam(
    parameter: Array,
    grad: Array,
    first: Array,
    second: Array,
    b1: float,
    b2: float,
    rate: float,
    unbias: float,
    eps: float,
) -> None:
    size = parameter.shape[0]
    one, zero = parameter.dtype.type(1), parameter.dtype.type(0)
    for block in prange((size + _BLOCK - 1) // _BLOCK):
        for start in range(block * _BLOCK, min(size, (block + 1) * _BLOCK), _LINE):
            stop = min(size, start + _LINE)
            touched = False
            for i in range(start, stop):  # no branch inside: the compiler makes vectors of it
                touched |= grad[i] != zero
            if not touched:
                continue
            for i in range(start, stop):
                g = grad[i]
                if g != zero:
                    m = b1 * first[i] + (one - b1) * g
                    v = b2 * second[i] + (one - b2) * g * g
                    parameter[i] -= rate * m / (math.sqrt(v) * unbias + eps)
                    first[i] = m
                    second[i] = v
                    grad[i] = zero
