"""The renderer in float64: tiles make no difference, an independent oracle, plain geometry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import nerfacc
import pytest
import torch
from nerfxl_kernels.march import Domain
from torch import Tensor

from nerfxl.exchange import Gather, Shaded
from nerfxl.field import Shared, Tile
from nerfxl.model import Model
from nerfxl.partition import Plan, octants, plan
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Box, Pixels, Rays
from nerfxl.render import FAR, OPAQUE, Cast, Renderer, Samples, Stretches
from nerfxl.scene.spec import FieldSpec, SamplingSpec, SceneSpec

ROOT = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
FIELD = FieldSpec.model_validate(
    {
        "levels": 2,
        "log2_table": 8,
        "base_resolution": 2,
        "max_resolution": 8,
        "density_hidden": 4,
        "geometry_features": 3,
        "colour_hidden": 4,
        "sh_degree": 2,
        "background": [0.1, 0.2, 0.3],
    }
)
BEHIND = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
METHODS = ["proposal", "occupancy"]
Density = Callable[[Tensor], Tensor]


def sampling(method: str, bins: int, samples: int = 32) -> SamplingSpec:
    proposal = {"samples": min(bins, 1024), "levels": 1, "log2_table": 8}
    return SamplingSpec.model_validate(
        {
            "method": method,
            "samples": samples,
            "proposal": proposal,
            "occupancy": {"samples": bins, "resolution": 8},
        }
    )


def scene_point(points: Tensor, domain: Domain) -> Tensor:
    """The inverse of a tile's field coordinates."""
    if not domain.open:
        u = 2 * points - 1
    else:
        u = 4 * points - 2
        n = u.abs().amax(-1, keepdim=True)
        u = torch.where(n > 1, u / n / (2 - n), u)
    return points.new_tensor(domain.centre) + domain.half * u


class Analytic(Tile):
    """A tile whose density is a function of the place in the scene; its geometry is a colour."""

    def __init__(self, index: int, cut: Plan, spec: SamplingSpec, density: Density) -> None:
        super().__init__(index, cut.tiles[index], cut.cores[index], FIELD, spec, seed=0)
        self.density = density
        self.double()
        if self.proposal:
            torch.nn.init.zeros_(self.proposal.table)  # the same everywhere, in all tiles

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        place = scene_point(points, self.domain)
        return self.density(place), paint(place)


class Painted(Shared):
    """Takes the geometry for the colour."""

    def colour(self, geometry: Tensor, harmonics: Tensor) -> Tensor:
        del harmonics
        return geometry


def paint(place: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(place * torch.tensor([1.0, 2.0, 3.0]))


def fog(place: Tensor) -> Tensor:
    return 1.5 + torch.sin(3 * place).sum(-1) / 3


def constant(place: Tensor) -> Tensor:
    return torch.full_like(place[:, 0], 0.7)


def renderer(
    cut: Plan, density: Density, method: str, bins: int = 256, samples: int = 32
) -> Renderer:
    spec = sampling(method, bins, samples)
    tiles = [Analytic(k, cut, spec, density) for k in range(len(cut))]
    shared = Painted(FIELD, 0).double()
    return Renderer(cut, tiles, [shared] * len(cut), spec, 0.0, Gather(Ranks(), len(cut)))


def foresee(made: Renderer, density: Density) -> None:
    """Let the proposals say what the field is, or what it is not."""

    def said(tile: Tile, points: Tensor) -> Tensor:
        return density(scene_point(points, tile.domain))

    for tile in made.tiles:
        if tile.proposal is not None:
            tile.proposal.forward = partial(said, tile)  # type: ignore[method-assign]


def cut_in(tiles: int, is_open: bool = False) -> Plan:
    return plan(torch.rand(300, 3, generator=generator(5)) * 2 - 1, ROOT, tiles, is_open)


def some_rays(count: int = 50) -> Rays:
    """Rays from in and around the box, most of which meet it."""
    draw = generator(6)
    origins = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    target = torch.rand(count, 3, generator=draw, dtype=torch.float64) * 2 - 1
    directions = target - origins
    return Rays(origins, directions / directions.norm(dim=1, keepdim=True))


def one_ray(origin: list[float], direction: list[float]) -> Rays:
    return Rays(*(torch.tensor([row], dtype=torch.float64) for row in (origin, direction)))


def send(made: Renderer, rays: Rays) -> Cast:
    middle = rays.origins.new_full((len(rays), 2), 0.5)
    return made.depart(made.cast(Batch.of(rays, middle)))


def show(made: Renderer, rays: Rays, padding: float = 0.01) -> Pixels:
    return made(send(made, rays), padding)[0]


def lengths(rays: Rays, cut: Plan) -> Tensor:
    inside = cut.intervals(rays, 0.0, FAR)
    return (inside[..., 1] - inside[..., 0]).sum(0)


@pytest.mark.parametrize("tiles", [1, 2, 5, 8])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_even_fog_has_its_closed_form(tiles: int, is_open: bool) -> None:
    """Opacity is 1 - exp(-sigma length), however the ray is cut."""
    cut, rays = cut_in(tiles, is_open), some_rays()
    pixels = show(renderer(cut, constant, "occupancy"), rays)
    through = torch.exp(-0.7 * lengths(rays, cut))
    torch.testing.assert_close(pixels.opacity, 1 - through, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tiles", [1, 2, 5, 8])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_importance_samples_of_even_fog_leave_out_the_ends_alone(tiles: int, is_open: bool) -> None:
    """N + 1 edges at equal steps of the proposal's weights: half a step stays out at each end."""
    cut, rays = cut_in(tiles, is_open), some_rays()
    made = Recorder(renderer(cut, constant, "proposal"))
    pixels = show(made, rays)
    at = made.sorted_samples(len(rays))
    covered = at["t1"].amax(1) - at["t0"][:, 0]
    seen = 1 - torch.exp(-0.7 * covered)
    torch.testing.assert_close(pixels.opacity, seen, rtol=0, atol=1e-12)
    whole = 1 - torch.exp(-0.7 * lengths(rays, cut))
    assert (pixels.opacity > whole * (1 - 1 / 33)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", [2, 4, 7])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_tiles_make_no_difference(method: str, tiles: int, is_open: bool) -> None:
    """The lattice is the ray's own: a face cuts one bin in two, which costs its bin's cube."""
    rays = some_rays()
    one, many = (
        show(renderer(cut_in(k, is_open), fog, method, bins=1024, samples=768), rays)
        for k in (1, tiles)
    )
    atol = 1e-6 if method == "occupancy" and not is_open else 1e-4
    torch.testing.assert_close(many.colour, one.colour, rtol=0, atol=atol)
    torch.testing.assert_close(many.opacity, one.opacity, rtol=0, atol=atol)
    torch.testing.assert_close(many.distortion, one.distortion, rtol=0, atol=atol)
    torch.testing.assert_close(many.depth, one.depth, rtol=1e-3, atol=1e-3)


def test_tiles_of_even_density_and_colour_are_exactly_their_product() -> None:
    """With nothing to vary inside a tile, sampling is exact: eq. 5 and 6, tile by tile."""
    cut, rays = cut_in(5), some_rays()
    sigma = torch.tensor([0.3, 1.0, 2.5, 0.0, 0.6], dtype=torch.float64)
    grey = 0.1 + 0.2 * torch.arange(5, dtype=torch.float64)
    made = renderer(cut, constant, "occupancy")
    for tile in made.tiles:
        tile.forward = (  # type: ignore[method-assign]
            lambda points, tile=tile: (  # type: ignore[misc]
                sigma[tile.index].expand(len(points)),
                grey[tile.index].expand(len(points), 3),
            )
        )
    pixels = show(made, rays)
    inside = cut.intervals(rays, 0.0, FAR)
    through = torch.ones(len(rays), dtype=torch.float64)
    colour = torch.zeros(len(rays), 3, dtype=torch.float64)
    order = cut.order[octants(rays.directions)]
    for place in range(5):
        which = order[:, place]
        length = (inside[..., 1] - inside[..., 0]).gather(0, which[None])[0]
        passed = torch.exp(-sigma[which] * length)
        colour = colour + (through * (1 - passed) * grey[which])[:, None]
        through = through * passed
    expected = colour + through[:, None] * BEHIND
    torch.testing.assert_close(pixels.colour, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(pixels.opacity, 1 - through, rtol=0, atol=1e-12)


@dataclass
class Recorder(Renderer):
    """A renderer that keeps what it asked of each tile."""

    base: Renderer
    casts: list[Cast] = field(default_factory=list)
    seen: list[tuple[Stretches, Samples]] = field(default_factory=list)

    def __post_init__(self) -> None:
        base = self.base
        super().__init__(
            *(base.plan, base.tiles, base.shared, base.sampling, base.near, base.exchange)
        )

    def cast(self, batch: Batch) -> Cast:
        self.casts.append(super().cast(batch))
        return self.casts[-1]

    def _shade(self, stretches: Stretches, samples: Samples) -> Shaded:
        self.seen.append((stretches, samples))
        return super()._shade(stretches, samples)

    def sorted_samples(self, count: int) -> dict[str, Tensor]:
        """All samples of a ray, from whichever tile, by distance: [N, S] each, padded with 0."""
        found: list[list[tuple[float, float, float, float]]] = [[] for _ in range(count)]
        for cast, (stretches, samples) in zip(self.casts, self.seen, strict=True):
            path, rays = stretches.path, cast.route.to_tiles(cast.crossings.ray, "rays")
            for q, ray in enumerate(rays.tolist()):
                own = slice(int(samples.offsets[q]), int(samples.offsets[q + 1]))
                m0, m1 = samples.m0[own], samples.m1[own]
                t0, t1 = (
                    path.scale * torch.sinh(path.first[q] + m * path.span[q]) for m in (m0, m1)
                )
                found[ray] += zip(*(x.tolist() for x in (m0, m1, t0, t1)), strict=True)
        width = max(map(len, found))
        empty = (0.0, 0.0, 0.0, 0.0)
        rows = [sorted(one) + [empty] * (width - len(one)) for one in found]
        columns = torch.tensor(rows, dtype=torch.float64).unbind(-1)
        return dict(zip(("m0", "m1", "t0", "t1"), columns, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_nerfacc_renders_the_same_from_the_same_samples(
    method: str, tiles: int, is_open: bool
) -> None:
    rays, cut = some_rays(), cut_in(tiles, is_open)
    made = Recorder(renderer(cut, fog, method, bins=48))
    pixels = show(made, rays)
    at = made.sorted_samples(len(rays))
    m = (at["m0"] + at["m1"]) / 2
    path = made.casts[0].path
    t = path.scale * torch.sinh(path.first[:, None] + m * path.span[:, None])
    place = rays.origins[:, None] + t[..., None] * rays.directions[:, None]  # [N, S, 3]

    def ask(*_: Any) -> tuple[Tensor, Tensor]:
        return paint(place), fog(place)

    colour, opacity, _, extras = nerfacc.rendering(
        at["t0"], at["t1"], rgb_sigma_fn=ask, render_bkgd=BEHIND
    )
    torch.testing.assert_close(pixels.colour, colour, rtol=0, atol=1e-12)
    torch.testing.assert_close(pixels.opacity, opacity[:, 0], rtol=0, atol=1e-12)
    w = extras["weights"]
    mean = (w * m).sum(1) + 1 - opacity[:, 0]
    depth = path.scale * torch.sinh(path.first + mean * path.span)
    torch.testing.assert_close(pixels.depth, depth, rtol=1e-10, atol=1e-12)
    pairs = torch.einsum("ni,nj,nij->n", w, w, (m[:, :, None] - m[:, None]).abs())
    spread = pairs + (w * w * (at["m1"] - at["m0"])).sum(1) / 3
    torch.testing.assert_close(pixels.distortion, spread, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", [1, 4])
def test_gradients_are_those_of_all_samples_in_one_row(method: str, tiles: int) -> None:
    """Of each tile's density, and of a background that is seen through all of them."""
    rays, cut = some_rays(), cut_in(tiles)
    strength = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    glow = BEHIND.clone().requires_grad_()
    made = Recorder(renderer(cut, lambda place: strength * fog(place), method, bins=48))
    made.shared[0].background = (  # type: ignore[method-assign]
        lambda directions: glow.expand(len(directions), 3)
    )
    pixels = show(made, rays)
    total = pixels.colour.square().sum() + 0.3 * pixels.distortion.sum()
    total.backward()  # type: ignore[no-untyped-call]
    found = [strength.grad, glow.grad]

    at = made.sorted_samples(len(rays))
    m = (at["m0"] + at["m1"]) / 2
    path = made.casts[0].path
    t = path.scale * torch.sinh(path.first[:, None] + m * path.span[:, None])
    place = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    strength.grad = glow.grad = None
    tau = strength * fog(place) * (at["t1"] - at["t0"])
    w = torch.exp(tau - tau.cumsum(1)) * -torch.expm1(-tau)
    colour = (w[..., None] * paint(place)).sum(1) + torch.exp(-tau.sum(1))[:, None] * glow
    pairs = torch.einsum("ni,nj,nij->n", w, w, (m[:, :, None] - m[:, None]).abs())
    spread = pairs + (w * w * (at["m1"] - at["m0"])).sum(1) / 3
    expected = colour.square().sum() + 0.3 * spread.sum()
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, [strength.grad, glow.grad], rtol=1e-11, atol=0)


@pytest.mark.parametrize("padding", [0.01, 0.5])
def test_importance_samples_are_the_rays_own(padding: float) -> None:
    """Many tiles ask where one would, and at the faces between them."""
    rays, edges = some_rays(20), []
    for tiles in (1, 5):
        made = Recorder(renderer(cut_in(tiles), fog, "proposal", bins=1024))
        for tile in made.tiles:
            proposal = tile.proposal
            assert proposal is not None
            proposal.forward = (  # type: ignore[method-assign]
                lambda points, domain=tile.domain: fog(scene_point(points, domain))  # type: ignore[misc]
            )
        show(made, rays, padding)
        at = made.sorted_samples(len(rays))
        edges.append([sorted({*row}) for row in torch.cat([at["m0"], at["m1"]], 1).tolist()])
    for one, many in zip(*edges, strict=True):
        if len(one) == 1:  # the ray misses the box
            continue
        apart = (torch.tensor(one[1:])[:, None] - torch.tensor(many)).abs().amin(1)
        assert apart.max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", [1, 6])
def test_samples_of_neighbours_join_without_gap_or_overlap(method: str, tiles: int) -> None:
    """Where two tiles meet on a ray, one's last sample ends where the other's first begins."""
    rays = some_rays()
    made = Recorder(renderer(cut_in(tiles, is_open=True), constant, method, bins=40))
    show(made, rays)
    at = made.sorted_samples(len(rays))
    used = at["m1"] > at["m0"]
    both = used[:, 1:]
    torch.testing.assert_close(at["m1"][:, :-1][both], at["m0"][:, 1:][both], rtol=0, atol=0)
    if method == "occupancy":
        assert (at["m0"][:, 0] == 0).all()
        assert (at["m1"].amax(1) == 1).all()


def test_a_wall_is_seen_at_its_distance_and_hides_the_background() -> None:
    def wall(place: Tensor) -> Tensor:
        return 1e4 * ((place[:, 0] > 0.3) & (place[:, 0] < 0.5))

    rays = one_ray([-0.9, 0.1, 0.2], [1.0, 0.0, 0.0])
    for tiles in (1, 4):
        made = renderer(cut_in(tiles), wall, "occupancy", bins=2048)
        pixels = show(made, rays)
        assert pixels.depth.item() == pytest.approx(1.2, abs=2e-3)  # 0.3 - -0.9
        assert pixels.opacity.item() == pytest.approx(1, abs=1e-6)
        expected = paint(torch.tensor([[0.3, 0.1, 0.2]], dtype=torch.float64))
        torch.testing.assert_close(pixels.colour, expected, rtol=0, atol=1e-3)
        # The spread of a thin wall is its bin's: 1/3 w^2 delta.
        assert pixels.distortion.item() < 1e-3


def test_empty_space_is_the_background_at_the_far_end() -> None:
    pixels = show(renderer(cut_in(3), lambda place: 0 * place[:, 0], "occupancy"), some_rays(5))
    torch.testing.assert_close(pixels.colour, BEHIND.expand(5, 3))
    assert pixels.opacity.tolist() == [0] * 5
    inside = cut_in(3).intervals(some_rays(5), 0.0, FAR)
    torch.testing.assert_close(pixels.depth, inside[..., 1].amax(0))


@pytest.mark.parametrize("tiles", [1, 4])
def test_a_far_ball_is_seen_through_the_border_tiles(tiles: int) -> None:
    centre = torch.tensor([50.0, 30.0, -20.0], dtype=torch.float64)

    def ball(place: Tensor) -> Tensor:
        return torch.where((place - centre).norm(dim=1) < 4, 100.0, 0.0)

    distance = float(centre.norm())
    ahead = one_ray([0.0, 0.0, 0.0], (centre / distance).tolist())
    aside = one_ray([0.0, 0.0, 0.0], [-1.0, 0.0, 0.0])
    made = renderer(cut_in(tiles, is_open=True), ball, "occupancy", bins=4096)
    pixels = show(made, ahead)
    # Bins are 8.3 t / 4096 long out there: 0.12.
    assert pixels.depth.item() == pytest.approx(distance - 4, abs=0.15)
    assert pixels.opacity.item() == pytest.approx(1, abs=1e-4)
    pixels = show(made, aside)
    assert pixels.opacity.item() == 0
    assert pixels.depth.item() == pytest.approx(FAR)


def real_model(method: str, is_open: bool, tiles: int = 4) -> Model:
    """Learned fields, far from their even start."""
    document = {
        "capture": {"path": "nowhere"},
        "partition": {"tiles": tiles},
        "field": FIELD.model_dump() | {"background": "sky"},
        "sampling": sampling(method, 40, 12).model_dump(),
    }
    cut = cut_in(tiles, is_open)
    made = Model(SceneSpec.model_validate(document), cut, 0.0, Ranks(), torch.float64)
    with torch.no_grad():
        for tile in made.tiles:
            tile.table.mul_(1e4)
    return made


def gradients(made: Model) -> dict[str, Tensor]:
    made.sum_gradients()
    modules = {"shared": made.shared} | {f"tile{tile.index}": tile for tile in made.tiles}
    return {
        f"{owner}.{name}": torch.zeros_like(p) if p.grad is None else p.grad
        for owner, module in modules.items()
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_rays_along_axes_and_inside_planes_are_as_good_as_others(
    method: str, is_open: bool
) -> None:
    made = real_model(method, is_open)
    axis = made.renderer.plan.nodes[0].axis
    on_plane = [0.1, 0.2, -0.3]
    on_plane[axis] = made.renderer.plan.nodes[0].plane
    rows = []
    for a in range(3):
        for sign in (-1.0, 1.0):
            along = [0.0, 0.0, 0.0]
            along[a] = sign
            rows += [(on_plane, along), ([0.0, 0.0, 0.0], along), ([1.0, 1.0, 1.0], along)]
            rows += [([-1.0, 0.5, 1.0], along)]
    diagonal = [math.sqrt(0.5)] * 3
    diagonal[axis] = 0.0
    rows.append((on_plane, diagonal))
    origins, directions = (
        torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True)
    )
    rays = Rays(origins, directions)
    still = torch.full((len(rays), 2), 0.5, dtype=torch.float64)
    cast = made.renderer.depart(made.renderer.cast(Batch.of(rays, still)))
    pixels, proposal_loss = made.renderer(cast, 0.05, learn_proposal=method == "proposal")
    for values in (pixels.colour, pixels.depth, pixels.opacity, pixels.distortion):
        assert values.isfinite().all()
    assert (pixels.opacity >= 0).all()
    assert (pixels.opacity <= 1).all()
    total = pixels.colour.square().sum() + pixels.distortion.sum() + proposal_loss
    total.backward()  # type: ignore[no-untyped-call]
    found = gradients(made)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any(gradient.any() for name, gradient in found.items() if name.startswith("tile"))


@pytest.mark.parametrize("method", METHODS)
def test_rays_that_miss_everything_are_background_and_teach_no_tile(method: str) -> None:
    made = real_model(method, is_open=False)
    rays = Rays(
        torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [5.0, 5, 5]], dtype=torch.float64),
        torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, -1.0]], dtype=torch.float64),
    )
    still = torch.full((3, 2), 0.5, dtype=torch.float64)
    cast = made.renderer.depart(made.renderer.cast(Batch.of(rays, still)))
    pixels, proposal_loss = made.renderer(cast, 0.05, learn_proposal=method == "proposal")
    assert pixels.samples == 0
    assert pixels.opacity.tolist() == [0, 0, 0]
    total = pixels.colour.sum() + pixels.distortion.sum() + proposal_loss
    total.backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(made).items():
        assert bool(gradient.any()) == name.startswith("shared.sky"), name


@pytest.mark.parametrize("method", METHODS)
def test_missing_rays_do_not_disturb_the_others(method: str) -> None:
    made, rays = real_model(method, is_open=False), some_rays(20)
    away = one_ray([3.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    both = Rays(
        torch.cat([away.origins, rays.origins]), torch.cat([away.directions, rays.directions])
    )
    torch.testing.assert_close(
        show(made.renderer, both).colour[1:], show(made.renderer, rays).colour, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("method", METHODS)
def test_no_rays_at_all(method: str) -> None:
    made = real_model(method, is_open=True)
    pixels = show(made.renderer, some_rays()[:0])
    assert pixels.colour.shape == (0, 3)
    assert pixels.depth.shape == (0,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiles", [1, 6])
def test_pictures_ask_no_tile_behind_an_opaque_one(method: str, tiles: int) -> None:
    """And are off by no more than what was left of the ray's light there."""

    def thick(place: Tensor) -> Tensor:
        return 0.1 + 300.0 * (place[:, 0].abs() < 0.4).to(place)

    made, rays = renderer(cut_in(tiles), thick, method, bins=256, samples=64), some_rays()
    foresee(made, thick)
    full = show(made, rays)
    middle = rays.origins.new_full((len(rays), 2), 0.5)
    still = made.still(Batch.of(rays, middle), 0.01, 64)
    torch.testing.assert_close(still.colour, full.colour, rtol=0, atol=OPAQUE)
    torch.testing.assert_close(still.opacity, full.opacity, rtol=0, atol=OPAQUE)
    if tiles == 1:
        assert still.samples == full.samples
        assert torch.equal(still.colour, full.colour)
    else:
        assert still.samples < full.samples


def test_pictures_ask_what_proposals_wrongly_hold_hidden() -> None:
    made, rays = renderer(cut_in(5), constant, "proposal"), some_rays()
    foresee(made, lambda place: torch.full_like(place[:, 0], 300.0))
    full = show(made, rays, padding=0.5)
    middle = rays.origins.new_full((len(rays), 2), 0.5)
    still = made.still(Batch.of(rays, middle), 0.5, 32)
    assert still.samples == full.samples
    torch.testing.assert_close(still.colour, full.colour, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_thin_fog_leave_nothing_out(method: str) -> None:
    made, rays = renderer(cut_in(5), constant, method), some_rays()
    middle = rays.origins.new_full((len(rays), 2), 0.5)
    still = made.still(Batch.of(rays, middle), 0.01, 32)
    full = show(made, rays)
    assert still.samples == full.samples
    torch.testing.assert_close(still.colour, full.colour, rtol=0, atol=1e-14)
    torch.testing.assert_close(still.depth, full.depth, rtol=1e-12, atol=0)


def test_a_proposal_puts_samples_where_its_wall_is() -> None:
    """A proposal that knows the wall lets 24 samples place it as 2,000 even ones would."""

    def wall(place: Tensor) -> Tensor:
        return 1e4 * ((place[:, 0] > 0.3) & (place[:, 0] < 0.5))

    rays = one_ray([-0.9, 0.1, 0.2], [1.0, 0.0, 0.0])
    cut = cut_in(4)
    known = renderer(cut, wall, "proposal", bins=512, samples=24)
    for tile in known.tiles:
        proposal = tile.proposal
        assert proposal is not None
        domain = tile.domain
        proposal.forward = (  # type: ignore[method-assign]
            lambda points, domain=domain: wall(scene_point(points, domain))  # type: ignore[misc]
        )
    depth = {
        "known": show(known, rays).depth.item(),
        "even": show(renderer(cut, wall, "proposal", bins=512, samples=24), rays).depth.item(),
    }
    assert abs(depth["known"] - 1.2) < 5e-3
    assert abs(depth["even"] - 1.2) > 10 * abs(depth["known"] - 1.2)


def test_an_opaque_tile_does_not_blur_what_passes_in_front_of_it() -> None:
    """In float32, where 0.5 is nothing beside the depth of a wall."""
    made = renderer(cut_in(4), constant, "proposal")
    rays = one_ray([-2.0, -1.9, -1.8], [3**-0.5] * 3)
    cast = send(made, Rays(rays.origins.float(), rays.directions.float()))
    crossings = cast.crossings
    last = crossings.tile[-1]
    for tile in made.tiles:
        assert tile.proposal is not None
        density = 1e9 if tile.index == last else 0.5
        tile.proposal.forward = (  # type: ignore[method-assign]
            lambda points, density=density: torch.full_like(points[:, 0], density)  # type: ignore[misc]
        )
    stretches = made.arrive(cast)
    proposed, _ = made._propose(cast, stretches, padding=0.01)
    found = cast.route.to_rays(proposed.before, "test")
    t = made.plan.intervals(rays, 0.0, FAR)[crossings.tile, 0]
    passed = torch.exp(-0.5 * (t[:, 0] - t[0, 0]))
    assert len(passed) > 1
    torch.testing.assert_close(found.double(), passed, rtol=1e-5, atol=0)


def test_asking_in_empty_cells_costs_nothing() -> None:
    made, rays = renderer(cut_in(4), fog, "occupancy", bins=64), some_rays()
    full = show(made, rays).samples
    for tile in made.tiles:
        assert tile.occupancy is not None
        tile.occupancy.cells.fill_(False)
    empty = show(made, rays)
    assert full > 1000
    assert empty.samples == 0
    torch.testing.assert_close(empty.colour, BEHIND.expand(len(rays), 3))


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64(method: str) -> None:
    made, rays = real_model(method, is_open=True), some_rays()
    fine = show(made.renderer, rays).colour
    for module in (*made.tiles, *made.twins):
        module.float()
    coarse = show(made.renderer, Rays(rays.origins.float(), rays.directions.float())).colour
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=2e-3)
