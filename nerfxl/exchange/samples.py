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
        offsets, every = self.along_rays(shaded.offsets, torch.cat([rows, shaded.colour], 1))
        depth, middle, width = every[:, :3].unbind(1)
        whole, _ = segment(depth, every[:, 3:], torch.ones_like(depth), middle, width, offsets)
        with torch.no_grad():
            values, weights = shaded.segments()
        return whole, weights, values[:, 0]
