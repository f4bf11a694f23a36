"""Fields: their random starts, their bounds, and the grid that knows what is empty."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfxl_kernels.march import Domain
from torch import Tensor

from nerfxl.field import (
    MAX_LOG_DENSITY,
    Shared,
    Tile,
    activate,
    background_colour,
    gradient_buffer,
    layers,
    spherical_harmonics,
)
from nerfxl.model import Model, parameter_counts
from nerfxl.partition import plan
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Box
from nerfxl.scene.spec import FieldSpec, SamplingSpec, SceneSpec

BOX = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
EVERYWHERE = Box((-math.inf,) * 3, (math.inf,) * 3)
SMALL = {
    "levels": 3,
    "log2_table": 8,
    "base_resolution": 2,
    "max_resolution": 16,
    "density_hidden": 8,
    "geometry_features": 5,
    "colour_hidden": 8,
    "sh_degree": 3,
}
OCCUPANCY = {"resolution": 8, "every": 2, "warmup": 4, "threshold": 0.01}
SAMPLING = {"proposal": {"levels": 2, "log2_table": 8}, "occupancy": OCCUPANCY}


def field(**changes: Any) -> FieldSpec:
    return FieldSpec.model_validate(SMALL | changes)


def tile(index: int = 0, seed: int = 1, method: str = "proposal", box: Box = BOX) -> Tile:
    sampling = SamplingSpec.model_validate(SAMPLING | {"method": method})
    return Tile(index, box, BOX, field(), sampling, seed)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4), st.integers(0, 3))
def test_a_stream_depends_on_every_part_of_its_key_and_on_nothing_else(
    key: list[int], place: int
) -> None:
    other = list(key)
    other[place % len(key)] += 1
    first, again, different = (
        torch.rand(4, generator=generator(*k), dtype=torch.float64) for k in (key, key, other)
    )
    assert first.equal(again)
    assert not first.equal(different)


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_a_tile_starts_from_its_seed_and_index_alone(method: str) -> None:
    start = tile(2, 5, method).state_dict()
    torch.rand(7)  # the global stream moves on
    again = tile(2, 5, method).state_dict()
    assert start.keys() == again.keys()
    assert all(start[name].equal(again[name]) for name in start)
    for other in (tile(3, 5, method), tile(2, 6, method)):
        for name, parameter in other.named_parameters():
            assert not parameter.equal(start[name]), name


def test_a_tile_starts_at_the_density_of_its_bias() -> None:
    density, geometry = tile()(torch.rand(100, 3, generator=generator(1)))
    torch.testing.assert_close(density, torch.full((100,), math.exp(-1)), rtol=1e-3, atol=0)
    assert geometry.shape == (100, 5)


def test_density_is_bounded_and_its_slope_ends_there() -> None:
    x = torch.tensor([-1e30, 0.0, 11.0, 50.0, math.inf], requires_grad=True)
    density = activate(x, 2.0)
    limit = math.exp(MAX_LOG_DENSITY)
    expected = torch.tensor([0.0, math.exp(2), limit, limit, limit])
    torch.testing.assert_close(density, expected)
    density.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    # exp' = exp below the bound, 0 above it.
    torch.testing.assert_close(x.grad, torch.tensor([0.0, math.exp(2), 0.0, 0.0, 0.0]))


def test_not_a_number_is_not_hidden_by_the_bound() -> None:
    assert activate(torch.tensor([math.nan]), 0.0).isnan().all()


def test_only_tiles_that_reach_out_are_contracted() -> None:
    core = Box((0.0, -1.0, 0.0), (0.5, 1.0, 1.0))
    sampling = SamplingSpec.model_validate(SAMPLING)
    half_open = Box((0.0, -math.inf, 0.0), (0.5, 1.0, 1.0))
    for box, is_open in ((core, False), (half_open, True)):
        made = Tile(0, box, core, field(), sampling, 0)
        # A cube around the core: half of its longest edge, 2.
        assert made.domain == Domain((0.25, 0.0, 0.5), 1.0, is_open)


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
@pytest.mark.parametrize("background", ["sky", "white"])
def test_parameters_are_counted_without_being_made(method: str, background: str) -> None:
    document = {
        "capture": {"path": "nowhere"},
        "field": SMALL | {"background": background},
        "sampling": SAMPLING | {"method": method},
    }
    spec = SceneSpec.model_validate(document)
    made = Model(spec, plan(torch.zeros(0, 3), BOX, 3, True), 0.0, Ranks())
    per_tile, shared = parameter_counts(spec)
    for one in made.tiles:
        assert sum(p.numel() for p in one.parameters()) == per_tile
    assert sum(p.numel() for p in made.shared.parameters()) == shared


def test_weights_start_within_glorots_bound() -> None:
    first, last = layers((30, 20, 4), generator(3))
    assert first.shape == (30, 20)
    assert last.shape == (20, 4)
    bound = math.sqrt(6 / 50)
    assert 0.9 * bound < first.abs().max() <= bound
    assert float(first.mean().detach()) == pytest.approx(0, abs=0.1 * bound)


def test_the_tables_gradient_lives_on_in_one_buffer() -> None:
    table = torch.nn.Parameter(torch.zeros(1, 2, 1))
    buffer = gradient_buffer(table)
    assert buffer is not None
    assert gradient_buffer(table) is buffer is table.grad
    with torch.no_grad():
        assert gradient_buffer(table) is None
    assert gradient_buffer(torch.zeros(1)) is None


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_spherical_harmonics_are_orthonormal(degree: int) -> None:
    """Gauss-Legendre in z and even steps in angle integrate these products exactly."""
    z, weight = np.polynomial.legendre.leggauss(8)
    turn = 2 * np.pi * np.arange(16) / 16
    radius = np.sqrt(1 - z**2)[:, None]
    directions = np.stack(
        [radius * np.cos(turn), radius * np.sin(turn), np.broadcast_to(z[:, None], (8, 16))], -1
    )
    values = spherical_harmonics(torch.from_numpy(directions.reshape(-1, 3)), degree)
    area = torch.from_numpy(np.repeat(weight, 16) * 2 * np.pi / 16)
    products = values.T @ (area[:, None] * values)
    torch.testing.assert_close(products, torch.eye(degree**2, dtype=torch.float64))


def test_the_background_is_constant_or_learned() -> None:
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator(1)))
    for name, colour in (
        ("white", [1.0] * 3),
        ("black", [0.0] * 3),
        ([0.1, 0.5, 1], [0.1, 0.5, 1]),
    ):
        shared = Shared(field(background=name), seed=0)
        assert background_colour(field(background=name)) == tuple(colour)
        torch.testing.assert_close(shared.background(directions), torch.tensor([colour] * 5))
        assert not list(shared.sky_layers)
    sky = Shared(field(), seed=0)
    seen = sky.background(directions)
    assert seen.shape == (5, 3)
    assert seen.requires_grad


def test_a_twin_shares_numbers_and_keeps_its_gradients() -> None:
    shared = Shared(field(), seed=0)
    twin, other = shared.twin(), shared.twin()
    twin.background(torch.rand(5, 3)).sum().backward()  # type: ignore[no-untyped-call]
    names = dict(shared.named_parameters()).keys()
    assert dict(twin.named_parameters()).keys() == names
    assert [name for name, p in twin.named_parameters() if p.grad is not None] == [
        name for name in names if name.startswith("sky")
    ]
    assert all(p.grad is None for made in (shared, other) for p in made.parameters())
    for parameter in shared.parameters():
        parameter.data.add_(1.0)  # as an optimiser does
    for one, two in zip(shared.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_colours_are_between_black_and_white() -> None:
    shared = Shared(field(), seed=0)
    colour = shared.colour(torch.randn(50, 5) * 100, torch.randn(50, 9) * 100).detach()
    assert colour.shape == (50, 3)
    assert 0 <= float(colour.min()) <= float(colour.max()) <= 1


def half_empty(method: str = "occupancy", box: Box = BOX) -> Tile:
    """A tile with density 100 where field x < 1/2, and none elsewhere."""

    class Half(Tile):
        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            return 100.0 * (points[:, 0] < 0.5), points

    return Half(1, box, BOX, field(), SamplingSpec.model_validate(SAMPLING | {"method": method}), 3)


def test_the_grid_finds_what_is_empty() -> None:
    made = half_empty()
    occupancy = made.occupancy
    assert occupancy is not None
    assert occupancy.cells.shape == (8, 8, 8)
    assert occupancy.cells.all()  # at first nothing is known to be empty
    occupancy.update(made, 0)
    assert occupancy.cells[:4].all()
    assert not occupancy.cells[4:].any()


def test_the_grid_changes_at_its_own_steps_only() -> None:
    made = half_empty()
    assert made.occupancy is not None
    made.occupancy.update(made, 1)  # every 2nd step
    assert made.occupancy.cells.all()


def test_the_grid_draws_from_seed_tile_and_step_and_leaves_the_global_stream() -> None:
    found = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        made = half_empty()
        assert made.occupancy is not None
        before = torch.get_rng_state()
        for step in (0, 2, 4, 6, 8):  # after step 4 a part of the cells, at random
            made.occupancy.update(made, step)
        assert torch.get_rng_state().equal(before)
        found.append(made.occupancy.grid.state_dict())
    assert all(found[0][name].equal(found[1][name]) for name in found[0])


@pytest.mark.parametrize("box", [BOX, EVERYWHERE], ids=["closed", "open"])
def test_inside_the_core_a_cells_edge_is_known(box: Box) -> None:
    made = half_empty(box=box)
    assert made.occupancy is not None
    # Closed: 8 cells over an edge of 2. Open: the core is the inner half of the field's cube.
    edge = 0.25 if box is BOX else 0.5
    sizes = made.occupancy._cell_size(torch.tensor([[0.5, 0.5, 0.5], [0.3, 0.6, 0.5]]))
    torch.testing.assert_close(sizes, torch.tensor([edge, edge]))


def test_outside_the_core_cells_grow() -> None:
    made = half_empty(box=EVERYWHERE)
    assert made.occupancy is not None
    near, far = made.occupancy._cell_size(torch.tensor([[0.8, 0.5, 0.5], [0.95, 0.5, 0.5]]))
    # 0.8 is n = 1 / (2 - 1.2) = 1.25, so 0.5 * 1.25^2; 0.95 is n = 5, so 0.5 * 25.
    torch.testing.assert_close(torch.stack([near, far]), torch.tensor([0.78125, 12.5]))
    border = made.occupancy._cell_size(torch.tensor([[1.0, 1.0, 1.0]]))
    assert border.isfinite().all()
