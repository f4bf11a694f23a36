"""The sample-based exchange (NeRF-XL sec. 4.2): every rank receives every sample."""

from __future__ import annotations

import torch
from nerfxl_kernels.segment import segment
from torch import Tensor

from nerfxl.exchange.exchange import Shaded
from nerfxl.exchange.gather import Gather, GatherRoute
from nerfxl.rays import Crossings


class Samples(Gather):
    """The paper's first form, the baseline of its Fig. 12: bytes grow with samples, not tiles.

    A sample is a Segment too: the same fold, over all samples of a ray at once.
    """

    def route(self, crossings: Crossings, number: Tensor, count: int) -> SampleRoute:
        """Open the way of a batch."""
        del number, count
        return SampleRoute(self, crossings)


class SampleRoute(GatherRoute):
    """As `GatherRoute`, but for training: there samples travel, six floats each."""

    def compose(self, shaded: Shaded) -> tuple[Tensor, Tensor, Tensor]:
        """Gather optical depth, middle, width and colour of all samples, and fold them by ray."""
        tau = shaded.density * shaded.length
        rows = torch.stack([tau, shaded.middle, shaded.width], 1)
        rows = torch.cat([rows, shaded.colour], 1)
        held = super().to_rays(shaded.offsets.diff(), "counts")  # [P], samples of each crossing
        ends = held.cumsum(0)

        # Rows of ranks, by tile, by ray -> rows of rays, front to back.
        came = held[self.by_tile]
        first = (ends - held)[self.by_tile]  # where each crossing's samples go
        within = torch.arange(int(ends[-1]) if len(ends) else 0, device=tau.device)
        within = within - torch.repeat_interleave(came.cumsum(0) - came, came)
        goes = torch.repeat_interleave(first, came) + within
        totals = torch.split(came, self.counts)
        counts = [int(total.sum()) for total in totals]
        before = sum(counts[: self.ranks.rank])
        mine = goes[before : before + counts[self.ranks.rank]]
        every = rows.new_empty(len(goes), 6)
        if self.ranks.size > 1:
            every[goes] = self.ranks.all_gather(rows, counts, "samples")
        every = every.index_copy(0, mine, rows)

        per_ray = held.new_zeros(self.crossings.rays).index_add(0, self.crossings.ray, held)
        offsets = torch.nn.functional.pad(per_ray.cumsum(0), (1, 0))
        depth, middle, width = every[:, :3].unbind(1)
        whole, _ = segment(depth, every[:, 3:], torch.ones_like(depth), middle, width, offsets)
        with torch.no_grad():
            values, weights = shaded.segments()
        return whole, weights, values[:, 0]
