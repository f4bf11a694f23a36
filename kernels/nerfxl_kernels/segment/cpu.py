"""Segments in numba: one pass forward, one pass backward, rays in parallel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def forward(
    density: Tensor, colour: Tensor, length: Tensor, middle: Tensor, width: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Values [P, 6] and weights [M]."""
    values = density.new_empty(offsets.shape[0] - 1, 6)
    weights = density.new_empty(density.shape[0])
    inputs = (density, colour, length, middle, width, offsets, values, weights)
    _forward(*(tensor.detach().contiguous().numpy() for tensor in inputs))
    return values, weights


def backward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of density [M] and colour [M, 3] from that of values [P, 6].

    inputs: those of `forward`, what it returned, and the gradient of values.
    """
    grad_density, grad_colour = (like.new_empty(like.shape) for like in inputs[:2])  # contiguous
    arrays = (*inputs, grad_density, grad_colour)
    _backward(*(tensor.detach().contiguous().numpy() for tensor in arrays))
    return grad_density, grad_colour


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(
    density: Array,
    colour: Array,
    length: Array,
    middle: Array,
    width: Array,
    offsets: NDArray[np.int64],
    values: Array,
    weights: Array,
) -> None:
    zero = density.dtype.type(0)
    one = density.dtype.type(1)
    third = one / density.dtype.type(3)
    for p in prange(offsets.shape[0] - 1):
        transmittance = one
        tau = moment = distortion = opacity = red = green = blue = zero
        for i in range(offsets[p], offsets[p + 1]):
            depth = density[i] * length[i]
            w = transmittance * -math.expm1(-depth)
            # Pairs (j < i) counted twice; opacity and moment are the sums over j < i.
            twice = w + w
            distortion += twice * (middle[i] * opacity - moment) + third * w * w * width[i]
            opacity += w
            moment += w * middle[i]
            red += w * colour[i, 0]
            green += w * colour[i, 1]
            blue += w * colour[i, 2]
            tau += depth
            transmittance = one * math.exp(-tau)
            weights[i] = w
        values[p, 0] = tau
        values[p, 1] = moment
        values[p, 2] = distortion
        values[p, 3] = red
        values[p, 4] = green
        values[p, 5] = blue


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(
    density: Array,
    colour: Array,
    length: Array,
    middle: Array,
    width: Array,
    offsets: NDArray[np.int64],
    values: Array,
    weights: Array,
    grad: Array,
    grad_density: Array,
    grad_colour: Array,
) -> None:
    """dL/dtau_i = T_{i+1} q_i - sum_{j>i} w_j q_j + g_tau, with q_i = dL/dw_i.

    The distortion's share of q_i is 2 (m_i (W_< - W_>) - (M_< - M_>)) + 2/3 w_i delta_i, where W
    and M sum w_j and w_j m_j before and behind i. Back to front, so that what lies behind is known;
    T_{i+1} is found front to back first, for a large tau behind would swallow the small one here.
    """
    two_thirds = density.dtype.type(2) / density.dtype.type(3)
    for p in prange(offsets.shape[0] - 1):
        g_tau, g_moment, g_distortion = grad[p, 0], grad[p, 1], grad[p, 2]
        g_red, g_green, g_blue = grad[p, 3], grad[p, 4], grad[p, 5]
        zero = density.dtype.type(0)
        behind = opacity_behind = moment_behind = zero
        opacity = -math.expm1(-values[p, 0])
        tau = zero
        for i in range(offsets[p], offsets[p + 1]):
            tau += density[i] * length[i]
            grad_density[i] = math.exp(-tau)  # T_{i+1}, until its place is needed
        for i in range(offsets[p + 1] - 1, offsets[p] - 1, -1):
            w, m = weights[i], middle[i]
            opacity_before = opacity - opacity_behind - w
            moment_before = values[p, 1] - moment_behind - w * m
            pull = m * (opacity_before - opacity_behind) - (moment_before - moment_behind)
            q = g_red * colour[i, 0] + g_green * colour[i, 1] + g_blue * colour[i, 2]
            q += g_moment * m + g_distortion * (pull + pull + two_thirds * w * width[i])
            grad_density[i] = length[i] * (grad_density[i] * q - behind + g_tau)
            grad_colour[i, 0] = w * g_red
            grad_colour[i, 1] = w * g_green
            grad_colour[i, 2] = w * g_blue
            behind += w * q
            opacity_behind += w
            moment_behind += w * m
