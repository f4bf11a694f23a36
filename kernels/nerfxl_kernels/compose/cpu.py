"""The Segment product in numba, rays in parallel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def forward(values: Tensor) -> tuple[Tensor, Tensor]:
    """[D, N, 3 + C] -> product [N, 3 + C].

    And [D, N, 2], for backward: tau and moment in front of each Segment.
    """
    count, rays, width = values.shape
    out, front = values.new_empty(rays, width), values.new_empty(count, rays, 2)
    each = (0,) * (width - 3)
    _forward(each, *_arrays(values, out, front))
    return out, front


def backward(values: Tensor, front: Tensor, grad: Tensor) -> Tensor:
    """Gradient of values [D, N, 3 + C] from that of the product."""
    out = values.new_empty(values.shape)
    each = (0,) * (values.shape[2] - 3)
    _backward(each, *_arrays(values, front, grad, out))
    return out


def _arrays(*tensors: Tensor) -> tuple[NDArray[np.generic], ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(
    each: tuple[int, ...],  # its length is C, known to the compiler
    values: Array,
    out: Array,
    front: Array,
) -> None:
    zero = values.dtype.type(0)
    for n in prange(values.shape[1]):
        tau = moment = distortion = zero
        for c in range(len(each)):
            out[n, 3 + c] = zero
        for i in range(values.shape[0]):
            front[i, n, 0] = tau
            front[i, n, 1] = moment
            y = values[i, n]
            t, opacity = math.exp(-tau), -math.expm1(-tau)
            cross = y[1] * opacity + math.expm1(-y[0]) * moment  # D_y A_x - A_y D_x
            distortion += t * t * y[2] + t * (cross + cross)
            moment += t * y[1]
            for c in range(len(each)):
                out[n, 3 + c] += t * y[3 + c]
            tau += y[0]
        out[n, 0] = tau
        out[n, 1] = moment
        out[n, 2] = distortion


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(
    each: tuple[int, ...],
    values: Array,
    front: Array,
    grad: Array,
    out: Array,
) -> None:
    """Reverse mode, back to front: g_tau and g_moment are those of what lies in front."""
    for n in prange(values.shape[1]):
        g_tau, g_moment, g_distortion = grad[n, 0], grad[n, 1], grad[n, 2]
        for i in range(values.shape[0] - 1, -1, -1):
            y, g_y = values[i, n], out[i, n]
            t, opacity = math.exp(-front[i, n, 0]), -math.expm1(-front[i, n, 0])
            moment_x, opacity_y = front[i, n, 1], -math.expm1(-y[0])
            g_cross = t * (g_distortion + g_distortion)
            g_y[0] = g_tau - g_cross * math.exp(-y[0]) * moment_x
            g_y[1] = t * g_moment + g_cross * opacity
            g_y[2] = t * t * g_distortion
            for c in range(len(each)):
                g_y[3 + c] = t * grad[n, 3 + c]
            shade = g_moment * y[1]
            for c in range(len(each)):
                shade += grad[n, 3 + c] * y[3 + c]
            cross = y[1] * opacity - opacity_y * moment_x
            g_tau -= t * shade + g_cross * (t * y[2] + cross - y[1] * t)
            g_moment -= g_cross * opacity_y
