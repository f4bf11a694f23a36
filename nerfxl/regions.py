"""What each of several independent NeRFs is for: boxes that overlap, and how much each counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nerfxl.partition import Plan, clipped
from nerfxl.rays import Box, Rays


@dataclass(frozen=True)
class Regions:
    """The K cells of a plan, grown; a point in several of them counts for each in part.

    plan: of space (a NeRF a tile), or of the places of the cameras (a NeRF a group). overlap: by
    how much of its edge a cell is grown; outer faces at infinity stay there.
    """

    plan: Plan
    overlap: float

    def box(self, k: int) -> Box:
        """A cell, grown about its centre."""
        return grown(self.plan.tiles[k], self.plan.cores[k], self.overlap)

    def core(self, k: int) -> Box:
        """The same of the finite cell."""
        return grown(self.plan.cores[k], self.plan.cores[k], self.overlap)

    def weights(self, points: Tensor) -> Tensor:
        """How much each cell counts at points [N, 3]: [N, K], each row sums to 1.

        In proportion to how deep the point lies inside each grown cell; where it lies in one alone,
        or in none, that which holds it counts alone.
        """
        depth = torch.stack([_depth(self.box(k), points) for k in range(len(self.plan))], 1)
        total = depth.sum(1, keepdim=True)
        alone = torch.nn.functional.one_hot(self.plan.tile_of(points), len(self.plan))
        shares = torch.where(total.isfinite() & (total > 0), depth / total, alone.to(depth))
        return shares.nan_to_num(0.0)


def grown(box: Box, core: Box, share: float) -> Box:
    """A box whose finite faces lie `share / 2` of the core's edges farther out."""
    more = [share / 2 * edge for edge in core.size]
    low = [side - by for side, by in zip(box.low, more, strict=True)]
    high = [side + by for side, by in zip(box.high, more, strict=True)]
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def meets(box: Box, rays: Rays) -> Tensor:
    """Whether rays [N] meet a box, whose sides may be infinite, in front of their origins: [N]."""
    start = torch.zeros_like(rays.origins[:, 0])
    enter, leave = clipped(box, rays, start, torch.full_like(start, math.inf))
    return enter < leave


def holds(box: Box, points: Tensor) -> Tensor:
    """Whether points [N, 3] lie in a box; those on a face, as `Plan.tile_of` has it: [N]."""
    low, high = points.new_tensor(box.low), points.new_tensor(box.high)
    return ((points >= low) & (points < high)).all(1)


def _depth(box: Box, points: Tensor) -> Tensor:
    """How far inside a box points [N, 3] lie, to the nearest finite face; 0 outside: [N]."""
    low, high = points.new_tensor(box.low), points.new_tensor(box.high)
    nearest = torch.minimum(points - low, high - points).amin(1)
    return nearest.clamp(min=0)
