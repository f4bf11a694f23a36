"""Rays -> Segments -> pixels: the partition-based rendering of NeRF-XL sec. 4.3.

A batch has two sides. On the rays' side a rank cuts the rays that it loads by the plan, and
composes their pixels; on the tiles' side it samples and shades the crossings of the tiles that it
owns. `exchange` leads from one side to the other, and is all that knows of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from nerfxl_kernels.march import Path, contract, march, place
from nerfxl_kernels.resample import interlevel, optical_depth, resample
from torch import Tensor

from nerfxl.exchange import Exchange, Route, Shaded, along
from nerfxl.field import Shared, Tile
from nerfxl.partition import Plan, octants
from nerfxl.rays import SEGMENT_WIDTH, Batch, Crossings, Pixels, Rays, Segment, Still, distance
from nerfxl.regions import holds
from nerfxl.scene.spec import SamplingSpec

SPACING = 0.1  # scene units: t below which samples are spaced evenly, and above which by ratio
FAR = 200.0  # scene units, where open tiles end: a hundred root boxes away
OPAQUE = (
    1e-4  # transmittance below which pictures ask no tile behind: an error of that much at most
)


@dataclass(frozen=True)
class Cast:
    """A batch on its way through the scene: the rays' side. enter, leave: [P], m in [0, 1].

    path: of the rays from where their photographs were taken, as far as that is known by now; in
    the batch they start from where the capture says. view: [n] int64.
    """

    batch: Batch
    view: Tensor
    path: Path
    crossings: Crossings
    enter: Tensor
    leave: Tensor
    route: Route


@dataclass(frozen=True)
class Stretches:
    """The Q crossings of the tiles at hand, tile by tile. rows: how many are each tile's.

    enter, leave: [Q], m in [0, 1]. jitter: [Q, 2]. view: [Q] int64 (see `Batch`).
    """

    path: Path
    enter: Tensor
    leave: Tensor
    jitter: Tensor
    view: Tensor
    rows: list[int]

    def of(self, keep: Tensor) -> Stretches:
        """Some of the crossings, by a mask [Q]."""
        rows = [int(one.sum()) for one in torch.split(keep, self.rows)]
        return self._only(keep, rows)

    def apart(self) -> Iterator[Stretches]:
        """Each tile's own."""
        for a, b in pairwise(accumulate(self.rows, initial=0)):
            yield self._only(slice(a, b), [b - a])

    def _only(self, keep: Tensor | slice, rows: list[int]) -> Stretches:
        numbers = (self.enter[keep], self.leave[keep], self.jitter[keep], self.view[keep])
        return Stretches(_pick(self.path, keep), *numbers, rows)


@dataclass(frozen=True)
class Samples:
    """Packed samples of stretches: crossing q owns offsets[q] to offsets[q + 1].

    offsets: [Q + 1] int64. m0, m1: [M].
    """

    offsets: Tensor
    m0: Tensor
    m1: Tensor

    def of(self, keep: Tensor) -> Samples:
        """Those of some crossings, by a mask [Q]."""
        counts = self.offsets.diff()
        own = torch.repeat_interleave(keep, counts)
        ends = counts[keep].cumsum(0)
        return Samples(torch.nn.functional.pad(ends, (1, 0)), self.m0[own], self.m1[own])

    def apart(self, rows: list[int]) -> Iterator[Samples]:
        """Those of the first rows[0] crossings, of the next rows[1], and so on."""
        ends = list(accumulate(rows, initial=0))
        places = self.offsets[ends].tolist()
        for (a, b), (c, d) in zip(pairwise(ends), pairwise(places), strict=True):
            yield Samples(self.offsets[a : b + 1] - c, self.m0[c:d], self.m1[c:d])


@dataclass(frozen=True)
class Proposed:
    """What the proposals said of the stretches, kept for their loss.

    depth: [B], optical depths of the bins, with gradient. before: [Q], transmittance in front of
    each crossing; [P], the same on the rays' side, is expected.
    """

    bins: Samples
    depth: Tensor
    before: Tensor
    expected: Tensor


class Renderer:
    """Renders rays through the tiles at hand.

    Parameters
    ----------
    plan: all K tiles. tiles: those at hand, ascending. shared: colour MLP and background, a twin a
    tile at hand. near: scene units. exchange: to the other tiles.
    """

    def __init__(
        self,
        plan: Plan,
        tiles: Sequence[Tile],
        shared: Sequence[Shared],
        sampling: SamplingSpec,
        near: float,
        exchange: Exchange,
    ) -> None:
        self.plan, self.tiles, self.shared = plan, tiles, shared
        self.sampling, self.near, self.exchange = sampling, near, exchange

    def cast(self, batch: Batch) -> Cast:
        """Cut the batch's rays by the plan, and start on the way to the tiles.

        The next batch can be cast, and its rays be sent, while this one is learned from.
        """
        views = self.shared[0].views
        view = views.rows(batch.view, batch.rays.origins)
        with torch.no_grad():
            crossings, path, enter, leave = self._cross(views.placed(batch.rays, view))
        route = self.exchange.route(crossings, batch.number, batch.count)
        return Cast(batch, view, path, crossings, enter, leave, route)

    def depart(self, cast: Cast) -> Cast:
        """Send the rays to the tiles that they meet, and of which photographs they are."""
        path, ray, rays = cast.path, cast.crossings.ray, cast.batch.rays
        numbers = torch.stack([path.first[ray], path.span[ray], cast.enter, cast.leave], 1)
        columns = [rays.origins[ray], rays.directions[ray], numbers, cast.batch.jitter[ray]]
        if self.shared[0].views.learns:
            columns.append(cast.view[ray, None].to(numbers.dtype))  # exact up to 2^24 photographs
        cast.route.depart(torch.cat(columns, 1))
        return cast

    def arrive(self, cast: Cast) -> Stretches:
        """What has been sent to the tiles at hand.

        Each tile places the rays by its own twin of what is learned of photographs.
        """
        columns, rows = cast.route.arrive()
        views = self.shared[0].views
        view = columns[:, 12].long() if views.learns else views.rows(None, columns)
        origins, directions = columns[:, :3], columns[:, 3:6]
        if views.pose is not None:
            parts = (torch.split(one, rows) for one in (origins, directions, view))
            by_tile = zip(self.shared, *parts, strict=True)
            placed = [one.views.placed(Rays(o, d), own) for one, o, d, own in by_tile]
            origins = torch.cat([rays.origins for rays in placed])
            directions = torch.cat([rays.directions for rays in placed])
        first, span, enter, leave = columns[:, 6:10].unbind(1)
        path = Path(origins, directions, first, span, SPACING)
        return Stretches(path, enter, leave, columns[:, 10:12], view, rows)

    def __call__(
        self, cast: Cast, padding: float, samples: int | None = None, learn_proposal: bool = False
    ) -> tuple[Pixels, Tensor]:
        """Pixels of the n rays of a batch that has departed, and the own proposals' loss.

        padding: share of samples spread evenly over the ray (see `resample`).
        samples: a ray, with sampling by proposal; those of training unless given.
        """
        stretches = self.arrive(cast)
        count = samples or self.sampling.samples
        own, proposed = self.sample(cast, stretches, padding, count, learn_proposal)
        composed, weights, tau = cast.route.compose(self._shade(stretches, own))
        proposal_loss = composed.new_zeros(())
        if learn_proposal and proposed is not None:
            bins = proposed.bins
            proposal_loss = interlevel(
                *(proposed.depth, bins.m0, bins.m1, bins.offsets),
                *(weights, own.m0, own.m1, own.offsets),
                tau,
                proposed.before,
            ) / max(1, cast.batch.count)
        scene = Segment(composed)
        colour, mean = self._finished(scene, cast), scene.moment + torch.exp(-scene.tau)
        known = (scene.distortion, mean, scene.tau, cast.path)
        return Pixels(colour, len(own.m0), *known), proposal_loss

    @torch.no_grad()
    def still(self, batch: Batch, padding: float, samples: int) -> Still:
        """Pixels of a picture: its tiles are asked in turns, until nothing passes any more.

        Tiles in front of which less than OPAQUE is left of a ray's light are not asked. No sample
        and no background is brighter than 1, so no colour is off by more. First all are asked that
        the proposals expect to be seen, so that no rank waits for the tiles in front of its own,
        then what is seen behind them; without proposals, tile after tile along each ray.
        """
        cast = self.depart(self.cast(batch))
        stretches = self.arrive(cast)
        own, proposed = self.sample(cast, stretches, padding, samples, learn_proposal=False)
        crossings = cast.crossings
        if proposed is None:
            turn, turns = crossings.slot, cast.route.rounds()
        else:
            turn, turns = (proposed.expected <= OPAQUE).long(), 2
        said = cast.path.first.new_zeros(len(crossings), SEGMENT_WIDTH)
        tau = cast.path.first.new_zeros(crossings.rays)
        asked = 0
        for now in range(turns):
            seen = (turn == now) & (torch.exp(-tau) > OPAQUE)[crossings.ray]
            route, kept = cast.route.narrow(seen)
            part = own.of(kept)
            asked += len(part.m0)
            values, _ = self._shade(stretches.of(kept), part).segments()
            found = route.to_rays(values, "segments")
            said[seen] = found
            tau = tau.index_add(0, crossings.ray[seen], found[:, 0])
        scene = Segment(along(crossings, said))
        return Still.of(scene, cast.path, self._finished(scene, cast), asked)

    @torch.no_grad()
    def sample_points(self, batch: Batch, padding: float) -> tuple[Tensor, Tensor]:
        """Where the samples of a batch lie: [M, 3], scene coordinates, and the tile of each, [M].

        As of a step of training; of the tiles at hand.
        """
        cast = self.depart(self.cast(batch))
        stretches = self.arrive(cast)
        own, _ = self.sample(cast, stretches, padding, self.sampling.samples, False)
        path, counts = stretches.path, own.offsets.diff()
        row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        t = distance(path, (own.m0 + own.m1) / 2, row)
        index = torch.tensor([tile.index for tile in self.tiles], device=counts.device)
        held = index.repeat_interleave(torch.tensor(stretches.rows, device=counts.device))
        return path.origins[row] + t[:, None] * path.directions[row], held[row]

    @torch.no_grad()
    def query(self, points: Tensor, directions: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N], 1 / scene unit, and colour [N, 3], by the tile that holds each point.

        Of the tiles at hand: where others hold a point, nothing is there. points, directions: [N,
        3]. view: [N] int64, as which photographs show it (see `Batch`).
        """
        density, colour = points.new_zeros(len(points)), torch.zeros_like(points)
        held = self.plan.tile_of(points)
        if not self.plan.open:
            held = held.where(holds(self.plan.root, points), -1)
        for tile, shared in zip(self.tiles, self.shared, strict=True):
            own = (held == tile.index).nonzero()[:, 0]
            density[own], colour[own] = ask(tile, shared, points[own], directions[own], view[own])
        return density, colour

    def _cross(self, rays: Rays) -> tuple[Crossings, Path, Tensor, Tensor]:
        """Where rays meet tiles: crossings, the rays' paths, and ends [P] in m."""
        t = self.plan.intervals(rays, self.near, FAR)  # [K, n, 2]
        order = self.plan.order.to(t.device)[octants(rays.directions)]  # [n, K]
        met = (t[..., 1] > t[..., 0]).T.gather(1, order)  # [n, K], front to back
        ray, at = met.nonzero(as_tuple=True)
        slot = (met.cumsum(1) - 1)[ray, at]
        tile = order[ray, at]
        held = met.sum(1)
        depth = int(held.max()) if len(held) else 0
        crossings = Crossings(len(rays), ray, tile, slot, depth)

        s = torch.asinh(t[tile, ray] / SPACING)  # [P, 2]
        front, back = slot == 0, slot == held[ray] - 1
        first = s.new_zeros(len(rays)).index_copy(0, ray[front], s[front, 0])
        last = s.new_ones(len(rays)).index_copy(0, ray[back], s[back, 1])
        span = last - first
        span = span.where(span > 0, 1)
        ends = ((s - first[ray, None]) / span[ray, None]).clamp(0, 1)
        path = Path(rays.origins, rays.directions, first, span, SPACING)
        return crossings, path, ends[:, 0], ends[:, 1]

    def sample(
        self, cast: Cast, stretches: Stretches, padding: float, samples: int, learn_proposal: bool
    ) -> tuple[Samples, Proposed | None]:
        """Where the field is asked."""
        if self.sampling.method == "occupancy":
            return self._occupied(stretches), None
        with torch.set_grad_enabled(learn_proposal):
            proposed, part = self._propose(cast, stretches, padding)
        bins = proposed.bins
        asked = (bins.m0, bins.m1, proposed.depth.detach(), bins.offsets, proposed.before, part)
        drawn = resample(*asked, stretches.jitter[:, 1], samples, padding)
        return Samples(*drawn), proposed

    def _propose(self, cast: Cast, stretches: Stretches, padding: float) -> tuple[Proposed, Tensor]:
        """Ask the tiles' proposals, and learn from all tiles how a ray's samples are shared out.

        Returns what they said, and [Q, 2]: each crossing's part of its ray's cumulated density of
        samples.
        """
        lattice = stretches.jitter[:, 0]
        cut = march(stretches.enter, stretches.leave, lattice, self.sampling.proposal.samples)
        bins = Samples(*cut)
        depths = []
        by_tile = zip(self.tiles, stretches.apart(), bins.apart(stretches.rows), strict=True)
        for tile, stretch, own in by_tile:
            assert tile.proposal is not None
            points, length = place(own.m0, own.m1, own.offsets, stretch.path, tile.domain)
            depths.append(tile.proposal(points) * length)
        depth = torch.cat(depths)
        own_tau = optical_depth(depth.detach(), bins.offsets)

        crossings, route = cast.crossings, cast.route
        tau = crossings.spread(route.to_rays(own_tau[:, None], "proposals"))[..., 0]  # [D, n]
        before = torch.exp(-_in_front(tau).cumsum(0))
        width = crossings.spread(cast.leave - cast.enter)
        end = (before * -torch.expm1(-tau) + padding * width).double().cumsum(0)
        end = (end / end[-1:].clamp(min=1e-30)).to(tau.dtype)
        shares = crossings.pick(torch.stack([before, _in_front(end), end], -1))
        here = route.to_tiles(shares, "proposals")
        return Proposed(bins, depth, here[:, 0], shares[:, 0]), here[:, 1:]

    def _occupied(self, stretches: Stretches) -> Samples:
        """All bins of the lattice that lie in occupied cells."""
        found, bins = [], self.sampling.occupancy.samples
        for tile, stretch in zip(self.tiles, stretches.apart(), strict=True):
            assert tile.occupancy is not None
            within = (stretch.path, tile.domain, tile.occupancy.cells)
            lattice = stretch.jitter[:, 0]
            found.append(march(stretch.enter, stretch.leave, lattice, bins, within))
        counts = torch.cat([offsets.diff() for offsets, _, _ in found])
        m0, m1 = (torch.cat([one[i] for one in found]) for i in (1, 2))
        return Samples(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), m0, m1)

    def _shade(self, stretches: Stretches, samples: Samples) -> Shaded:
        """Place, encode, shade."""
        densities, colours, lengths = [], [], []
        by_tile = (self.shared, stretches.apart(), samples.apart(stretches.rows))
        for tile, shared, stretch, own in zip(self.tiles, *by_tile, strict=True):
            points, length = place(own.m0, own.m1, own.offsets, stretch.path, tile.domain)
            density, geometry = tile(points)
            sight = shared.sight(stretch.path.directions, stretch.view)
            of_sample = torch.repeat_interleave(sight, own.offsets.diff(), 0)
            densities.append(density)
            colours.append(shared.colour(geometry, of_sample))
            lengths.append(length)
        middle, width = (samples.m0 + samples.m1) / 2, samples.m1 - samples.m0
        density, colour, length = (torch.cat(part) for part in (densities, colours, lengths))
        return Shaded(density, colour, length, middle, width, samples.offsets)

    def _finished(self, scene: Segment, cast: Cast) -> Tensor:
        """Put the background behind, and expose: colours [n, 3].

        In training a part's background and exposure take gradients at its owner alone.
        """
        through = torch.exp(-scene.tau)[:, None]
        twins = {tile.index: twin for tile, twin in zip(self.tiles, self.shared, strict=True)}
        parts = cast.batch.parts or ((self.tiles[0].index, slice(None)),)
        done = []
        for tile, rows in parts:
            own, shared = tile in twins, twins.get(tile, self.shared[0])
            view = cast.view[rows]
            with torch.set_grad_enabled(own and torch.is_grad_enabled()):
                rays = shared.views.placed(cast.batch.rays[rows], view)
                behind = shared.background(rays.directions)
            whole = scene.colour[rows] + through[rows] * behind
            done.append(shared.views.exposed(whole, view, own))
        return torch.cat(done)


def ask(
    tile: Tile, shared: Shared, points: Tensor, directions: Tensor, view: Tensor
) -> tuple[Tensor, Tensor]:
    """What one tile says of points of space, whether or not they are its own (see `query`)."""
    density, geometry = tile(contract(points, tile.domain))
    colour = shared.colour(geometry, shared.sight(directions, view))
    return density, shared.views.exposed(colour, view).clamp(0, 1)


def _in_front(values: Tensor) -> Tensor:
    """Of each slot the value one slot nearer, 0 in the first: [D, n] -> [D, n]."""
    return torch.cat([torch.zeros_like(values[:1]), values[:-1]])


def _pick(path: Path, rays: Tensor | slice) -> Path:
    first, span = path.first[rays], path.span[rays]
    return Path(path.origins[rays], path.directions[rays], first, span, path.scale)
