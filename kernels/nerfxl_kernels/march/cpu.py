"""Marching in numba: count, then write; rays in parallel, no atomics."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from nerfxl_kernels.march.reference import offsets_of
from nerfxl_kernels.march.space import Domain, Path

Array = NDArray[np.floating]


def march(
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    bins: int,
    within: tuple[Path, Domain, Tensor] | None = None,
    budget: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.march`."""
    span = tuple(tensor.detach().contiguous().numpy() for tensor in (enter, leave, jitter))
    if within is None:
        geometry = _EMPTY_PATH.astype(span[0].dtype)
        args = (*span, bins, *(geometry,) * 2, *(geometry[:, 0],) * 2, 1.0, _ORIGIN, 1.0, False)
        occupied = np.ones((0, 0, 0), np.bool_)
    else:
        path, domain, cells = within
        args = (*span, bins, *_arrays(path), *_numbers(domain))
        occupied = cells.contiguous().numpy()
    counts = enter.new_empty(enter.shape, dtype=torch.int64)
    nothing = np.empty(0, span[0].dtype)
    _march(*args, occupied, True, counts.numpy(), nothing, nothing)
    offsets = offsets_of(counts, budget)
    m0, m1 = enter.new_empty(2, int(offsets[-1])).unbind()
    _march(*args, occupied, False, offsets.numpy(), m0.numpy(), m1.numpy())
    return offsets, m0, m1


def place(
    m0: Tensor, m1: Tensor, offsets: Tensor, path: Path, domain: Domain
) -> tuple[Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.place`."""
    points, length = m0.new_empty(m0.shape[0], 3), m0.new_empty(m0.shape[0])
    packed = (m0.contiguous().numpy(), m1.contiguous().numpy(), offsets.contiguous().numpy())
    _place(*packed, *_arrays(path), *_numbers(domain), points.numpy(), length.numpy())
    return points, length


_EMPTY_PATH = np.empty((0, 3))
_ORIGIN = (0.0, 0.0, 0.0)


def _arrays(path: Path) -> tuple[Array, Array, Array, Array, float]:
    tensors = (path.origins, path.directions, path.first, path.span)
    origins, directions, first, span = (t.detach().contiguous().numpy() for t in tensors)
    return origins, directions, first, span, path.scale


def _numbers(domain: Domain) -> tuple[tuple[float, float, float], float, bool]:
    return domain.centre, 1 / domain.half, domain.open


@njit(inline="always")
def _distance(s: float, scale: float) -> float:
    if scale == math.inf:
        return s
    e = math.exp(s)
    return 0.5 * scale * (e - 1 / e)


@njit(inline="always")
def _field_point(
    origin: Array,
    direction: Array,
    t: float,
    centre: tuple[float, float, float],
    inverse: float,
    is_open: bool,
) -> tuple[float, float, float]:
    x = (origin[0] + t * direction[0] - centre[0]) * inverse
    y = (origin[1] + t * direction[1] - centre[1]) * inverse
    z = (origin[2] + t * direction[2] - centre[2]) * inverse
    if not is_open:
        return 0.5 * (x + 1), 0.5 * (y + 1), 0.5 * (z + 1)
    n = max(abs(x), abs(y), abs(z), 1.0)
    shrink = (2 - 1 / n) / n
    return 0.25 * (x * shrink + 2), 0.25 * (y * shrink + 2), 0.25 * (z * shrink + 2)


@njit(parallel=True, cache=True, error_model="numpy")
def _march(
    enter: Array,
    leave: Array,
    jitter: Array,
    bins: int,
    origins: Array,
    directions: Array,
    first: Array,
    span: Array,
    scale: float,
    centre: tuple[float, float, float],
    inverse: float,
    is_open: bool,
    occupied: NDArray[np.bool_],
    counting: bool,
    counts_or_offsets: NDArray[np.int64],
    m0: Array,
    m1: Array,
) -> None:
    """Count each ray's bins, or write them at its offset."""
    side = occupied.shape[0]
    for p in prange(enter.shape[0]):
        at = counts_or_offsets[p]
        if not counting and at == counts_or_offsets[p + 1]:
            continue
        count = 0
        low = enter[p]
        edge = math.floor(low * bins - jitter[p])
        while low < leave[p]:
            edge += 1
            high = enter.dtype.type((edge + jitter[p]) / bins)
            high = min(max(high, low), leave[p])
            if edge > bins:
                high = leave[p]
            if high > low:
                keep = True
                if side:
                    t = _distance(first[p] + 0.5 * (low + high) * span[p], scale)
                    x, y, z = _field_point(origins[p], directions[p], t, centre, inverse, is_open)
                    i = min(max(int(x * side), 0), side - 1)
                    j = min(max(int(y * side), 0), side - 1)
                    k = min(max(int(z * side), 0), side - 1)
                    keep = occupied[i, j, k]
                if keep:
                    if not counting:
                        m0[at + count] = low
                        m1[at + count] = high
                    count += 1
                low = high
        if counting:
            counts_or_offsets[p] = count


@njit(parallel=True, cache=True, error_model="numpy")
def _place(
    m0: Array,
    m1: Array,
    offsets: NDArray[np.int64],
    origins: Array,
    directions: Array,
    first: Array,
    span: Array,
    scale: float,
    centre: tuple[float, float, float],
    inverse: float,
    is_open: bool,
    points: Array,
    length: Array,
) -> None:
    for p in prange(offsets.shape[0] - 1):
        far, end = -1.0, 0.0
        for i in range(offsets[p], offsets[p + 1]):
            start = end if m0[i] == far else _distance(first[p] + m0[i] * span[p], scale)
            far = m1[i]
            end = _distance(first[p] + far * span[p], scale)
            length[i] = end - start
            t = _distance(first[p] + 0.5 * (m0[i] + far) * span[p], scale)
            points[i] = _field_point(origins[p], directions[p], t, centre, inverse, is_open)
