"""Resampling in Triton: tiles of rays x bins for what is summed along rays, else a thread an edge.

Neither the longest ray nor its number of samples is asked of the device: rows are passed over in
chunks, as many as the longest row of a program has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch, opacity

_RAYS, _BINS = 4, 32  # a warp's tile
_SAMPLES = 16  # a warp's tile of one ray is as many samples x _BINS
_EDGES = 128  # a program


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
    rays, edges = len(before), samples + 1
    m0, m1, offsets = m0.contiguous(), m1.contiguous(), offsets.contiguous()
    stretch, jitter = stretch.contiguous(), jitter.contiguous()
    counts = offsets.new_zeros(rays)
    drawn = offsets.new_empty(rays, 2)
    sizes = {"RAYS": block(_EDGES)}
    grid = (triton.cdiv(rays, block(_EDGES)),)
    launch(_count, grid, offsets, stretch, jitter, edges, drawn, counts, rays, **sizes)

    ends = m0.new_empty(m0.shape, dtype=torch.float64)
    # Only shares of p matter, so it is divided by the padding: an argument less, which as a float
    # would have 32 bits.
    inputs = (m0, m1, depth.detach().contiguous(), offsets, before.detach() / padding)
    grid = (triton.cdiv(rays, block(_RAYS)),)
    launch(_cumulate, grid, *inputs, ends, rays, warps=1, RAYS=block(_RAYS), BINS=_BINS)

    packed = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    total = int(packed[-1])
    out0, out1 = m0.new_empty(total), m0.new_empty(total)
    launch(
        _draw,
        (triton.cdiv(rays * edges, block(_EDGES)),),
        *(m0, m1, ends, offsets, stretch, jitter, edges, drawn, packed, out0, out1, rays),
        EDGES=block(_EDGES),
    )
    return packed, out0, out1


def interlevel(
    depth: Tensor,
    m0: Tensor,
    m1: Tensor,
    offsets: Tensor,
    sample_weights: Tensor,
    sample_m0: Tensor,
    sample_m1: Tensor,
    sample_offsets: Tensor,
    exit_tau: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Loss of each ray [P] and its gradient [B] in the proposal's optical depths."""
    rays = len(exit_tau)
    depth, m0, m1, offsets = (t.detach().contiguous() for t in (depth, m0, m1, offsets))
    own = [t.contiguous() for t in (sample_weights, sample_m0, sample_m1, sample_offsets)]
    exit_tau, scale = exit_tau.contiguous(), scale.contiguous()
    weights, after, grad = (torch.empty_like(depth) for _ in range(3))
    pull = torch.empty_like(own[0])
    loss, exit_pull = torch.empty_like(exit_tau), torch.empty_like(exit_tau)

    few = {"RAYS": block(_RAYS), "BINS": _BINS}
    grid = (triton.cdiv(rays, block(_RAYS)),)
    outputs = (weights, after, loss, exit_pull)
    launch(_weigh, grid, depth, offsets, exit_tau, *outputs, rays, warps=1, **few)

    one = {"RAYS": block(1), "BINS": _BINS, "SAMPLES": _SAMPLES}
    grid = (triton.cdiv(rays, block(1)),)
    bins = (weights, m0, m1, offsets)
    launch(_pull, grid, *bins, *own, scale, pull, loss, rays, warps=1, **one)
    pulls = (pull, *own[1:], after, exit_pull, scale)
    launch(_gradient, grid, *bins, *pulls, grad, rays, warps=1, **one)
    return loss, grad


@triton.jit
def _rows(offsets, p, inside):
    """Where rays begin and end, and the most that one of them has."""
    first = tl.load(offsets + p, mask=inside, other=0)
    last = tl.load(offsets + p + 1, mask=inside, other=0)
    return first, last, tl.max(last - first, axis=0)


@triton.jit
def _bins(depth, first, last, start, tau, BINS: tl.constexpr):
    """Bins from `start` on of rays that have passed `tau`.

    Places, whether there are such bins, T in front of them, optical depths; tau behind them.
    """
    column = start + tl.arange(0, BINS)[None, :]
    i = first[:, None] + column
    inside = i < last[:, None]
    d = tl.load(depth + i, mask=inside, other=0)
    # Summed without the bin itself: taking it off again would cancel in front of a wall.
    in_front = tl.load(depth + i - 1, mask=inside & (column > start), other=0)
    through = tl.exp(-(tau[:, None] + tl.cumsum(in_front, axis=1)))
    return i, inside, through, d, tau + tl.sum(d, axis=1)


@triton.jit
def _first_edge(share, jitter, edges):
    """The first edge j in 0..edges with (j + jitter) / edges >= share.

    A function of the share alone, so that two tiles agree on it at their common face.
    """
    return tl.minimum(tl.maximum(tl.ceil(share * edges - jitter), 0), edges).to(tl.int64)


@triton.jit
def _count(offsets, stretch, jitter, edges, drawn, counts, rays, RAYS: tl.constexpr):
    """Each ray's samples, and its edges: from drawn[p, 0] up to drawn[p, 1]."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    low = tl.load(stretch + 2 * p, mask=inside, other=0).to(tl.float64)
    high = tl.load(stretch + 2 * p + 1, mask=inside, other=0).to(tl.float64)
    shift = tl.load(jitter + p, mask=inside, other=0).to(tl.float64)
    first = tl.load(offsets + p, mask=inside, other=0)
    last = tl.load(offsets + p + 1, mask=inside, other=0)
    j0, j1 = _first_edge(low, shift, edges), _first_edge(high, shift, edges)
    faces = ((j0 > 0) & (j0 < edges)).to(tl.int64) + ((j1 > 0) & (j1 < edges)).to(tl.int64)
    count = tl.where(last > first, tl.maximum(j1 - j0 + faces - 1, 0), 0)
    tl.store(drawn + 2 * p, j0, mask=inside)
    tl.store(drawn + 2 * p + 1, j1, mask=inside)
    tl.store(counts + p, count, mask=inside)


@triton.jit
def _cumulate(m0, m1, depth, offsets, before, ends, rays, RAYS: tl.constexpr, BINS: tl.constexpr):
    """The cumulated p at the end of each bin."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    first, last, longest = _rows(offsets, p, inside)
    reaching = tl.load(before + p, mask=inside, other=0)
    tau = tl.zeros((RAYS,), depth.dtype.element_ty)
    reached = tl.zeros((RAYS,), tl.float64)
    for start in range(0, longest, BINS):
        i, there, through, d, tau = _bins(depth, first, last, start, tau, BINS)
        width = tl.load(m1 + i, mask=there, other=0) - tl.load(m0 + i, mask=there, other=0)
        mass = (reaching[:, None] * (through * opacity(d)) + width).to(tl.float64)
        mass = tl.where(there, mass, 0)
        tl.store(ends + i, reached[:, None] + tl.cumsum(mass, axis=1), mask=there)
        reached += tl.sum(mass, axis=1)


@triton.jit
def _draw(
    m0,
    m1,
    ends,
    offsets,
    stretch,
    jitter,
    edges,
    drawn,
    packed,
    out0,
    out1,
    rays,
    EDGES: tl.constexpr,
):
    """A ray's edges: a face, those drawn, a face. Edge k ends sample k - 1 and begins sample k."""
    index = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    p, k = index // edges, index % edges
    inside = p < rays
    at = tl.load(packed + p, mask=inside, other=0)
    count = tl.load(packed + p + 1, mask=inside, other=0) - at
    wanted = inside & (count > 0) & (k <= count)
    first = tl.load(offsets + p, mask=wanted, other=0)
    last = tl.load(offsets + p + 1, mask=wanted, other=1) - 1
    j0 = tl.load(drawn + 2 * p, mask=wanted, other=0)
    j1 = tl.load(drawn + 2 * p + 1, mask=wanted, other=0)
    j = j0 + k - (j0 > 0).to(tl.int64)
    between = wanted & (j >= j0) & (j < j1)

    low = tl.load(stretch + 2 * p, mask=between, other=0).to(tl.float64)
    high = tl.load(stretch + 2 * p + 1, mask=between, other=1).to(tl.float64)
    shift = tl.load(jitter + p, mask=between, other=0).to(tl.float64)
    all_mass = tl.load(ends + last, mask=between, other=0)
    target = ((j.to(tl.float64) + shift) / edges - low) / (high - low) * all_mass
    i = _bin_of(target, ends, first, last, between)
    start = tl.load(ends + i - 1, mask=between & (i > first), other=0)
    end = tl.load(ends + i, mask=between, other=0)
    b0 = tl.load(m0 + i, mask=between, other=0)
    b1 = tl.load(m1 + i, mask=between, other=0)
    before_end = target < end  # behind the last bin's only by rounding
    share = tl.where(before_end, (target - start) / tl.where(before_end, end - start, 1), 1)
    m = b0 + share.to(b0.dtype) * (b1 - b0)
    m = tl.where(j < j0, tl.load(m0 + first, mask=wanted, other=0), m)
    m = tl.where(j >= j1, tl.load(m1 + last, mask=wanted, other=0), m)
    tl.store(out0 + at + k, m, mask=wanted & (k < count))
    tl.store(out1 + at + k - 1, m, mask=wanted & (k > 0))


@triton.jit
def _bin_of(target, ends, first, last, wanted):
    """The first bin whose cumulated p is beyond the target, or the last: by bisection."""
    longest = tl.max(last - first, axis=0)
    while longest > 0:
        middle = (first + last) // 2
        passed = tl.load(ends + middle, mask=wanted, other=0) <= target
        beyond = passed & (first < last)
        first = tl.where(beyond, middle + 1, first)
        last = tl.where(passed, last, middle)
        longest = longest // 2
    return first


@triton.jit
def _excess(weight, bound):
    """By how much a bound is passed, that squared over the weight, and minus its slope."""
    excess = tl.maximum(weight - bound, 0)
    ratio = excess / (weight + 1e-7)
    return excess * ratio, 2 * ratio


@triton.jit
def _weigh(
    depth,
    offsets,
    exit_tau,
    weights,
    after,
    loss,
    exit_pull,
    rays,
    RAYS: tl.constexpr,
    BINS: tl.constexpr,
):
    """The bins' weights and T behind them; the loss of what lies behind the tile, unscaled.

    exit_pull is its slope in the optical depth of a bin: dT/dtau = -T for every bin alike.
    """
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    first, last, longest = _rows(offsets, p, inside)
    tau = tl.zeros((RAYS,), depth.dtype.element_ty)
    for start in range(0, longest, BINS):
        i, there, through, d, tau = _bins(depth, first, last, start, tau, BINS)
        tl.store(weights + i, through * opacity(d), mask=there)
        tl.store(after + i, through * tl.exp(-d), mask=there)
    bound = tl.exp(-tau)
    squared, slope = _excess(tl.exp(-tl.load(exit_tau + p, mask=inside, other=0)), bound)
    tl.store(loss + p, squared, mask=inside)
    tl.store(exit_pull + p, slope * bound, mask=inside)


@triton.jit
def _pull(
    weights,
    m0,
    m1,
    offsets,
    sample_weights,
    sample_m0,
    sample_m1,
    sample_offsets,
    scale,
    pull,
    loss,
    rays,
    RAYS: tl.constexpr,
    BINS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """How much each sample pulls its bound up; add the samples' losses, and scale."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    first, last, longest = _rows(offsets, p, inside)
    begin, end, most = _rows(sample_offsets, p, inside)
    total = tl.load(loss + p, mask=inside, other=0)
    for sample in range(0, most, SAMPLES):
        s = begin[:, None] + sample + tl.arange(0, SAMPLES)[None, :]
        own = s < end[:, None]
        near = tl.load(sample_m0 + s, mask=own, other=0)[:, :, None]
        far = tl.load(sample_m1 + s, mask=own, other=0)[:, :, None]
        bound = tl.zeros((RAYS, SAMPLES), weights.dtype.element_ty)
        for start in range(0, longest, BINS):
            i = first[:, None] + start + tl.arange(0, BINS)[None, :]
            there = i < last[:, None]
            w = tl.load(weights + i, mask=there, other=0)[:, None, :]
            b0 = tl.load(m0 + i, mask=there, other=0)[:, None, :]
            b1 = tl.load(m1 + i, mask=there, other=0)[:, None, :]
            bound += tl.sum(tl.where((b1 > near) & (b0 < far), w, 0), axis=2)
        squared, slope = _excess(tl.load(sample_weights + s, mask=own, other=0), bound)
        tl.store(pull + s, slope, mask=own)
        total += tl.sum(squared, axis=1)
    tl.store(loss + p, tl.load(scale + p, mask=inside, other=0) * total, mask=inside)


@triton.jit
def _gradient(
    weights,
    m0,
    m1,
    offsets,
    pull,
    sample_m0,
    sample_m1,
    sample_offsets,
    after,
    exit_pull,
    scale,
    grad,
    rays,
    RAYS: tl.constexpr,
    BINS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """With q_i = dL/dw_i: dL/dtau_i = T_{i+1} q_i - sum_{j>i} w_j q_j, from the last bin on."""
    p = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    inside = p < rays
    first, last, longest = _rows(offsets, p, inside)
    begin, end, most = _rows(sample_offsets, p, inside)
    at_exit = tl.load(exit_pull + p, mask=inside, other=0)[:, None]
    factor = tl.load(scale + p, mask=inside, other=0)[:, None]
    behind = tl.zeros((RAYS,), weights.dtype.element_ty)
    for start in range(0, longest, BINS):
        i = last[:, None] - 1 - start - tl.arange(0, BINS)[None, :]
        there = i >= first[:, None]
        b0 = tl.load(m0 + i, mask=there, other=0)[:, :, None]
        b1 = tl.load(m1 + i, mask=there, other=0)[:, :, None]
        q = tl.zeros((RAYS, BINS), weights.dtype.element_ty)
        for sample in range(0, most, SAMPLES):
            s = begin[:, None] + sample + tl.arange(0, SAMPLES)[None, :]
            own = s < end[:, None]
            near = tl.load(sample_m0 + s, mask=own, other=0)[:, None, :]
            far = tl.load(sample_m1 + s, mask=own, other=0)[:, None, :]
            slope = tl.load(pull + s, mask=own, other=0)[:, None, :]
            q -= tl.sum(tl.where((b1 > near) & (b0 < far), slope, 0), axis=2)
        part = tl.load(weights + i, mask=there, other=0) * q
        later = behind[:, None] + tl.cumsum(part, axis=1) - part
        slope_tau = tl.load(after + i, mask=there, other=0) * q - later + at_exit
        tl.store(grad + i, factor * slope_tau, mask=there)
        behind += tl.sum(part, axis=1)
