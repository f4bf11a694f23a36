"""Pictures of independent NeRFs in float64: where they agree, a blend is the picture of each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nerfxl.blend import InPicture, InSpace
from nerfxl.exchange import Gather
from nerfxl.model import Model
from nerfxl.partition import Plan, plan
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Box, Pixels, Rays, Still
from nerfxl.regions import Regions
from nerfxl.render import Renderer
from nerfxl.scene.spec import SceneSpec

CUBE = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
K, N, NEAR, PADDING, SAMPLES = 4, 40, 0.01, 0.05, 12
OVERLAPS = [0.0, 0.5]


def spec(method: str = "proposal", bins: int = 48) -> SceneSpec:
    """A sky that each NeRF has an idea of."""
    table = {"levels": 3, "log2_table": 8, "base_resolution": 3, "max_resolution": 12}
    widths = {"density_hidden": 8, "geometry_features": 5, "colour_hidden": 8}
    proposal = {"samples": 24, "levels": 2, "log2_table": 8, "max_resolution": 6}
    sampling = {"method": method, "samples": SAMPLES, "proposal": proposal}
    occupancy = {"samples": bins, "resolution": 8}
    return SceneSpec.model_validate(
        {
            "capture": {"path": "nowhere"},
            "field": table | widths,
            "sampling": sampling | {"occupancy": occupancy},
        }
    )


def nerf(made: SceneSpec, seed: int) -> Model:
    """A NeRF of its own, far from its even start."""
    own = made.model_copy(update={"seed": seed})
    found = Model(own, Plan(CUBE, True, ()), NEAR, Ranks(), torch.float64)
    (tile,) = found.tiles
    with torch.no_grad():
        tile.table.mul_(1e4)
        if tile.proposal:
            tile.proposal.table.mul_(1e4)
    if tile.occupancy:
        tile.occupancy.cells.copy_(torch.rand(8, 8, 8, generator=generator(2, seed)) < 0.7)
    return found


def rays() -> Batch:
    """Random rays in and around the box; the last three look away from it."""
    draw = generator(3)
    origins = torch.rand(N, 3, generator=draw, dtype=torch.float64) * 3 - 1.5
    directions = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    directions[:3] = torch.eye(3, dtype=torch.float64)
    origins[-3:] = torch.tensor([[2.0, 0, 0], [0, -3, 0.1], [1.5, 1.5, 1.5]])
    directions[-3:] = origins[-3:]
    directions = directions / directions.norm(dim=1, keepdim=True)
    return Batch.of(Rays(origins, directions), torch.rand(N, 2, generator=draw).double())


def tiles_of(is_open: bool) -> Plan:
    points = torch.rand(500, 3, generator=generator(1)) * 2 - 1
    return plan(points, CUBE, K, is_open)


def in_space(cut: Plan, overlap: float, models: Sequence[Model]) -> InSpace:
    tiles = [model.tiles[0] for model in models]
    shared = [model.shared for model in models]
    regions = Regions(cut, overlap)
    return InSpace(cut, regions, tiles, shared, models[0].spec.sampling, NEAR, Ranks())


def joint(cut: Plan, models: Sequence[Model]) -> Renderer:
    """The plan's own renderer, each tile asked of its NeRF."""
    tiles = [model.tiles[0] for model in models]
    shared = [model.shared for model in models]
    exchange = Gather(Ranks(), len(cut))
    return Renderer(cut, tiles, shared, models[0].spec.sampling, NEAR, exchange)


def unhurried(renderer: Renderer) -> Pixels:
    """Pixels without leaving out tiles through which almost nothing is seen."""
    with torch.no_grad():
        cast = renderer.depart(renderer.cast(rays()))
        return renderer(cast, PADDING, SAMPLES)[0]


def same(found: Still, expected: Still | Pixels) -> None:
    for name in ("colour", "depth"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)
    assert found.samples == expected.samples
    assert float(expected.opacity.amax()) > 0.1, "something is seen"


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_one_nerf_blended_is_itself(method: str, is_open: bool, overlap: float) -> None:
    """Of a closed plan, as far as its box goes, though the NeRF knows more."""
    alone, cut = nerf(spec(method), 5), Plan(CUBE, is_open, ())
    found = in_space(cut, overlap, [alone]).still(rays(), PADDING, SAMPLES)
    same(found, joint(cut, [alone]).still(rays(), PADDING, SAMPLES))
    if is_open:
        same(found, alone.renderer.still(rays(), PADDING, SAMPLES))


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_nerfs_that_agree_blend_to_what_they_say(
    method: str, is_open: bool, overlap: float
) -> None:
    """The samples are those of the plan's renderer, and at each all NeRFs say the same."""
    alone, cut = nerf(spec(method), 5), tiles_of(is_open)
    found = in_space(cut, overlap, [alone] * K).still(rays(), PADDING, SAMPLES)
    same(found, unhurried(joint(cut, [alone] * K)))


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_without_overlap_each_nerf_is_asked_of_its_own_tile(method: str) -> None:
    """Then a blend is the plan's renderer, whose tiles are the NeRFs; they differ here."""
    made = spec(method)
    made = made.model_copy(update={"field": made.field.model_copy(update={"background": "white"})})
    models, cut = [nerf(made, seed) for seed in range(K)], tiles_of(is_open=True)
    expected = unhurried(joint(cut, models))
    same(in_space(cut, 0.0, models).still(rays(), PADDING, SAMPLES), expected)
    blended = in_space(cut, 0.5, models).still(rays(), PADDING, SAMPLES)
    assert float((blended.colour - expected.colour).abs().max()) > 0.01


def test_in_an_overlap_density_and_colour_are_weighted_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two NeRFs of even density, 2 red and 1 blue, along a ray that crosses both.

    The cells are x < 0 and x > 0 of the cube, grown by 0.25, in which weights go from one to the
    other on a straight line.
    """
    models = [nerf(spec("occupancy", bins=1000), seed) for seed in (0, 1)]
    hues = torch.tensor([[1.0, 0, 0], [0.0, 0, 1]], dtype=torch.float64)
    for model, dense, hue in zip(models, (2.0, 1.0), hues, strict=True):
        (tile,) = model.tiles
        assert tile.occupancy is not None
        tile.occupancy.cells.fill_(True)

        def says(points: Tensor, dense: float = dense) -> tuple[Tensor, Tensor]:
            return points.new_full((len(points),), dense), points.new_zeros(len(points), 5)

        def paints(geometry: Tensor, _: Tensor, hue: Tensor = hue) -> Tensor:
            return hue.expand(len(geometry), 3)

        def sky(directions: Tensor) -> Tensor:
            return torch.zeros_like(directions)

        monkeypatch.setattr(tile, "forward", says)
        monkeypatch.setattr(model.shared, "colour", paints)
        monkeypatch.setattr(model.shared, "background", sky)
    cut = plan(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]]), CUBE, 2, open=False)
    ray = Rays(torch.tensor([[-3.0, 0.1, 0.2]]).double(), torch.tensor([[1.0, 0, 0]]).double())
    batch = Batch.of(ray, torch.full((1, 2), 0.5, dtype=torch.float64))
    found = in_space(cut, 0.5, models).still(batch, PADDING, SAMPLES)

    x = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 50_000 - 1
    red = ((0.25 - x) / 0.5).clamp(0, 1)
    density = 2 * red + (1 - red)
    step = density / 50_000
    seen = torch.exp(step - step.cumsum(0)) * -torch.expm1(-step)
    share = 2 * red / density
    expected = torch.stack([(seen * share).sum(), (seen * (1 - share)).sum()])
    # Samples are some 0.002 long, and even within.
    torch.testing.assert_close(found.colour[0, [0, 2]], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_pictures_that_agree_blend_to_what_they_show(overlap: float) -> None:
    alone, cut = nerf(spec(), 5), tiles_of(is_open=True)
    found = InPicture(Regions(cut, overlap), [alone.renderer] * K, Ranks())
    pixels = found.still(rays(), PADDING, SAMPLES)
    expected = alone.renderer.still(rays(), PADDING, SAMPLES)
    for name in ("colour", "depth"):
        one, other = getattr(pixels, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


def test_a_picture_is_of_the_nerf_whose_cameras_stood_there() -> None:
    """Deep in a group it alone is asked; where two meet, the mean of both."""
    models = [nerf(spec(), seed) for seed in (0, 1)]
    cut = plan(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]]), CUBE, 2, open=True)
    found = InPicture(Regions(cut, 0.5), [model.renderer for model in models], Ranks())
    places = torch.tensor([[-0.9, 0, 0], [0.9, 0, 0], [0.0, 0, 0]], dtype=torch.float64)
    towards = torch.tensor([[0.6, 0.8, 0]], dtype=torch.float64).expand(3, 3)
    batch = Batch.of(Rays(places, towards), torch.full((3, 2), 0.5, dtype=torch.float64))
    one, two = (model.renderer.still(batch, PADDING, SAMPLES).colour for model in models)
    expected = torch.stack([one[0], two[1], (one[2] + two[2]) / 2])
    torch.testing.assert_close(found.still(batch, PADDING, SAMPLES).colour, expected)


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_rays_that_meet_nothing_see_the_sky(method: str) -> None:
    """Of the NeRF towards whose tile they go; alone, and among others."""
    models, cut = [nerf(spec(method), seed) for seed in range(K)], tiles_of(is_open=False)
    painter, every = in_space(cut, 0.15, models), rays()
    away = Batch.of(every.rays[slice(-3, None)], every.jitter[-3:])
    ends = cut.tile_of(1000 * away.rays.directions)
    skies = [model.shared.background(away.rays.directions) for model in models]
    expected = torch.stack([skies[k][i] for i, k in enumerate(ends.tolist())])
    for found in (painter.still(away, PADDING, SAMPLES), painter.still(every, PADDING, SAMPLES)):
        torch.testing.assert_close(found.colour[-3:], expected.detach())
        for name in ("colour", "depth"):
            assert bool(getattr(found, name).isfinite().all()), name
    nobody = Batch.of(every.rays[slice(0, 0)], every.jitter[:0])
    assert painter.still(nobody, PADDING, SAMPLES).colour.shape == (0, 3)
    pictures = InPicture(Regions(cut, 0.15), [model.renderer for model in models], Ranks())
    assert bool(pictures.still(every, PADDING, SAMPLES).colour.isfinite().all())
    assert pictures.still(nobody, PADDING, SAMPLES).colour.shape == (0, 3)
