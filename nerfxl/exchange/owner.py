"""The exchange for many ranks: each loads its share of the rays, and asks the tiles they meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nerfxl.exchange.exchange import Exchange, Route
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Crossings


class Owner(Exchange):
    """Rays go to the owners of the tiles that they meet, and Segments come back.

    Each rank loads a share of the photographs, composes its own pixels and computes its part of the
    loss; the gradient of each Segment goes to the tile that said it. What a rank sends and holds
    grows with the tiles that its rays meet, not with K, and no rank holds all photographs.
    """

    @property
    def loads(self) -> tuple[int, ...]:
        """Its own."""
        return self.own

    def route(self, crossings: Crossings, number: Tensor, count: int) -> OwnerRoute:
        """Open the way of a batch: says how many rows will come."""
        return OwnerRoute(self, crossings, number, count)

    def mine(self, count: int) -> slice:
        """Every R-th."""
        return slice(self.ranks.rank, count, self.ranks.size)

    def whole(self, values: Tensor, count: int) -> Tensor:
        """Gather what each rank has composed."""
        return put_together(self.ranks, values, count)


def put_together(ranks: Ranks, values: Tensor, count: int) -> Tensor:
    """What every R-th row is known to each rank -> all rows [count, C], on every rank."""
    counts = [len(range(r, count, ranks.size)) for r in range(ranks.size)]
    rows = ranks.all_gather(values, counts, "pixels")
    out = torch.empty_like(rows)
    for r, part in enumerate(torch.split(rows, counts)):
        out[r :: ranks.size] = part
    return out


class OwnerRoute(Route):
    """Who sends whom how many rows, and the order of rows on each side.

    outward: [P] int64, the crossings in the order in which they leave: by the tile's owner, tile
    and number of the ray. inward: [Q] int64, in which row of those that came each crossing of the
    tiles' side lies.
    """

    outward: Tensor
    inward: Tensor
    rows: list[int]
    leaving: list[int]
    coming: list[int]

    def __init__(
        self, exchange: Exchange, crossings: Crossings, number: Tensor, count: int
    ) -> None:
        ranks, device = exchange.ranks, crossings.tile.device
        self.ranks, self.crossings, self.count = ranks, crossings, max(1, count)
        self.tiles = len(exchange.own)
        places = exchange.places[crossings.tile]
        key = places * self.count + number[crossings.ray]
        self.outward = key.argsort()
        sizes = torch.tensor([len(share) for share in exchange.shares], device=device)
        ends = sizes.cumsum(0)
        to = torch.searchsorted(ends, places, right=True)
        leaving = torch.bincount(to, minlength=ranks.size)
        self.keys = (key - (ends - sizes)[to] * self.count)[self.outward]
        self.leaving = leaving.tolist()
        one = [1] * ranks.size
        self.sizes = ranks.swap(leaving, one, one, "rays")

    def depart(self, columns: Tensor) -> None:
        """Send keys and columns to the tiles' owners."""
        self.coming = self.sizes.wait().tolist()
        self.travelling = [
            self.ranks.swap(rows, self.leaving, self.coming, "rays")
            for rows in (self.keys, columns[self.outward])
        ]

    def arrive(self) -> tuple[Tensor, list[int]]:
        """Put in order what came."""
        keys, rows = (swap.wait() for swap in self.travelling)
        self.inward = keys.argsort()
        self.rows = torch.bincount(keys // self.count, minlength=self.tiles).tolist()
        return rows[self.inward], self.rows

    def to_tiles(self, values: Tensor, kind: str) -> Tensor:
        """Send each row to its tile's owner."""
        moved: Tensor = _Moved.apply(values, self, True, kind)  # type: ignore[no-untyped-call]
        return moved

    def to_rays(self, values: Tensor, kind: str) -> Tensor:
        """Send each row to the rank that loaded its ray."""
        moved: Tensor = _Moved.apply(values, self, False, kind)  # type: ignore[no-untyped-call]
        return moved

    def rounds(self) -> int:
        """Ask all ranks."""
        return self.ranks.most(self.crossings.depth)

    def narrow(self, keep: Tensor) -> tuple[OwnerRoute, Tensor]:
        """Leave out the other crossings, on both sides."""
        kept = self.to_tiles(keep.to(torch.uint8)[:, None], "kept")[:, 0].bool()
        part = object.__new__(OwnerRoute)
        part.ranks, part.tiles, part.count = self.ranks, self.tiles, self.count
        part.crossings = self.crossings[keep]
        part.outward, part.leaving = _thinned(self.outward, keep, self.leaving)
        came = torch.empty_like(kept)
        came[self.inward] = kept
        part.coming = [int(one.sum()) for one in torch.split(came, self.coming)]
        part.inward = (came.cumsum(0) - 1)[self.inward[kept]]
        part.rows = [int(one.sum()) for one in torch.split(kept, self.rows)]
        return part, kept

    def move(self, values: Tensor, outward: bool, kind: str) -> Tensor:
        """Rows [P, C] of rays to [Q, C] of tiles, or back."""
        if outward:
            rows = self.ranks.swap(values[self.outward], self.leaving, self.coming, kind).wait()
            return rows[self.inward]
        rows = torch.empty_like(values)
        rows[self.inward] = values
        rows = self.ranks.swap(rows, self.coming, self.leaving, kind).wait()
        out = torch.empty_like(rows)
        out[self.outward] = rows
        return out


class _Moved(torch.autograd.Function):
    """A permutation of rows across ranks: its adjoint is its inverse."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, route: OwnerRoute, outward: bool, kind: str) -> Tensor:
        ctx.route, ctx.outward, ctx.kind = route, outward, kind
        return route.move(values, outward, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        kind = f"gradients of {ctx.kind}"
        return ctx.route.move(grad.contiguous(), not ctx.outward, kind), None, None, None


def _thinned(order: Tensor, keep: Tensor, counts: list[int]) -> tuple[Tensor, list[int]]:
    """Leave out rows of an order [P] that is cut into pieces: the new order and pieces."""
    left = keep[order]
    return (keep.cumsum(0) - 1)[order[left]], [int(one.sum()) for one in torch.split(left, counts)]
