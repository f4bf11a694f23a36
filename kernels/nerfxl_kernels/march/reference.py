"""Marching in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nerfxl_kernels.march.space import Domain, Path


@torch.no_grad()
def march(
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    bins: int,
    within: tuple[Path, Domain, Tensor] | None = None,
    budget: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.march`."""
    edge = torch.arange(-1, bins + 1, device=enter.device, dtype=enter.dtype)
    edges = ((edge + jitter[:, None]) / bins).clamp(enter[:, None], leave[:, None])
    m0, m1 = edges[:, :-1], edges[:, 1:]
    keep = m1 > m0  # [P, bins + 1]
    if within is not None:
        path, domain, occupied = within
        one_ray = torch.arange(0, keep.numel() + 1, keep.shape[1], device=enter.device)
        points, _ = place(m0.reshape(-1), m1.reshape(-1), one_ray, path, domain)
        side = occupied.shape[0]
        i, j, k = (points * side).long().clamp(0, side - 1).unbind(-1)
        keep = keep & occupied[i, j, k].reshape(keep.shape)
    offsets = offsets_of(keep.sum(-1), budget)
    keep = keep & (offsets.diff() > 0)[:, None]
    return offsets, m0[keep], m1[keep]


def offsets_of(counts: Tensor, budget: int | None) -> Tensor:
    """Counts [P] -> offsets [P + 1]; no room from the first ray on that exceeds the budget.

    >>> offsets_of(torch.tensor([2, 0, 3, 1]), 4)
    tensor([0, 2, 2, 2, 2])
    """
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    if budget is None:
        return offsets
    served = offsets.where(offsets <= budget, 0).amax()
    return offsets.minimum(served)


def place(
    m0: Tensor, m1: Tensor, offsets: Tensor, path: Path, domain: Domain
) -> tuple[Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.place`."""
    ray = torch.repeat_interleave(offsets.diff())
    first, span = path.first[ray], path.span[ray]

    def distance(m: Tensor) -> Tensor:
        s = first + m * span
        return s if math.isinf(path.scale) else path.scale * torch.sinh(s)

    t = distance((m0 + m1) / 2)
    points = path.origins[ray] + t[:, None] * path.directions[ray]
    return contract(points, domain), distance(m1) - distance(m0)


def contract(points: Tensor, domain: Domain) -> Tensor:
    """Scene coordinates [..., 3] -> field coordinates in [0, 1]."""
    u = (points - points.new_tensor(domain.centre)) / domain.half
    if not domain.open:
        return (u + 1) / 2
    n = u.abs().amax(-1, keepdim=True).clamp(min=1)
    return (u / n * (2 - 1 / n) + 2) / 4
