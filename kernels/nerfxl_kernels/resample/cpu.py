"""Resampling in numba: count, then write; rays in parallel."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
Offsets = NDArray[np.int64]


def resample(
    m0: Tensor,
    m1: Tensor,
    depth: Tensor,
    offsets: Tensor,
    before: Tensor,
    stretch: Tensor,
    jitter: Tensor,
    samples: int,
    padding: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nerfxl_kernels.resample.op.resample`."""
    tensors = (m0, m1, depth, offsets, before, stretch, jitter)
    inputs = [tensor.detach().contiguous().numpy() for tensor in tensors]
    packed = torch.zeros(offsets.shape[0], dtype=torch.int64)
    _count(inputs[3], inputs[5], inputs[6], samples, packed.numpy())
    torch.cumsum(packed, 0, out=packed)
    out0, out1 = m0.new_empty(2, int(packed[-1])).unbind()
    _write(*inputs, samples, padding, packed.numpy(), out0.numpy(), out1.numpy())
    return packed, out0, out1


def interlevel(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each ray [P] and its gradient [B] in the proposal's optical depths."""
    loss, grad = inputs[9].new_empty(inputs[9].shape), inputs[0].new_zeros(inputs[0].shape)
    _interlevel(*(t.detach().contiguous().numpy() for t in inputs), loss.numpy(), grad.numpy())
    return loss, grad


@njit(inline="always")
def _first_edge(share: float, jitter: float, edges: int) -> int:
    """The first edge j in 0..edges with (j + jitter) / edges >= share.

    A function of the share alone, so that two tiles agree on it at their common face.
    """
    return min(max(math.ceil(share * edges - jitter), 0), edges)


@njit(cache=True, error_model="numpy")
def _count(offsets: Offsets, stretch: Array, jitter: Array, samples: int, packed: Offsets) -> None:
    edges = samples + 1
    for p in range(offsets.shape[0] - 1):
        j0 = _first_edge(np.float64(stretch[p, 0]), np.float64(jitter[p]), edges)
        j1 = _first_edge(np.float64(stretch[p, 1]), np.float64(jitter[p]), edges)
        faces = int(0 < j0 < edges) + int(0 < j1 < edges)
        packed[p + 1] = max(j1 - j0 + faces - 1, 0) if offsets[p + 1] > offsets[p] else 0


@njit(parallel=True, cache=True, error_model="numpy")
def _write(
    m0: Array,
    m1: Array,
    depth: Array,
    offsets: Offsets,
    before: Array,
    stretch: Array,
    jitter: Array,
    samples: int,
    padding: float,
    packed: Offsets,
    out0: Array,
    out1: Array,
) -> None:
    edges = samples + 1
    for p in prange(offsets.shape[0] - 1):
        at, last = packed[p], packed[p + 1]
        if at == last:
            continue
        low, high, shift = (
            np.float64(stretch[p, 0]),
            np.float64(stretch[p, 1]),
            np.float64(jitter[p]),
        )
        j, j1 = _first_edge(low, shift, edges), _first_edge(high, shift, edges)
        mass = 0.0
        tau = 0.0
        for i in range(offsets[p], offsets[p + 1]):
            mass += padding * (m1[i] - m0[i])
            tau += depth[i]
        mass += before[p] * -math.expm1(-tau)

        edge = m0[offsets[p]]  # the last edge written or passed
        has_edge = 0 < j < edges
        reached = 0.0
        tau = 0.0
        for i in range(offsets[p], offsets[p + 1]):
            weight = math.exp(-tau) * -math.expm1(-depth[i])
            tau += depth[i]
            step = before[p] * weight + padding * (m1[i] - m0[i])
            final = i == offsets[p + 1] - 1
            while j < j1:
                target = ((j + shift) / edges - low) / (high - low) * mass
                if target >= reached + step and not final:
                    break
                share = min(max((target - reached) / step, 0.0), 1.0)
                m = m0.dtype.type(m0[i] + share * (m1[i] - m0[i]))
                if has_edge:
                    out0[at] = edge
                    out1[at] = m
                    at += 1
                edge = m
                has_edge = True
                j += 1
            reached += step
        if at < last:
            out0[at] = edge
            out1[at] = m1[offsets[p + 1] - 1]


@njit(parallel=True, cache=True, error_model="numpy")
def _interlevel(
    depth: Array,
    m0: Array,
    m1: Array,
    offsets: Offsets,
    sample_weights: Array,
    sample_m0: Array,
    sample_m1: Array,
    sample_offsets: Offsets,
    exit_tau: Array,
    scale: Array,
    loss: Array,
    grad: Array,
) -> None:
    for p in prange(offsets.shape[0] - 1):
        first, end = offsets[p], offsets[p + 1]
        through = np.empty(end - first + 1)  # the proposal's transmittance at each bin's start
        tau = 0.0
        for i in range(first, end):
            through[i - first] = math.exp(-tau)
            tau += depth[i]
        through[end - first] = math.exp(-tau)

        exit_weight, exit_bound = math.exp(-exit_tau[p]), math.exp(-tau)
        excess = max(exit_weight - exit_bound, 0.0)
        total = excess * excess / (exit_weight + 1e-7)
        # dT/dtau_i = -T for every bin alike.
        pull_exit = 2 * excess / (exit_weight + 1e-7) * exit_bound

        # grad holds q_i = dL/dw_i first: a sample adds to all the bins it overlaps.
        start = first
        for s in range(sample_offsets[p], sample_offsets[p + 1]):
            while start < end and m1[start] <= sample_m0[s]:
                start += 1
            stop = start
            while stop < end and m0[stop] < sample_m1[s]:
                stop += 1
            weight = sample_weights[s]
            bound = through[start - first] - through[stop - first]  # the weights telescope
            if weight > bound:
                total += (weight - bound) * (weight - bound) / (weight + 1e-7)
                for i in range(start, stop):
                    grad[i] -= 2 * (weight - bound) / (weight + 1e-7)
        loss[p] = scale[p] * total

        behind = 0.0  # sum_{j>i} w_j q_j
        for i in range(end - 1, first - 1, -1):
            q = grad[i]
            before, after = through[i - first], through[i - first + 1]
            grad[i] = scale[p] * (after * q - behind + pull_exit)
            behind += (before - after) * q
