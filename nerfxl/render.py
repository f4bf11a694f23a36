"""Rays -> Segments -> pixels: the partition-based rendering of NeRF-XL sec. 4.3.

Knows nothing of ranks: `exchange` turns the values of the tiles at hand into those of all tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from nerfxl_kernels.compose import compose, transmittance
from nerfxl_kernels.march import Path, march, place
from nerfxl_kernels.resample import interlevel, optical_depth, resample
from nerfxl_kernels.segment import segment
from torch import Tensor

from nerfxl.field import Shared, Tile, spherical_harmonics
from nerfxl.partition import Plan, octants
from nerfxl.rays import Pixels, Rays, Segment
from nerfxl.spec import SamplingSpec

SPACING = 0.1  # scene units: t below which samples are spaced evenly, and above which by ratio
FAR = 200.0  # scene units, where open tiles end: a hundred root boxes away


@dataclass(frozen=True)
class Stretch:
    """The P rays that meet one tile, and where: each tile's share of a batch."""

    tile: Tile
    rays: Tensor  # [P] int64, which rays of the batch
    enter: Tensor  # [P], m in [0, 1]
    leave: Tensor  # [P]
    path: Path


@dataclass(frozen=True)
class Samples:
    """Packed samples of a stretch: ray p owns offsets[p] to offsets[p + 1]."""

    offsets: Tensor  # [P + 1] int64
    m0: Tensor  # [M]
    m1: Tensor  # [M]


@dataclass(frozen=True)
class Proposed:
    """What the proposal said of a stretch, kept for its loss."""

    samples: Samples
    depth: Tensor  # [B], optical depths of its bins, with gradient
    before: Tensor  # [P], transmittance in front of the tile


class Renderer:
    """Renders rays through the tiles at hand.

    Parameters
    ----------
    plan: all K tiles. tiles: those at hand, ascending. shared: colour MLP and background.
    near: scene units. exchange: [K_own, N, C] -> [K, N, C].
    """

    def __init__(
        self,
        plan: Plan,
        tiles: Sequence[Tile],
        shared: Shared,
        sampling: SamplingSpec,
        near: float,
        exchange: Callable[[Tensor], Tensor],
    ) -> None:
        self.plan, self.tiles, self.shared = plan, tiles, shared
        self.sampling, self.near, self.exchange = sampling, near, exchange
        self.order = plan.order

    def __call__(
        self,
        rays: Rays,
        jitter: Tensor,
        padding: float,
        samples: int | None = None,
        learn_proposal: bool = False,
    ) -> tuple[Pixels, Tensor]:
        """Pixels of N rays, and the proposals' loss (zero unless learn_proposal).

        jitter: [N, 2] in [0, 1), of the lattice and of the samples; 0.5 for still pictures.
        padding: share of samples spread evenly over the ray (see `resample`).
        samples: a ray, with sampling by proposal; those of training unless given.
        """
        samples = samples or self.sampling.samples
        order = self.order.to(rays.origins.device)[octants(rays.directions)]  # [N, K]
        harmonics = spherical_harmonics(rays.directions, self.shared.degree)
        stretches, cuts, path = self._stretches(rays)
        if self.sampling.method == "proposal":
            with torch.set_grad_enabled(learn_proposal):
                proposed, starts = self._propose(stretches, cuts, order, jitter, padding)
            own_samples = self._draw(stretches, proposed, starts, jitter, padding, samples)
        else:
            proposed, own_samples = [], [self._occupied(s, jitter) for s in stretches]

        values, weights = [], []
        for stretch, own in zip(stretches, own_samples, strict=True):
            value, weight = self._segments(stretch, own, harmonics)
            values.append(value.new_zeros(len(rays), 6).index_copy(0, stretch.rays, value))
            weights.append(weight)
        at_hand = [tile.index for tile in self.tiles]
        scene = Segment(compose(self.exchange(torch.stack(values)), order, own=at_hand))

        proposal_loss = harmonics.new_zeros(())
        if learn_proposal:
            for stretch, asked, own, value, weight in zip(
                stretches, proposed, own_samples, values, weights, strict=True
            ):
                tau = value.detach()[stretch.rays, 0]
                proposal_loss = proposal_loss + _proposal_loss(asked, own, weight, tau) / len(rays)
        count = sum(len(own.m0) for own in own_samples)
        return self._pixels(scene, path, harmonics, count), proposal_loss

    @torch.no_grad()
    def sample_points(self, rays: Rays, jitter: Tensor, padding: float) -> tuple[Tensor, Tensor]:
        """Where the samples of N rays lie: [M, 3], scene coordinates, and the tile of each, [M].

        As of a step of training with this jitter [N, 2] and padding; of the tiles at hand.
        """
        stretches, cuts, _ = self._stretches(rays)
        if self.sampling.method == "proposal":
            order = self.order.to(rays.origins.device)[octants(rays.directions)]
            asked, starts = self._propose(stretches, cuts, order, jitter, padding)
            count = self.sampling.samples
            drawn = self._draw(stretches, asked, starts, jitter, padding, count)
        else:
            drawn = [self._occupied(stretch, jitter) for stretch in stretches]
        points, tiles = [], []
        for stretch, own in zip(stretches, drawn, strict=True):
            ray = torch.arange(len(stretch.rays), device=own.m0.device)
            ray = ray.repeat_interleave(own.offsets.diff())
            path = stretch.path
            s = path.first[ray] + (own.m0 + own.m1) / 2 * path.span[ray]
            t = path.scale * torch.sinh(s)
            points.append(path.origins[ray] + t[:, None] * path.directions[ray])
            tiles.append(torch.full_like(ray, stretch.tile.index))
        return torch.cat(points), torch.cat(tiles)

    def _stretches(self, rays: Rays) -> tuple[list[Stretch], Tensor, Path]:
        """Cut every ray by the plan: stretches of the tiles at hand, and cuts [K, N, 2] in m."""
        t = self.plan.intervals(rays, self.near, FAR)  # [K, N, 2]
        s = torch.asinh(t / SPACING)
        met = t[..., 1] > t[..., 0]  # [K, N]
        first = torch.where(met, s[..., 0], torch.inf).amin(0)
        span = torch.where(met, s[..., 1], -torch.inf).amax(0) - first
        missed = ~met.any(0)
        first, span = first.masked_fill(missed, 0), span.masked_fill(missed, 1)
        cuts = ((s - first[:, None]) / span[:, None]).clamp(0, 1) * met[..., None]
        path = Path(rays.origins, rays.directions, first, span, SPACING)
        stretches = []
        for tile in self.tiles:
            index = met[tile.index].nonzero()[:, 0]
            enter, leave = cuts[tile.index, index].unbind(-1)
            part = Path(
                *(path.origins[index], path.directions[index]),
                *(path.first[index], path.span[index]),
                scale=SPACING,
            )
            stretches.append(Stretch(tile, index, enter, leave, part))
        return stretches, cuts, path

    def _propose(
        self,
        stretches: list[Stretch],
        cuts: Tensor,
        order: Tensor,
        jitter: Tensor,
        padding: float,
    ) -> tuple[list[Proposed], list[Tensor]]:
        """Ask each tile's proposal, and learn from all tiles how a ray's samples are shared out.

        Returns, a stretch, what the proposal said and [P, 2]: the tile's part of the ray's
        cumulated density of samples.
        """
        bins, depths = [], []
        taus = cuts.new_zeros(len(stretches), cuts.shape[1], 1)
        for i, stretch in enumerate(stretches):
            proposal = stretch.tile.proposal
            assert proposal is not None
            lattice = jitter[stretch.rays, 0]
            own = Samples(
                *march(stretch.enter, stretch.leave, lattice, self.sampling.proposal.samples)
            )
            points, length = place(own.m0, own.m1, own.offsets, stretch.path, stretch.tile.domain)
            depth = proposal(points) * length
            taus[i, stretch.rays, 0] = optical_depth(depth.detach(), own.offsets)
            bins.append(own)
            depths.append(depth)

        tau = self.exchange(taus)[..., 0]  # [K, N]
        before = transmittance(tau, order)
        mass = before * -torch.expm1(-tau) + padding * (cuts[..., 1] - cuts[..., 0])
        end = mass.T.gather(1, order).double().cumsum(1)  # [N, K], front to back
        end = end / end[:, -1:].clamp(min=1e-30)
        start = torch.nn.functional.pad(end[:, :-1], (1, 0))
        place_of = order.argsort(1)  # [N, K]: where a tile stands along the ray

        proposed, parts = [], []
        for stretch, own, depth in zip(stretches, bins, depths, strict=True):
            at = place_of[stretch.rays, stretch.tile.index, None]
            parts.append(torch.cat([x[stretch.rays].gather(1, at) for x in (start, end)], 1))
            in_front = before[stretch.tile.index, stretch.rays]
            proposed.append(Proposed(own, depth, in_front))
        return proposed, parts

    def _draw(
        self,
        stretches: list[Stretch],
        proposed: list[Proposed],
        parts: list[Tensor],
        jitter: Tensor,
        padding: float,
        samples: int,
    ) -> list[Samples]:
        """Few samples where the proposals see light end."""
        drawn = []
        for stretch, asked, part in zip(stretches, proposed, parts, strict=True):
            bins = asked.samples
            drawn.append(
                Samples(
                    *resample(
                        bins.m0,
                        bins.m1,
                        asked.depth.detach(),
                        bins.offsets,
                        asked.before,
                        part,
                        jitter[stretch.rays, 1],
                        samples,
                        padding,
                    )
                )
            )
        return drawn

    def _occupied(self, stretch: Stretch, jitter: Tensor) -> Samples:
        """All bins of the lattice that lie in occupied cells."""
        occupancy = stretch.tile.occupancy
        assert occupancy is not None
        within = (stretch.path, stretch.tile.domain, occupancy.cells)
        lattice = jitter[stretch.rays, 0]
        bins = self.sampling.occupancy.samples
        return Samples(*march(stretch.enter, stretch.leave, lattice, bins, within))

    def _segments(
        self, stretch: Stretch, samples: Samples, harmonics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """March, encode, shade, fold: Segments [P, 6] of a tile and its samples' weights [M]."""
        tile, offsets = stretch.tile, samples.offsets
        points, length = place(samples.m0, samples.m1, offsets, stretch.path, tile.domain)
        density, geometry = tile(points)
        ray = torch.repeat_interleave(stretch.rays, offsets.diff())
        colour = self.shared.colour(geometry, harmonics[ray])
        middle, width = (samples.m0 + samples.m1) / 2, samples.m1 - samples.m0
        return segment(density, colour, length, middle, width, offsets)

    def _pixels(self, scene: Segment, path: Path, harmonics: Tensor, samples: int) -> Pixels:
        through = torch.exp(-scene.tau)[:, None]
        colour = scene.colour + through * self.shared.background(harmonics)
        with (
            torch.no_grad()
        ):  # the mean of m, taken back to a distance; the far end where nothing is
            mean = scene.moment + through[:, 0]
            depth = path.scale * torch.sinh(path.first + mean.clamp(0, 1) * path.span)
        return Pixels(colour, depth, scene.opacity.detach(), scene.distortion, samples)


def _proposal_loss(asked: Proposed, own: Samples, weights: Tensor, tau: Tensor) -> Tensor:
    bins = asked.samples
    return interlevel(
        *(asked.depth, bins.m0, bins.m1, bins.offsets),
        *(weights, own.m0, own.m1, own.offsets),
        tau,
        asked.before,
    )
