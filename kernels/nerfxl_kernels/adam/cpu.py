"""Sparse Adam in numba: runs of entries without any gradient are skipped.

Within a run there are no branches, so that the compiler makes vectors of it: memory is the limit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
_BLOCK = 16384
_RUN = 256  # entries looked at together, and skipped together where none is touched


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
    for block in prange((size + _BLOCK - 1) // _BLOCK):
        for start in range(block * _BLOCK, min(size, (block + 1) * _BLOCK), _RUN):
            run = slice(start, min(size, start + _RUN))
            if _touched(grad[run]):
                arrays = parameter[run], grad[run], first[run], second[run]
                _step(*arrays, b1, b2, rate, unbias, eps)


@njit(cache=True, error_model="numpy")
def _touched(grad: Array) -> bool:
    count, zero = 0, grad.dtype.type(0)
    for i in range(grad.shape[0]):
        count += grad[i] != zero
    return count > 0


@njit(cache=True, error_model="numpy")
def _step(
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
    """An untouched moment is multiplied by one and stored: stores under a mask cost far more."""
    one, zero = parameter.dtype.type(1), parameter.dtype.type(0)
    for i in range(parameter.shape[0]):
        g = grad[i]
        touched = g != zero
        m = (b1 if touched else one) * first[i] + (one - b1) * g
        v = (b2 if touched else one) * second[i] + (one - b2) * g * g
        move = rate * m / (math.sqrt(v) * unbias + eps)
        parameter[i] -= move if touched else zero
        first[i] = m
        second[i] = v
        grad[i] = zero
