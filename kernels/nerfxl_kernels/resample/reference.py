"""Resampling in plain torch, a ray at a time: slow, and plain to read."""

from __future__ import annotations

import torch
from torch import Tensor


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
    starts, ends, counts = [], [], []
    every = torch.arange(samples + 1, device=m0.device, dtype=torch.float64)
    for p in range(offsets.shape[0] - 1):
        bins = slice(int(offsets[p]), int(offsets[p + 1]))
        low, high = stretch[p].double()
        u = (every + jitter[p]) / (samples + 1)
        inside = u[(u >= low) & (u < high)]
        in_front, behind = bool((u < low).any()), bool((u >= high).any())
        edges = _invert(inside, m0[bins], m1[bins], depth[bins], before[p], low, high, padding)
        if len(m0[bins]) and in_front and len(edges) + behind:
            edges = torch.cat([m0[bins][:1], edges])
        if len(m0[bins]) and behind and len(edges):
            edges = torch.cat([edges, m1[bins][-1:]])
        starts.append(edges[:-1])
        ends.append(edges[1:])
        counts.append(len(edges[:-1]))
    packed = torch.nn.functional.pad(torch.tensor(counts, device=m0.device).cumsum(0), (1, 0))
    empty = m0.new_empty(0)
    return packed.long(), torch.cat([empty, *starts]), torch.cat([empty, *ends])


def _invert(
    u: Tensor,
    m0: Tensor,
    m1: Tensor,
    depth: Tensor,
    before: Tensor,
    low: Tensor,
    high: Tensor,
    padding: float,
) -> Tensor:
    """Positions m at which the tile's cumulated p, scaled to [low, high], reaches u."""
    if not len(m0):
        return m0
    mass = (before * _weights(depth) + padding * (m1 - m0)).double()
    end = mass.cumsum(0)
    target = (u - low) / (high - low) * end[-1]
    i = torch.searchsorted(end, target, right=True).clamp(max=len(m0) - 1)
    share = ((target - (end - mass)[i]) / mass[i]).clamp(0, 1)
    return m0[i] + share.to(m0.dtype) * (m1 - m0)[i]


def _weights(depth: Tensor) -> Tensor:
    before = torch.nn.functional.pad(depth, (1, 0))[:-1].cumsum(-1)
    return torch.exp(-before) * -torch.expm1(-depth)


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
) -> Tensor:
    """See `nerfxl_kernels.resample.op.interlevel`."""
    loss = depth.new_zeros(())
    for p in range(offsets.shape[0] - 1):
        bins = slice(int(offsets[p]), int(offsets[p + 1]))
        own = slice(int(sample_offsets[p]), int(sample_offsets[p + 1]))
        overlap = (m1[bins] > sample_m0[own, None]) & (m0[bins] < sample_m1[own, None])
        bound = (overlap * _weights(depth[bins])).sum(-1)
        excess = _excess(sample_weights[own], bound).sum()
        exit_excess = _excess(torch.exp(-exit_tau[p]), torch.exp(-depth[bins].sum()))
        loss = loss + scale[p] * (excess + exit_excess)
    return loss


def _excess(weight: Tensor, bound: Tensor) -> Tensor:
    return (weight - bound).clamp(min=0) ** 2 / (weight + 1e-7)
