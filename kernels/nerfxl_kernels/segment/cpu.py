"""Segments in numba: one pass forward, one pass backward, rays in parallel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def forward(
    density: Tensor,
    channels: Tensor,
    length: Tensor,
    middle: Tensor,
    width: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values [P, 3 + C], weights [M], and transmittance [M] behind each sample, for backward."""
    count, each = channels.shape
    values = density.new_empty(offsets.shape[0] - 1, 3 + each)
    weights, passed = density.new_empty(count), density.new_empty(count)
    inputs = (density, channels, length, middle, width, offsets, values, weights, passed)
    _forward((0,) * each, *(tensor.detach().contiguous().numpy() for tensor in inputs))
    return values, weights, passed


def backward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of density [M] and channels [M, C] from that of values [P, 3 + C].

    inputs: those of `forward` but for density, what it returned, and the gradient of values.
    """
    channels, length = inputs[:2]
    grad_density, grad_channels = length.new_empty(length.shape), channels.new_empty(channels.shape)
    arrays = (*inputs, grad_density, grad_channels)
    each = (0,) * channels.shape[1]
    _backward(each, *(tensor.detach().contiguous().numpy() for tensor in arrays))
    return grad_density, grad_channels


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(
    each: tuple[int, ...],  # its length is C, known to the compiler
    density: Array,
    channels: Array,
    length: Array,
    middle: Array,
    width: Array,
    offsets: NDArray[np.int64],
    values: Array,
    weights: Array,
    passed: Array,
) -> None:
    zero = density.dtype.type(0)
    one = density.dtype.type(1)
    third = one / density.dtype.type(3)
    for p in prange(offsets.shape[0] - 1):
        transmittance = one
        tau = moment = distortion = opacity = zero
        for c in range(len(each)):
            values[p, 3 + c] = zero
        for i in range(offsets[p], offsets[p + 1]):
            depth = density[i] * length[i]
            w = transmittance * -math.expm1(-depth)
            # Pairs (j < i) counted twice; opacity and moment are the sums over j < i.
            twice = w + w
            distortion += twice * (middle[i] * opacity - moment) + third * w * w * width[i]
            opacity += w
            moment += w * middle[i]
            for c in range(len(each)):
                values[p, 3 + c] += w * channels[i, c]
            tau += depth
            transmittance = one * math.exp(-tau)
            weights[i] = w
            passed[i] = transmittance
        values[p, 0] = tau
        values[p, 1] = moment
        values[p, 2] = distortion


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(
    each: tuple[int, ...],
    channels: Array,
    length: Array,
    middle: Array,
    width: Array,
    offsets: NDArray[np.int64],
    values: Array,
    weights: Array,
    passed: Array,
    grad: Array,
    grad_density: Array,
    grad_channels: Array,
) -> None:
    """dL/dtau_i = T_{i+1} q_i - sum_{j>i} w_j q_j + g_tau, with q_i = dL/dw_i.

    The distortion's share of q_i is 2 (m_i (W_< - W_>) - (M_< - M_>)) + 2/3 w_i delta_i, where W
    and M sum w_j and w_j m_j before and behind i; with the sums over all j that is
    2 (m_i (W - 2 W_>) - (M - 2 M_>)) + 2/3 w_i delta_i. Back to front, so that sums behind are
    small where little is seen: differences of large sums would leave noise in what is hidden.
    """
    zero = length.dtype.type(0)
    two_thirds = length.dtype.type(2) / length.dtype.type(3)
    for p in prange(offsets.shape[0] - 1):
        g_tau, g_moment, g_distortion = grad[p, 0], grad[p, 1], grad[p, 2]
        behind = opacity_behind = moment_behind = zero
        opacity, moment = -math.expm1(-values[p, 0]), values[p, 1]
        for i in range(offsets[p + 1] - 1, offsets[p] - 1, -1):
            w, m = weights[i], middle[i]
            pull = m * (opacity - (opacity_behind + opacity_behind))
            pull -= moment - (moment_behind + moment_behind)
            q = g_moment * m + g_distortion * (pull + pull + two_thirds * w * width[i])
            for c in range(len(each)):
                g = grad[p, 3 + c]
                q += g * channels[i, c]
                grad_channels[i, c] = w * g
            grad_density[i] = length[i] * (passed[i] * q - behind + g_tau)
            behind += w * q
            opacity_behind += w
            moment_behind += w * m
