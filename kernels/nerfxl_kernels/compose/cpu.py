"""The Segment product in numba, rays in parallel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def forward(values: Tensor, order: Tensor) -> Tensor:
    """[K, N, 6] and [N, K] -> [N, 6]."""
    out = values.new_empty(values.shape[1], 6)
    _forward(values.detach().contiguous().numpy(), order.contiguous().numpy(), out.numpy())
    return out


def backward(values: Tensor, order: Tensor, grad: Tensor) -> Tensor:
    """Gradient of values [K, N, 6] from that of the product [N, 6]."""
    out = values.new_empty(values.shape)
    _backward(
        values.detach().contiguous().numpy(),
        order.contiguous().numpy(),
        grad.numpy(),
        out.numpy(),
    )
    return out


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(values: Array, order: NDArray[np.int64], out: Array) -> None:
    zero = values.dtype.type(0)
    for n in prange(values.shape[1]):
        tau = moment = distortion = red = green = blue = zero
        for i in range(order.shape[1]):
            y = values[order[n, i], n]
            t, opacity = math.exp(-tau), -math.expm1(-tau)
            cross = y[1] * opacity + math.expm1(-y[0]) * moment  # D_y A_x - A_y D_x
            distortion += t * t * y[2] + t * (cross + cross)
            moment += t * y[1]
            red += t * y[3]
            green += t * y[4]
            blue += t * y[5]
            tau += y[0]
        out[n, 0] = tau
        out[n, 1] = moment
        out[n, 2] = distortion
        out[n, 3] = red
        out[n, 4] = green
        out[n, 5] = blue


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(values: Array, order: NDArray[np.int64], grad: Array, out: Array) -> None:
    """Reverse mode, back to front; the prefix in front of each tile is rebuilt by a first sweep."""
    tiles = order.shape[1]
    for n in prange(values.shape[1]):
        front = np.empty((tiles, 2), values.dtype)  # tau and moment before each tile
        tau = moment = values.dtype.type(0)
        for i in range(tiles):
            front[i, 0] = tau
            front[i, 1] = moment
            y = values[order[n, i], n]
            moment += math.exp(-tau) * y[1]
            tau += y[0]
        g_tau, g_moment, g_distortion = grad[n, 0], grad[n, 1], grad[n, 2]
        for i in range(tiles - 1, -1, -1):
            y, g_y = values[order[n, i], n], out[order[n, i], n]
            t, opacity = math.exp(-front[i, 0]), -math.expm1(-front[i, 0])
            t_y, opacity_y = math.exp(-y[0]), -math.expm1(-y[0])
            moment_x = front[i, 1]
            g_cross = t * (g_distortion + g_distortion)
            g_y[0] = g_tau - g_cross * t_y * moment_x
            g_y[1] = t * g_moment + g_cross * opacity
            g_y[2] = t * t * g_distortion
            shade = g_moment * y[1]
            for c in range(3):
                g_y[3 + c] = t * grad[n, 3 + c]
                shade += grad[n, 3 + c] * y[3 + c]
            cross = y[1] * opacity - opacity_y * moment_x
            g_tau -= t * shade + g_cross * (t * y[2] + cross - y[1] * t)
            g_moment -= g_cross * opacity_y
