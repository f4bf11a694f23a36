"""The Segment product in numba, rays in parallel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def forward(values: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N, 3 + C] and [N, K] -> product [N, 3 + C].

    And [N, K, 2], for backward: tau and moment in front of the i-th tile of each ray.
    """
    tiles, rays, width = values.shape
    out, front = values.new_empty(rays, width), values.new_empty(rays, tiles, 2)
    each = (0,) * (width - 3)
    _forward(each, *_arrays(values, order, out, front))
    return out, front


def backward(
    values: Tensor, order: Tensor, front: Tensor, grad: Tensor, own: tuple[int, ...]
) -> Tensor:
    """Gradient of values [K, N, 3 + C] from that of the product; zero but for the tiles `own`."""
    out = values.new_empty(values.shape)
    mine = np.zeros(values.shape[0], np.bool_)
    mine[list(own)] = True
    each = (0,) * (values.shape[2] - 3)
    _backward(each, mine, *_arrays(values, order, front, grad, out))
    return out


def transmittance(tau: Tensor, order: Tensor) -> Tensor:
    """See `nerfxl_kernels.compose.op.transmittance`."""
    out = tau.new_empty(tau.shape)
    _transmittance(*_arrays(tau, order, out))
    return out


def _arrays(*tensors: Tensor) -> tuple[NDArray[np.generic], ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(
    each: tuple[int, ...],  # its length is C, known to the compiler
    values: Array,
    order: NDArray[np.int64],
    out: Array,
    front: Array,
) -> None:
    zero = values.dtype.type(0)
    for n in prange(values.shape[1]):
        tau = moment = distortion = zero
        for c in range(len(each)):
            out[n, 3 + c] = zero
        for i in range(order.shape[1]):
            front[n, i, 0] = tau
            front[n, i, 1] = moment
            y = values[order[n, i], n]
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
    mine: NDArray[np.bool_],
    values: Array,
    order: NDArray[np.int64],
    front: Array,
    grad: Array,
    out: Array,
) -> None:
    """Reverse mode, back to front: g_tau and g_moment are those of what is in front of a tile."""
    for n in prange(values.shape[1]):
        g_tau, g_moment, g_distortion = grad[n, 0], grad[n, 1], grad[n, 2]
        for i in range(order.shape[1] - 1, -1, -1):
            k = order[n, i]
            y, g_y = values[k, n], out[k, n]
            t, opacity = math.exp(-front[n, i, 0]), -math.expm1(-front[n, i, 0])
            moment_x, opacity_y = front[n, i, 1], -math.expm1(-y[0])
            g_cross = t * (g_distortion + g_distortion)
            if mine[k]:
                g_y[0] = g_tau - g_cross * math.exp(-y[0]) * moment_x
                g_y[1] = t * g_moment + g_cross * opacity
                g_y[2] = t * t * g_distortion
                for c in range(len(each)):
                    g_y[3 + c] = t * grad[n, 3 + c]
            else:
                g_y[:] = 0
            shade = g_moment * y[1]
            for c in range(len(each)):
                shade += grad[n, 3 + c] * y[3 + c]
            cross = y[1] * opacity - opacity_y * moment_x
            g_tau -= t * shade + g_cross * (t * y[2] + cross - y[1] * t)
            g_moment -= g_cross * opacity_y


@njit(parallel=True, cache=True, error_model="numpy")
def _transmittance(tau: Array, order: NDArray[np.int64], out: Array) -> None:
    for n in prange(order.shape[0]):
        in_front = tau.dtype.type(0)
        for i in range(order.shape[1]):
            k = order[n, i]
            out[k, n] = math.exp(-in_front)
            in_front += tau[k, n]
