"""One tile's radiance field, and what all tiles share."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from nerfacc import OccGridEstimator
from nerfxl_kernels.encoded_mlp import encoded_mlp
from nerfxl_kernels.hash_encoding import hash_encoding, resolutions
from nerfxl_kernels.march import Domain
from nerfxl_kernels.mlp import mlp
from torch import Tensor, nn

from nerfxl.randomness import generator
from nerfxl.rays import Box
from nerfxl.scene.spec import FieldSpec, OccupancySpec, ProposalSpec, SamplingSpec
from nerfxl.scene.training import AppearanceSpec, CamerasSpec
from nerfxl.views import Views

MAX_LOG_DENSITY = 12.0
SKY_HIDDEN = 32


class Tile(nn.Module):
    """The field of one tile: a hash grid and a density MLP, and what tells where to sample it.

    Every tensor belongs to this tile alone: none is exchanged. Initialised from (seed, index), so
    that a run does not depend on which rank owns the tile.
    """

    def __init__(
        self,
        index: int,
        box: Box,
        core: Box,
        field: FieldSpec,
        sampling: SamplingSpec,
        seed: int,
    ) -> None:
        super().__init__()
        self.index = index
        reaches_out = any(math.isinf(side) for side in (*box.low, *box.high))
        self.domain = Domain(core.centre, max(core.size) / 2, reaches_out)
        self.bias = field.density_bias
        self.opening: Tensor | None = None
        draw = generator(seed, index)

        self.cells = resolutions(field.levels, field.base_resolution, field.max_resolution)
        shape = (field.levels, 2**field.log2_table, field.features)
        self.table: Tensor = nn.Parameter((torch.rand(shape, generator=draw) - 0.5) * 2e-4)
        widths = (field.levels * field.features, field.density_hidden, 1 + field.geometry_features)
        self.density_layers = layers(widths, draw)

        self.proposal: Proposal | None = None
        self.occupancy: Occupancy | None = None
        if sampling.method == "proposal":
            base = field.base_resolution
            self.proposal = Proposal(sampling.proposal, base, self.bias, draw)
        else:
            self.occupancy = Occupancy(sampling.occupancy, self.domain, seed, index)

    def open_levels(self, share: float) -> None:
        """Let the density network see the coarser levels alone (BARF, Lin et al. 2021, eq. 14).

        share: 0 = the two coarsest, 1 = all; in between a level comes in smoothly.
        """
        if share >= 1:
            self.opening = None
            return
        levels, _, features = self.table.shape
        along = 2 + share * (levels - 2) - torch.arange(levels, device=self.table.device)
        weights = (1 - torch.cos(math.pi * along.clamp(0, 1))) / 2
        self.opening = weights.to(self.table.dtype).repeat_interleave(features)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [M] (1 / scene unit) and geometry features [M, G] at field coordinates [M, 3]."""
        first, *rest = self.density_layers
        if self.opening is not None:  # a feature times its weight, or its row of the layer
            first = first * self.opening[:, None]
        weights = (first, *rest)
        if torch.is_grad_enabled():
            buffer = gradient_buffer(self.table)
            out = mlp(hash_encoding(points, self.table, self.cells, buffer), weights)
        else:
            out = encoded_mlp(points, self.table, self.cells, weights)
        return activate(out[:, 0], self.bias), out[:, 1:]


class Proposal(nn.Module):
    """A coarse density without a network: exp of the sum of a small hash grid's levels."""

    def __init__(self, spec: ProposalSpec, base: int, bias: float, draw: torch.Generator) -> None:
        super().__init__()
        self.cells = resolutions(spec.levels, base, spec.max_resolution)
        shape = (spec.levels, 2**spec.log2_table, 1)
        self.table = nn.Parameter((torch.rand(shape, generator=draw) - 0.5) * 2e-4)
        self.bias = bias

    def forward(self, points: Tensor) -> Tensor:
        """Density [M] at field coordinates [M, 3]."""
        features = hash_encoding(points, self.table, self.cells, gradient_buffer(self.table))
        return activate(features.sum(-1), self.bias)


class Occupancy(nn.Module):
    """Which cells of the tile's field are not empty: nerfacc's grid over field coordinates."""

    def __init__(self, spec: OccupancySpec, domain: Domain, seed: int, index: int) -> None:
        super().__init__()
        self.spec, self.domain, self.key = spec, domain, (seed, index)
        self.grid = OccGridEstimator([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], spec.resolution, levels=1)
        self.grid.binaries.fill_(True)  # nothing is known to be empty yet

    @property
    def cells(self) -> Tensor:
        """Bool [R, R, R], x slowest."""
        binaries = self.grid.binaries
        assert isinstance(binaries, Tensor)
        return binaries[0]

    def update(self, tile: Tile, step: int) -> None:
        """Refresh the grid from the tile's density, every `spec.every` steps."""

        def opacity(points: Tensor) -> Tensor:
            density, _ = tile(points)
            found: Tensor = (density * self._cell_size(points))[:, None]
            return found

        with torch.random.fork_rng(), torch.no_grad():  # nerfacc draws from the global stream
            torch.manual_seed(generator(*self.key, step).initial_seed())
            self.grid.train()
            self.grid.update_every_n_steps(
                step,
                opacity,
                occ_thre=self.spec.threshold,
                warmup_steps=self.spec.warmup,
                n=self.spec.every,
            )

    def _cell_size(self, points: Tensor) -> Tensor:
        """Longest edge of the cell around each field point, scene units: [M].

        Outside the core a cell at n core halves is n times as wide and n^2 times as deep.
        """
        if not self.domain.open:
            return points.new_full(points.shape[:1], 2 * self.domain.half / self.spec.resolution)
        reach = (4 * points - 2).abs().amax(-1).clamp(1, 1.99)  # 2 - 1/n outside the core
        return 4 * self.domain.half / self.spec.resolution / (2 - reach) ** 2


class Shared(nn.Module):
    """What all tiles share: the colour MLP, used before the exchange, and the background, after.

    views: what is learned of photographs, which is used on both sides.
    """

    def __init__(self, field: FieldSpec, seed: int, views: Views | None = None) -> None:
        super().__init__()
        self.views = views or Views(CamerasSpec(), AppearanceSpec(), 0)
        looks = 0 if self.views.appearance is None else self.views.appearance.shape[1]
        self.degree = field.sh_degree
        draw = generator(seed, 2**32)  # no tile has this index
        directional = field.sh_degree**2
        hidden = (field.colour_hidden,) * field.colour_layers
        self.colour_layers = layers(
            (field.geometry_features + directional + looks, *hidden, 3), draw
        )
        self.sky_layers = nn.ParameterList()
        self.constant = background_colour(field)
        if self.constant is None:
            self.sky_layers = layers((directional, SKY_HIDDEN, 3), draw)

    def sight(self, directions: Tensor, view: Tensor) -> Tensor:
        """What the colour MLP is told of rays [N] beside the geometry: direction, appearance."""
        harmonics, looks = spherical_harmonics(directions, self.degree), self.views.looks(view)
        return harmonics if looks is None else torch.cat([harmonics, looks], -1)

    def colour(self, geometry: Tensor, sight: Tensor) -> Tensor:
        """Colour [M, 3] in (0, 1) of geometry features [M, G], as `sight` [M, S] has it."""
        return mlp(torch.cat([geometry, sight], -1), tuple(self.colour_layers)).sigmoid()

    def background(self, directions: Tensor) -> Tensor:
        """Colour [N, 3] behind all tiles, along directions [N, 3]."""
        if self.constant is not None:
            return directions.new_tensor(self.constant).expand(len(directions), 3)
        harmonics = spherical_harmonics(directions, self.degree)
        return mlp(harmonics, tuple(self.sky_layers)).sigmoid()

    def twin(self) -> Shared:
        """The same numbers in the same memory, with gradients of their own: what one tile says."""
        twin = copy.deepcopy(self)
        for own, shared in zip(twin.parameters(), self.parameters(), strict=True):
            own.data = shared.data
        return twin


def background_colour(field: FieldSpec) -> tuple[float, float, float] | None:
    """The constant background, or None where the sky is learned."""
    named = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "sky": None}
    if isinstance(field.background, str):
        return named[field.background]
    red, green, blue = field.background
    return (red, green, blue)


def gradient_buffer(table: Tensor) -> Tensor | None:
    """The table's own gradient, kept from step to step and cleared by the optimiser."""
    if not (table.requires_grad and torch.is_grad_enabled()):
        return None
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    return table.grad


def layers(widths: tuple[int, ...], draw: torch.Generator) -> nn.ParameterList:
    """Weights [D_i, D_i+1] of a bias-free MLP, uniform within sqrt(6 / (D_i + D_i+1)) (Glorot)."""
    weights = nn.ParameterList()
    for wide, narrow in pairwise(widths):
        bound = math.sqrt(6 / (wide + narrow))
        weights.append((torch.rand(wide, narrow, generator=draw) * 2 - 1) * bound)
    return weights


def activate(log_density: Tensor, bias: float) -> Tensor:
    """exp(x + bias), the exponent held below a bound beyond which nothing more is seen."""
    return (log_density + bias).clamp(max=MAX_LOG_DENSITY).exp()


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit vectors, bands 0 to degree - 1: [N, 3] -> [N, degree^2].

    Orthonormal on the sphere, without the Condon-Shortley phase's sign conventions mattering:
    an MLP follows.
    """
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, 0.28209479177387814)]
    if degree > 1:
        out += [0.4886025119029199 * y, 0.4886025119029199 * z, 0.4886025119029199 * x]
    if degree > 2:
        out += [
            1.0925484305920792 * x * y,
            1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree > 3:
        out += [
            0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(out, -1)
