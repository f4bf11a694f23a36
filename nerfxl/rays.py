"""The nouns that travel: Rays, Batch, Truth, Crossings, Box, Segment, Still, Pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from nerfxl_kernels.march import Path
from torch import Tensor

TAU, MOMENT, DISTORTION, COLOUR = 0, 1, 2, slice(3, 6)
SEGMENT_WIDTH = 6


@dataclass(frozen=True)
class Rays:
    """A bundle of N rays in scene coordinates.

    origins: [N, 3]. directions: [N, 3], unit length, so that t is a ray distance.
    """

    origins: Tensor
    directions: Tensor

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Rays:
        return Rays(self.origins[index], self.directions[index])

    def at(self, t: Tensor) -> Tensor:
        """Points at distances t: [N] -> [N, 3]."""
        return self.origins + t[:, None] * self.directions


@dataclass(frozen=True)
class Batch:
    """The n rays of a step, or of a piece of a picture, that this rank loads, of `count` in all.

    rays: n of them. jitter: [n, 2] in [0, 1), of the lattice and of the samples. number: [n] int64,
    the place of each ray among all `count`, ascending. parts: what the background is asked for at
    once: (tile, rows), the rows of the photographs that the tile's owner loads; the same pieces on
    any number of ranks. Pictures need none. view: [n] int64, the row of each ray's photograph (see
    `Views`); None: nobody took it.
    """

    rays: Rays
    jitter: Tensor
    number: Tensor
    count: int
    parts: tuple[tuple[int, slice], ...] = ()
    view: Tensor | None = None

    @staticmethod
    def of(rays: Rays, jitter: Tensor, view: Tensor | None = None) -> Batch:
        """All rays there are."""
        number = torch.arange(len(rays), device=rays.origins.device)
        return Batch(rays, jitter, number, len(rays), view=view)

    def some(self, rows: slice) -> Batch:
        """Those that another rank does not take; their background is asked for at once."""
        view = None if self.view is None else self.view[rows]
        return Batch(self.rays[rows], self.jitter[rows], self.number[rows], self.count, view=view)


@dataclass(frozen=True)
class Truth:
    """What the n rays of a batch should find.

    colour: [n, 3] in [0, 1]. distance: [n], from the ray's origin to the capture's point that was
    seen there, scene units, 0 = unknown. sky: [n] bool, whether the sky is known to be seen.
    """

    colour: Tensor
    distance: Tensor
    sky: Tensor

    @staticmethod
    def of(colour: Tensor) -> Truth:
        """Colours alone."""
        unknown = torch.zeros_like(colour[:, 0])
        return Truth(colour, unknown, unknown.bool())

    def some(self, rows: slice) -> Truth:
        """Of some of the rays."""
        return Truth(self.colour[rows], self.distance[rows], self.sky[rows])


@dataclass(frozen=True)
class Crossings:
    """Where N rays meet tiles: P crossings, ray by ray, and each ray's front to back.

    rays: N. ray, tile, slot: [P] int64; slot: how many of the ray's tiles lie in front.
    depth: D, the most tiles that a ray meets.
    """

    rays: int
    ray: Tensor
    tile: Tensor
    slot: Tensor
    depth: int

    def __len__(self) -> int:
        return len(self.ray)

    def __getitem__(self, keep: Tensor) -> Crossings:
        """Some of the crossings, by a mask [P]; their slots stay."""
        return Crossings(self.rays, self.ray[keep], self.tile[keep], self.slot[keep], self.depth)

    def spread(self, values: Tensor) -> Tensor:
        """[P, C] -> [D, N, C], front to back, and zeros, the identity, where a ray meets fewer."""
        empty = values.new_zeros(self.depth * self.rays, *values.shape[1:])
        placed = empty.index_copy(0, self.slot * self.rays + self.ray, values)
        return placed.reshape(self.depth, self.rays, *values.shape[1:])

    def pick(self, grid: Tensor) -> Tensor:
        """[D, N, ...] -> [P, ...], the inverse of `spread`."""
        return grid.flatten(0, 1)[self.slot * self.rays + self.ray]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box; a side may be infinite."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @property
    def size(self) -> tuple[float, float, float]:
        """Edge lengths, scene units."""
        return (
            self.high[0] - self.low[0],
            self.high[1] - self.low[1],
            self.high[2] - self.low[2],
        )

    @property
    def centre(self) -> tuple[float, float, float]:
        """Centre, scene units."""
        return (
            (self.low[0] + self.high[0]) / 2,
            (self.low[1] + self.high[1]) / 2,
            (self.low[2] + self.high[2]) / 2,
        )


@dataclass(frozen=True)
class Segment:
    """What is known of N rays along one stretch: a view of six columns (method: NeRF-XL sec. 4.3).

    values: [..., 6] = (tau, moment, distortion, red, green, blue), all local to the stretch
    (transmittance restarts at 1 at its entry):

        tau         -log transmittance; opacity A = 1 - exp(-tau)
        moment      D = sum_i w_i m_i, not divided by A
        distortion  L = sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 delta_i
        colour      C = sum_i w_i c_i
    """

    values: Tensor

    @property
    def tau(self) -> Tensor:
        """[...]."""
        return self.values[..., TAU]

    @property
    def opacity(self) -> Tensor:
        """A = 1 - T: [...]."""
        return -torch.expm1(-self.values[..., TAU])

    @property
    def moment(self) -> Tensor:
        """[...]."""
        return self.values[..., MOMENT]

    @property
    def distortion(self) -> Tensor:
        """[...]."""
        return self.values[..., DISTORTION]

    @property
    def colour(self) -> Tensor:
        """[..., 3]."""
        return self.values[..., COLOUR]


@dataclass(frozen=True)
class Still:
    """N pixels of a picture that nobody learns from.

    colour: [N, 3] with the background. depth: [N], ray distance, scene units. opacity: [N]. spread:
    [N], how uncertain the depth is: the mean distance between two draws of where the ray's light
    ends, as a share of the depth. samples: how many samples of the field this rank's tiles were
    asked for.
    """

    WIDTH: ClassVar[int] = 6  # columns

    colour: Tensor
    depth: Tensor
    opacity: Tensor
    spread: Tensor
    samples: int

    @staticmethod
    def of(scene: Segment, path: Path, colour: Tensor, samples: int) -> Still:
        """Pixels of rays on which the whole scene is known; what passes it ends at m = 1.

        spread: with weights that sum to 1, the distortion L is the mean |m - m'|; here the rest T
        ends at m = 1, which adds 2 T (A - D). From m to distance: dt = sqrt(t^2 + c^2) ds, and s is
        linear in m.
        """
        through = torch.exp(-scene.tau)
        depth = distance(path, (scene.moment + through).clamp(0, 1))
        apart = scene.distortion + 2 * through * (scene.opacity - scene.moment)
        cone = torch.sqrt(1 + (path.scale / depth.clamp(min=path.scale / 1e3)) ** 2)
        return Still(colour, depth, scene.opacity, apart.clamp(min=0) * path.span * cone, samples)

    def columns(self) -> Tensor:
        """Colour, depth, opacity and spread, to be sent: [N, 6]."""
        return torch.cat([self.colour, torch.stack([self.depth, self.opacity, self.spread], 1)], 1)

    @staticmethod
    def from_columns(columns: Tensor, samples: int = 0) -> Still:
        """What `columns` gave."""
        depth, opacity, spread = columns[:, 3:].unbind(1)
        return Still(columns[:, :3], depth, opacity, spread, samples)


@dataclass(frozen=True)
class Pixels:
    """N rendered pixels, and what is learned from them.

    colour: [N, 3] with the background. samples: as of `Still`. distortion: [N]. mean: [N], the mean
    m of where light ends; what passes all tiles ends at m = 1. tau: [N], the optical depth. path:
    of the rays, which says what m is.
    """

    colour: Tensor
    samples: int
    distortion: Tensor
    mean: Tensor
    tau: Tensor
    path: Path

    @property
    def depth(self) -> Tensor:
        """Ray distance [N], scene units, without gradient."""
        return distance(self.path, self.mean.detach().clamp(0, 1))

    @property
    def opacity(self) -> Tensor:
        """[N], without gradient."""
        return -torch.expm1(-self.tau.detach())

    @torch.no_grad()
    def m(self, away: Tensor) -> Tensor:
        """Ray distances [N], scene units -> m; below 0 in front of where rays start."""
        return (torch.asinh(away / self.path.scale) - self.path.first) / self.path.span


def distance(path: Path, m: Tensor, ray: Tensor | slice = slice(None)) -> Tensor:
    """Ray distance, scene units, of places m in [0, 1] on paths: [M], of which ray [M] says."""
    return path.scale * torch.sinh(path.first[ray] + m * path.span[ray])
