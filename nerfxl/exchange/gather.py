"""The exchange of the paper: every rank receives the Segments of all tiles (NeRF-XL sec. 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from nerfxl.exchange.exchange import Exchange, Route
from nerfxl.rays import Crossings


class Gather(Exchange):
    """All ranks load all rays and compose all pixels; each renders through its own tiles.

    Own Segments stay attached to autograd and the others are plain values. Every rank computes the
    same loss; a tile's parameters enter it only through the tile's own Segment, so back-propagation
    on its owner is the exact gradient and nothing is sent backward. There is no factor 1/R (the
    loss is computed R times, not shared out) and no factor R (the gather has no backward).
    """

    @property
    def loads(self) -> tuple[int, ...]:
        """All."""
        return tuple(range(self.tiles))

    def route(self, crossings: Crossings, number: Tensor, count: int) -> GatherRoute:
        """Open the way of a batch: nothing needs to be sent, all ranks know all rays."""
        del number, count
        return GatherRoute(self, crossings)

    def mine(self, count: int) -> slice:
        """All."""
        return slice(count)

    def whole(self, values: Tensor, count: int) -> Tensor:
        """As it is."""
        assert len(values) == count
        return values


class GatherRoute(Route):
    """Rows lie in rank order, by tile, by ray; `mine` says which of them are this rank's."""

    def __init__(self, exchange: Exchange, crossings: Crossings) -> None:
        self.exchange, self.crossings = exchange, crossings
        self.ranks, places = exchange.ranks, exchange.places
        by_tile = (places[crossings.tile] * crossings.rays + crossings.ray).argsort()
        held = torch.bincount(crossings.tile, minlength=len(places)).tolist()
        self.rows = [held[tile] for tile in exchange.own]
        self.counts = [sum(held[tile] for tile in share) for share in exchange.shares]
        first = sum(self.counts[: self.ranks.rank])
        self.by_tile = by_tile
        self.mine = by_tile[first : first + self.counts[self.ranks.rank]]

    def depart(self, columns: Tensor) -> None:
        """Keep them: they are known here."""
        self.columns = columns

    def arrive(self) -> tuple[Tensor, list[int]]:
        """Those of the own tiles."""
        return self.columns[self.mine], self.rows

    def to_tiles(self, values: Tensor, kind: str) -> Tensor:
        """Pick those of the own tiles; nothing is sent."""
        del kind
        return values[self.mine]

    def to_rays(self, values: Tensor, kind: str) -> Tensor:
        """Gather them from all ranks; the gradient of the own alone comes back."""
        every = values.new_empty(len(self.crossings), *values.shape[1:])
        if self.ranks.size > 1:
            every[self.by_tile] = self.ranks.all_gather(values, self.counts, kind)
        return every.index_copy(0, self.mine, values)

    def rounds(self) -> int:
        """Known here."""
        return self.crossings.depth

    def narrow(self, keep: Tensor) -> tuple[GatherRoute, Tensor]:
        """Leave out the other crossings."""
        return type(self)(self.exchange, self.crossings[keep]), keep[self.mine]

    def along_rays(self, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All samples of all ranks, ray by ray and each ray's front to back.

        offsets: [Q + 1] int64, of the crossings of the tiles' side. rows: [M, C], what is known of
        their samples; the gradient of the own alone comes back.

        Returns
        -------
        The same of whole rays: offsets [N + 1], rows of all samples [., C].
        """
        held = self.to_rays(offsets.diff(), "counts")  # [P], samples of each crossing
        ends = held.cumsum(0)

        # Rows of ranks, by tile, by ray -> rows of rays, front to back.
        came = held[self.by_tile]
        first = (ends - held)[self.by_tile]  # where each crossing's samples go
        within = torch.arange(int(ends[-1]) if len(ends) else 0, device=rows.device)
        within = within - torch.repeat_interleave(came.cumsum(0) - came, came)
        goes = torch.repeat_interleave(first, came) + within
        totals = torch.split(came, self.counts)
        counts = [int(total.sum()) for total in totals]
        before = sum(counts[: self.ranks.rank])
        mine = goes[before : before + counts[self.ranks.rank]]
        every = rows.new_empty(len(goes), *rows.shape[1:])
        if self.ranks.size > 1:
            every[goes] = self.ranks.all_gather(rows, counts, "samples")
        every = every.index_copy(0, mine, rows)
        per_ray = held.new_zeros(self.crossings.rays).index_add(0, self.crossings.ray, held)
        return torch.nn.functional.pad(per_ray.cumsum(0), (1, 0)), every
