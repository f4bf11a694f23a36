"""Resampling in plain torch: rays padded to the longest, gradients by autograd."""

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
    low, high = stretch.double().split(1, dim=-1)  # type: ignore[no-untyped-call]  # [P, 1]
    every = torch.arange(samples + 1, device=m0.device, dtype=torch.float64)
    u = (every + jitter[:, None]) / (samples + 1)  # [P, N + 1]
    inside = (u >= low) & (u < high)
    in_front, behind = (u < low).any(1), (u >= high).any(1)
    faces = (inside.any(1) | (in_front & behind)) & (offsets.diff() > 0)

    b0, b1 = _padded(m0, offsets), _padded(m1, offsets)  # [P, B]
    mass = before[:, None] * _weights(_padded(depth, offsets)) + padding * (b1 - b0)
    end = mass.double().cumsum(1)
    target = (u - low) / (high - low) * end[:, -1:]
    last = (offsets.diff() - 1).clamp(min=0)[:, None]
    bin_ = torch.searchsorted(end, target, right=True).minimum(last)
    start = (end - mass).gather(1, bin_)
    share = ((target - start) / mass.gather(1, bin_)).clamp(0, 1).to(m0.dtype)
    drawn = b0.gather(1, bin_) + share * (b1 - b0).gather(1, bin_)

    edges = torch.cat([b0[:, :1], drawn, b1.gather(1, last)], 1)
    kept = torch.cat([(faces & in_front)[:, None], inside, (faces & behind)[:, None]], 1)
    kept &= (offsets.diff() > 0)[:, None]
    flat, ray = edges[kept], kept.nonzero()[:, 0]
    joined = ray[1:] == ray[:-1]  # an interval lies between two edges of one ray
    counts = (kept.sum(1) - 1).clamp(min=0)
    packed = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return packed, flat[:-1][joined], flat[1:][joined]


def _padded(packed: Tensor, offsets: Tensor) -> Tensor:
    """Packed values as a row a ray, zeros behind the last: [B] -> [P, longest], one at least."""
    counts = offsets.diff()
    column = torch.arange(max(1, int(counts.max()) if len(counts) else 0), device=packed.device)
    used = column < counts[:, None]
    return packed.new_zeros(used.shape).masked_scatter(used, packed)


def _weights(depth: Tensor) -> Tensor:
    before = torch.nn.functional.pad(depth, (1, 0))[..., :-1].cumsum(-1)
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
    tau = _padded(depth, offsets)  # [P, B]
    low, high = _padded(m0, offsets)[:, None], _padded(m1, offsets)[:, None]  # [P, 1, B]
    weights = _padded(sample_weights, sample_offsets)  # [P, S], zero behind the last: no excess
    start, end = (_padded(m, sample_offsets)[..., None] for m in (sample_m0, sample_m1))
    bound = (((high > start) & (low < end)) * _weights(tau)[:, None]).sum(-1)
    inside = _excess(weights, bound).sum(-1)
    exit_excess = _excess(torch.exp(-exit_tau), torch.exp(-tau.sum(-1)))
    return (scale * (inside + exit_excess)).sum()


def _excess(weight: Tensor, bound: Tensor) -> Tensor:
    return (weight - bound).clamp(min=0) ** 2 / (weight + 1e-7)
