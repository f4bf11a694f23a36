"""What every exchange is: tiles dealt to ranks, a Route a batch, and sums in tile order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from nerfxl_kernels.compose import compose
from nerfxl_kernels.segment import segment
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Crossings


def deal(tiles: int, ranks: int) -> tuple[tuple[int, ...], ...]:
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
class Shaded:
    """What a rank's tiles say of the M samples of its Q crossings, packed.

    density: [M]. colour: [M, 3]. length: [M], scene units. middle, width: [M], in m.
    offsets: [Q + 1] int64: crossing q owns samples offsets[q] to offsets[q + 1].
    """

    density: Tensor
    colour: Tensor
    length: Tensor
    middle: Tensor
    width: Tensor
    offsets: Tensor

    def segments(self) -> tuple[Tensor, Tensor]:
        """A Segment a crossing [Q, 6], and the weights [M] that samples have in it."""
        geometry = (self.length, self.middle, self.width, self.offsets)
        return segment(self.density, self.colour, *geometry)


class Route(ABC):
    """One batch on its way: from rays to the tiles that they meet, and back.

    Values belong to crossings. On the rays' side there are the P crossings of the rays that this
    rank loads, ray by ray; on the tiles' side the Q crossings of the tiles that it owns, tile by
    tile, and each tile's by the number of the ray: the same rows in the same order on any number of
    ranks. Each method is a collective. `to_tiles` and `to_rays` are each other's adjoint.
    """

    crossings: Crossings

    @abstractmethod
    def depart(self, columns: Tensor) -> None:
        """Start to send [P, C], what the tiles must know of their crossings; without gradient."""

    @abstractmethod
    def arrive(self) -> tuple[Tensor, list[int]]:
        """What has been sent to this rank's tiles, [Q, C], and each own tile's number of rows."""

    @abstractmethod
    def to_tiles(self, values: Tensor, kind: str) -> Tensor:
        """[P, C] -> [Q, C]."""

    @abstractmethod
    def to_rays(self, values: Tensor, kind: str) -> Tensor:
        """[Q, C] -> [P, C]."""

    @abstractmethod
    def narrow(self, keep: Tensor) -> tuple[Route, Tensor]:
        """Go on with some crossings: their route, and which rows [Q] of the tiles' side they are.

        keep: [P] bool.
        """

    @abstractmethod
    def rounds(self) -> int:
        """The most tiles that a ray of any rank meets."""

    def compose(self, shaded: Shaded) -> tuple[Tensor, Tensor, Tensor]:
        """Fold samples into the scene's Segment of each ray (NeRF-XL sec. 4.3, eq. 5 to 8).

        Returns
        -------
        Segments [N, 6] of whole rays; of the tiles' side, each sample's weight in its tile [M] and
        each crossing's tau [Q], without gradient.
        """
        values, weights = shaded.segments()
        whole = along(self.crossings, self.to_rays(values, "segments"))
        return whole, weights, values.detach()[:, 0]


def along(crossings: Crossings, values: Tensor) -> Tensor:
    """Compose the Segments of all crossings along each ray: [P, 6] -> [N, 6]."""
    return compose(crossings.spread(values))


@dataclass(frozen=True)
class Exchange(ABC):
    """How R ranks that share K tiles tell each other what they know of a batch's rays."""

    ranks: Ranks
    tiles: int

    @cached_property
    def shares(self) -> tuple[tuple[int, ...], ...]:
        """The tiles of each rank."""
        return deal(self.tiles, self.ranks.size)

    @property
    def own(self) -> tuple[int, ...]:
        """The tiles of this rank."""
        return self.shares[self.ranks.rank]

    @property
    def keeps(self) -> tuple[int, ...]:
        """Of the own tiles, those that this rank alone speaks for: each tile is one rank's."""
        return self.own

    @cached_property
    def places(self) -> Tensor:
        """[K]: where each tile stands when tiles are counted rank by rank."""
        return torch.tensor(list(chain(*self.shares)), device=self.ranks.device).argsort()

    @property
    @abstractmethod
    def loads(self) -> tuple[int, ...]:
        """The tiles in whose name this rank loads photographs, draws rays and composes them."""

    @property
    def draws(self) -> slice:
        """Which of the rays of a step, drawn from what it loads, this rank takes."""
        return slice(None)

    @abstractmethod
    def route(self, crossings: Crossings, number: Tensor, count: int) -> Route:
        """Open the way of a batch; see `Batch` for number and count."""

    @abstractmethod
    def mine(self, count: int) -> slice:
        """Which rays of a picture's piece this rank loads."""

    @abstractmethod
    def whole(self, values: Tensor, count: int) -> Tensor:
        """Put a piece together again: values [n, C] of `mine` -> [count, C], on every rank."""

    def sum_copies(self, gradient: Tensor) -> None:
        """Add up, in place, what the ranks that hold the same tile have found; here it has one."""
        del gradient

    def sum_in_tile_order(self, rows: Tensor) -> Tensor:
        """Sum over tiles what each has to say, bit for bit the same on any number of ranks.

        rows: [K_own, S], of the own tiles. Rank r sums the r-th piece of S of all tiles, pairwise
        in tile order, and all gather the pieces: a rank receives about (K_own + 1) S numbers.
        """
        size, width = self.ranks.size, rows.shape[1]
        bounds = [width * r // size for r in range(size + 1)]
        widths = [bounds[r + 1] - bounds[r] for r in range(size)]
        pieces = torch.cat([piece.reshape(-1) for piece in torch.split(rows, widths, 1)])
        mine = widths[self.ranks.rank]
        leaving = [len(self.own) * piece for piece in widths]
        coming = [len(share) * mine for share in self.shares]
        every = self.ranks.swap(pieces, leaving, coming, "shared").wait().reshape(self.tiles, mine)
        return self.ranks.all_gather(pairwise_sum(every[self.places]), widths, "shared")


def pairwise_sum(rows: Tensor) -> Tensor:
    """The sum over rows, [K, S] -> [S], in an order that depends on K alone."""
    while len(rows) > 1:
        even = rows[: len(rows) // 2 * 2]
        rows = torch.cat([even[::2] + even[1::2], rows[len(even) :]])
    return rows[0]
