"""Marching in plain torch."""

from __future__ import annotations

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
    offsets = torch.nn.functional.pad(keep.sum(-1).cumsum(0), (1, 0))
    return offsets, m0[keep], m1[keep]


def place(
    m0: Tensor, m1: Tensor, offsets: Tensor, path: Path, domain: Domain
) -> tuple[Tensor, Tensor]:
    """See `nerfxl_kernels.march.op.place`."""
    ray = torch.repeat_interleave(offsets.diff())
    first, span = path.first[ray], path.span[ray]

    def distance(m: Tensor) -> Tensor:
        return path.scale * torch.sinh(first + m * span)

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
