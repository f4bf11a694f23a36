"""Segments across ranks: forward exchange, no backward exchange (NeRF-XL sec. 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.ranks import Ranks


class Exchange(Protocol):
    """How the tiles of all ranks come to know of each other; each method is a collective."""

    @property
    def own(self) -> tuple[int, ...]:
        """The tiles of this rank."""
        ...

    def __call__(self, own: Tensor) -> Tensor:
        """[K_own, N, C] of this rank's tiles -> [K, N, C] of all tiles."""
        ...

    def sum_shared_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients of parameters that all tiles share and use before the exchange."""
        ...


def owner(tiles: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    """Tiles of each rank, ascending: every tile once, shares that differ by one at most.

    Dealt out forth and back, as 0 1 1 0 for four tiles on two ranks: tiles that follow each other
    are neighbours, which one picture is likely to see together, and so are work for several ranks.

    Raises
    ------
    UserError
        If there are more ranks than tiles.

    """
    if not 1 <= ranks <= tiles:
        raise UserError(
            f"{ranks} processes cannot share {tiles} tiles: every process owns at least one, so "
            f"pass --nproc {tiles} or fewer, or plan more tiles."
        )
    turn = [*range(ranks), *reversed(range(ranks))]
    dealt = [turn[k % (2 * ranks)] for k in range(tiles)]
    return tuple(tuple(k for k in range(tiles) if dealt[k] == r) for r in range(ranks))


@dataclass(frozen=True)
class Gather:
    """The exchange of the paper: every rank receives the values of every tile.

    Own values stay attached to autograd and the others are plain values. Every rank then computes
    the same global loss; a tile's parameters enter it only through the tile's own Segment, so
    back-propagation on its owner is the exact gradient and nothing is sent backward. There is no
    factor 1/R (the loss is computed R times, not shared out) and no factor R (the gather has no
    backward).
    """

    ranks: Ranks
    tiles: int

    @property
    def own(self) -> tuple[int, ...]:
        """The tiles of this rank."""
        return owner(self.tiles, self.ranks.size)[self.ranks.rank]

    def __call__(self, own: Tensor) -> Tensor:
        """[K_own, N, C] of this rank's tiles -> [K, N, C] of all tiles, in tile order.

        Also for values without gradient (a proposal's tau, [K_own, N, 1]). With one rank this is
        the identity.
        """
        if self.ranks.size == 1:
            return own
        shares = owner(self.tiles, self.ranks.size)
        rank_by_rank = self.ranks.all_gather(own, [len(tiles) for tiles in shares])
        rows = dict(zip(chain(*shares), rank_by_rank, strict=True))
        rows |= zip(self.own, own, strict=True)  # these are attached to autograd
        return torch.stack([rows[tile] for tile in range(self.tiles)])

    def sum_shared_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum over ranks, in place, the gradients of parameters that all tiles share.

        For what is used inside tiles (colour MLP, appearance, poses). Not for what is used on the
        composed pixel (background, exposure): there every rank has the full gradient already.
        A missing gradient counts as zeros and becomes a tensor, on any number of ranks, so that
        an optimiser takes the same step however many ran.
        """
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.ranks.all_reduce_sum(gradients)
