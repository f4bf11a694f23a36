"""Pictures of independent NeRFs: blended in space (Mega-NeRF) or in the picture (Block-NeRF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from nerfxl_kernels.march import place
from nerfxl_kernels.segment import segment
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.exchange import Exchange, Gather, GatherRoute
from nerfxl.field import Shared, Tile
from nerfxl.partition import Plan
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Batch, Segment, Still, distance
from nerfxl.regions import Regions, holds
from nerfxl.render import FAR, Cast, Renderer, ask
from nerfxl.scene.spec import SamplingSpec


class Painter(Protocol):
    """Whoever makes pictures of what a run has learned: `Renderer`, or one of these."""

    @property
    def exchange(self) -> Exchange:
        """To the other ranks."""

    def still(self, batch: Batch, padding: float, samples: int) -> Still:
        """Pixels of rays that nobody learns from; a collective."""

    def query(self, points: Tensor, directions: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour of points, where this process holds all tiles (see `Renderer`)."""


class InSpace:
    """Each point of space is the weighted mean of the NeRFs that are for it.

    Samples lie where, in each tile, its own NeRF proposes them. Density is sum_k w_k(x) density_k,
    colour is weighted by w_k density_k, with `Regions.weights`; what is behind everything is seen
    by the NeRF in whose tile the ray ends. Without overlap each point is asked of one NeRF, and the
    seam between two is as sharp as their disagreement.

    Parameters
    ----------
    plan: all K tiles. tiles, shared: the fields of the NeRFs at hand, ascending.
    """

    def __init__(
        self,
        plan: Plan,
        regions: Regions,
        tiles: Sequence[Tile],
        shared: Sequence[Shared],
        sampling: SamplingSpec,
        near: float,
        ranks: Ranks,
    ) -> None:
        self.plan, self.regions = plan, regions
        self.exchange: Exchange = Gather(ranks, len(plan))
        self.renderer = Renderer(plan, tiles, shared, sampling, near, self.exchange)

    @torch.no_grad()
    def still(self, batch: Batch, padding: float, samples: int) -> Still:
        """Pixels; poses are taken as the capture has them, for each NeRF has its own idea."""
        made = self.renderer
        cast = made.depart(made.cast(Batch.of(batch.rays, batch.jitter)))
        own, _ = made.sample(cast, made.arrive(cast), padding, samples, learn_proposal=False)
        route = cast.route
        assert isinstance(route, GatherRoute)
        offsets, ends = route.along_rays(own.offsets, torch.stack([own.m0, own.m1], 1))
        m0, m1 = ends.unbind(1)
        ray, path = torch.repeat_interleave(offsets.diff()), cast.path
        t = distance(path, (m0 + m1) / 2, ray)
        points = path.origins[ray] + t[:, None] * path.directions[ray]
        weights = self.regions.weights(points)
        view = made.shared[0].views.rows(batch.view, batch.rays.origins)
        behind = torch.nn.functional.one_hot(self._ends(cast), len(self.plan)).float()
        parts = []
        for k, tile, shared in zip(self.exchange.own, made.tiles, made.shared, strict=True):
            asked = weights[:, k] > 0
            inside, length = place(m0, m1, offsets, path, tile.domain)
            said = points.new_zeros(len(points), 4)
            if bool(asked.any()):
                density, geometry = tile(inside[asked])
                sight = shared.sight(path.directions, view)[ray[asked]]
                colour = shared.views.exposed(shared.colour(geometry, sight), view[ray[asked]])
                density = (density * weights[asked, k])[:, None]
                said[asked] = torch.cat([density, density * colour], 1)
            sky = shared.views.exposed(shared.background(path.directions), view)
            parts.append(torch.cat([said.reshape(-1), (behind[:, k, None] * sky).reshape(-1)]))
        both = self.exchange.sum_in_tile_order(torch.stack(parts))
        said = both[: 4 * len(points)].reshape(-1, 4)
        sky = both[4 * len(points) :].reshape(-1, 3)
        density = said[:, 0]
        colour = said[:, 1:] / density.clamp(min=1e-30)[:, None]
        values, _ = segment(density, colour, length, (m0 + m1) / 2, m1 - m0, offsets)
        whole = Segment(values)
        colour = whole.colour + torch.exp(-whole.tau)[:, None] * sky
        return Still.of(whole, path, colour, len(own.m0))

    @torch.no_grad()
    def query(self, points: Tensor, directions: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N], 1 / scene unit, and colour [N, 3]: the mean of the NeRFs at hand."""
        weights = self.regions.weights(points)
        if not self.plan.open:
            weights = weights * holds(self.plan.root, points)[:, None]
        density, colour = points.new_zeros(len(points)), torch.zeros_like(points)
        made = self.renderer
        for k, tile, shared in zip(self.exchange.own, made.tiles, made.shared, strict=True):
            own = (weights[:, k] > 0).nonzero()[:, 0]
            those = (points[own], directions[own], view[own])
            dense, bright = ask(tile, shared, *those)
            density[own] += weights[own, k] * dense
            colour[own] += (weights[own, k] * dense)[:, None] * bright
        return density, colour / density.clamp(min=1e-30)[:, None]

    def _ends(self, cast: Cast) -> Tensor:
        """The tile in which each ray ends, or the nearest to its end if it meets none: [n]."""
        ends = self.plan.tile_of(cast.path.origins + FAR * cast.path.directions)
        crossings = cast.crossings
        last = crossings.ray.diff(append=crossings.ray.new_tensor([-1])) != 0
        return ends.index_copy(0, crossings.ray[last], crossings.tile[last])


class InPicture:
    """Each picture is the weighted mean of those of the NeRFs whose cameras stood near.

    Weights are `Regions.weights` at the ray's origin, over the groups of cameras.
    """

    def __init__(self, regions: Regions, renderers: Sequence[Renderer], ranks: Ranks) -> None:
        self.regions, self.renderers = regions, renderers
        self.exchange: Exchange = Gather(ranks, len(regions.plan))

    @torch.no_grad()
    def still(self, batch: Batch, padding: float, samples: int) -> Still:
        """Pixels; each NeRF renders all rays."""
        weights = self.regions.weights(batch.rays.origins)
        parts, asked = [], 0
        for k, renderer in zip(self.exchange.own, self.renderers, strict=True):
            rows = weights.new_zeros(len(batch.rays), Still.WIDTH)
            near = weights[:, k] > 0
            if bool(near.any()):
                view = None if batch.view is None else batch.view[near]
                some = Batch.of(batch.rays[near], batch.jitter[near], view)
                found = renderer.still(some, padding, samples)
                rows[near] = found.columns() * weights[near, k, None]
                asked += found.samples
            parts.append(rows.reshape(-1))
        whole = self.exchange.sum_in_tile_order(torch.stack(parts)).reshape(-1, Still.WIDTH)
        return Still.from_columns(whole, asked)

    def query(self, points: Tensor, directions: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse: it depends on where one stands.

        Raises
        ------
        UserError: always.
        """
        del points, directions, view
        raise UserError(
            "train.mode is independent-2d: its NeRFs are blended in the picture, so that no point "
            "of space has one density; use a run of joint, ddp or independent-3d."
        )
