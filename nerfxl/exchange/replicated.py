"""Data-parallel training, for comparison: every rank holds all tiles and a share of the rays."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from torch import Tensor

from nerfxl.exchange.exchange import Exchange, Route, pairwise_sum
from nerfxl.exchange.gather import GatherRoute
from nerfxl.exchange.owner import put_together
from nerfxl.rays import Crossings


class Replicated(Exchange):
    """What is usually called DDP: rays are split, and all gradients are summed over ranks.

    A step learns from the same rays as `Gather`'s, and the sum of gradients is the same to
    rounding; memory does not fall with ranks, and a rank receives about twice the size of its
    tiles each step.
    """

    @cached_property
    def shares(self) -> tuple[tuple[int, ...], ...]:
        """All tiles on every rank."""
        return (tuple(range(self.tiles)),) * self.ranks.size

    @property
    def keeps(self) -> tuple[int, ...]:
        """Every R-th; none, of a rank beyond the number of tiles."""
        return tuple(range(self.ranks.rank, self.tiles, self.ranks.size))

    @property
    def loads(self) -> tuple[int, ...]:
        """All."""
        return tuple(range(self.tiles))

    @property
    def draws(self) -> slice:
        """Every R-th."""
        return slice(self.ranks.rank, None, self.ranks.size)

    def route(self, crossings: Crossings, number: Tensor, count: int) -> Route:
        """Nothing is sent."""
        del number, count
        alone = replace(self.ranks, rank=0, size=1)
        return GatherRoute(Replicated(alone, self.tiles), crossings)

    def mine(self, count: int) -> slice:
        """Every R-th."""
        return slice(self.ranks.rank, count, self.ranks.size)

    def whole(self, values: Tensor, count: int) -> Tensor:
        """Gather what each rank has composed."""
        return put_together(self.ranks, values, count)

    def sum_in_tile_order(self, rows: Tensor) -> Tensor:
        """Sum over tiles here, and then over ranks."""
        return self.ranks.sum(pairwise_sum(rows), "shared")

    def sum_copies(self, gradient: Tensor) -> None:
        """Sum over ranks, in place."""
        gradient.copy_(self.ranks.sum(gradient, "tiles"))
