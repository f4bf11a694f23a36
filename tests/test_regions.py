"""What each of several independent NeRFs is for: weights that share out every point, once."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerfxl.partition import Plan, plan
from nerfxl.rays import Box, Rays
from nerfxl.regions import Regions, grown, holds, meets
from tests.test_partition import CUBE, SLAB, cloud, nasty_rays

laws = settings(max_examples=40, deadline=None)
counts = st.integers(1, 12)
seeds = st.integers(0, 10_000)
roots = st.sampled_from([CUBE, SLAB])
overlaps = st.sampled_from([0.05, 0.15, 0.5, 1.0, 4.0])


def places(made: Plan, seed: int, size: int = 300) -> Tensor:
    """Points of the root box, some of them on faces; beyond it, too, if the plan is open."""
    draw = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(corner, dtype=torch.float64) for corner in box_of(made.root))
    reach = 3.0 if made.open else 1.0
    share = torch.rand(size, 3, generator=draw, dtype=torch.float64)
    points = (low + high) / 2 + reach * (share - 0.5) * (high - low)
    for node in made.nodes:
        on = torch.rand(size, generator=draw) < 0.1
        points[on, node.axis] = node.plane
    return points


def box_of(box: Box) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    return box.low, box.high


def within(box: Box, points: Tensor) -> Tensor:
    """Whether points lie strictly inside a box: [N]."""
    low, high = (torch.tensor(corner, dtype=points.dtype) for corner in box_of(box))
    return ((points > low) & (points < high)).all(1)


@laws
@given(counts, roots, st.booleans(), overlaps, seeds)
def test_weights_share_out_every_point(
    K: int, root: Box, is_open: bool, overlap: float, seed: int
) -> None:
    made = plan(cloud(seed), root, K, is_open)
    regions = Regions(made, overlap)
    points = places(made, seed)
    weights = regions.weights(points)
    assert weights.shape == (len(points), K)
    assert bool(((weights >= 0) & (weights <= 1)).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(len(points), dtype=torch.float64))
    inside = torch.stack([within(regions.box(k), points) for k in range(K)], 1)
    cell = made.tile_of(points)
    # Nothing is asked of a NeRF outside its grown cell, and where one cell is alone it is all.
    assert not weights[~inside].any()
    deep = inside.sum(1) == 1
    assert torch.equal(inside[deep].double(), weights[deep])
    assert torch.equal(weights[deep].argmax(1), cell[deep])
    if K == 1:
        assert bool((weights == 1).all())


@laws
@given(counts, roots, st.booleans(), overlaps, seeds)
def test_weights_have_no_jump(K: int, root: Box, is_open: bool, overlap: float, seed: int) -> None:
    """Depths change as fast as a point moves, and their sum is nowhere less than the overlap's.

    So a weight, one over the sum of all K, changes at most 1 + K times as fast over that sum.
    """
    made = plan(cloud(seed), root, K, is_open)
    points = places(made, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    step = 0.01 * (torch.rand(points.shape, generator=draw, dtype=torch.float64) - 0.5)
    if not is_open:  # beyond the grown border of a closed plan there is nothing to be seen
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in box_of(root))
        step = (points + step).clamp(low, high) - points
    regions = Regions(made, overlap)
    change = (regions.weights(points + step) - regions.weights(points)).abs().amax(1)
    least = overlap / 2 * min(min(core.size) for core in made.cores)
    bound = (1 + K) * step.abs().amax(1) / least
    assert bool((change <= bound + 1e-9).all())


@laws
@given(counts, roots, st.booleans(), seeds)
def test_without_overlap_each_point_is_one_nerfs(
    K: int, root: Box, is_open: bool, seed: int
) -> None:
    made = plan(cloud(seed), root, K, is_open)
    points = places(made, seed)
    points = torch.cat([points, 5 * points])  # outside of a closed plan, too
    weights = Regions(made, 0.0).weights(points)
    assert torch.equal(weights, torch.nn.functional.one_hot(made.tile_of(points), K).double())


def test_two_cells_blend_by_how_deep_a_point_lies() -> None:
    """Cells -1 to 0 and 0 to 1, grown by a tenth of their edge on each side."""
    made = plan(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]]), CUBE, 2, open=False)
    assert made.tiles[0].high[0] == 0.0
    points = torch.tensor([[-0.1, 0, 0], [-0.05, 0, 0], [0.0, 0, 0], [0.05, 0, 0], [0.5, 0, 0]])
    found = Regions(made, 0.2).weights(points)
    # At -0.05: 0.15 deep in the lower one, 0.05 in the upper.
    expected = torch.tensor([[1.0, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]])
    torch.testing.assert_close(found, expected)


def test_a_box_grows_about_its_centre_and_stays_infinite() -> None:
    core = Box((0.0, -1.0, 2.0), (4.0, 1.0, 3.0))
    assert grown(core, core, 0.5) == Box((-1.0, -1.5, 1.75), (5.0, 1.5, 3.25))
    assert grown(core, core, 0.0) == core
    reaching = Box((-math.inf, -1.0, 2.0), (4.0, math.inf, 3.0))
    assert grown(reaching, core, 0.5) == Box((-math.inf, -1.5, 1.75), (5.0, math.inf, 3.25))
    made = plan(torch.zeros(0, 3), CUBE, 2, open=True)
    regions = Regions(made, 1.0)
    assert math.isinf(regions.box(0).size[0])
    assert regions.core(0) == grown(made.cores[0], made.cores[0], 1.0)


@laws
@given(counts, roots, st.booleans(), seeds)
def test_a_box_holds_what_the_plan_says(K: int, root: Box, is_open: bool, seed: int) -> None:
    made = plan(cloud(seed), root, K, is_open)
    points = places(made, seed)
    if not is_open:  # the upper faces of the root are nobody's
        points = points[within(root, points)]
    found = torch.stack([holds(tile, points) for tile in made.tiles], 1)
    assert torch.equal(found.long(), torch.nn.functional.one_hot(made.tile_of(points), K))


@laws
@given(roots, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_rays_meet_a_box_as_they_cross_a_plan_of_it(
    root: Box, seed: int, dtype: torch.dtype
) -> None:
    """Rays from its faces, in them and along axes, too."""
    alone = plan(torch.zeros(0, 3), root, 1, open=False)
    rays = nasty_rays(alone, seed, dtype)
    ends = alone.intervals(rays, 0.0, math.inf)[0]
    assert torch.equal(meets(root, rays), ends[:, 0] < ends[:, 1])


@laws
@given(st.integers(2, 12), roots, seeds)
def test_rays_meet_tiles_that_reach_to_infinity(K: int, root: Box, seed: int) -> None:
    """As they cross the open plan; a ray that runs in a shared face belongs to one side there."""
    made = plan(cloud(seed), root, K, open=True)
    rays = nasty_rays(made, seed, torch.float64)
    ends = made.intervals(rays, 0.0, math.inf)
    crossed = ends[..., 0] < ends[..., 1]
    met = torch.stack([meets(tile, rays) for tile in made.tiles])
    assert not (crossed & ~met).any()
    planes = [(node.axis, node.plane) for node in made.nodes]
    runs_in_one = torch.zeros(len(rays.origins), dtype=torch.bool)
    for axis, plane in planes:
        runs_in_one |= (rays.directions[:, axis] == 0) & (rays.origins[:, axis] == plane)
    assert torch.equal(crossed[:, ~runs_in_one], met[:, ~runs_in_one])


def test_a_ray_behind_a_box_does_not_meet_it() -> None:
    box = Box((1.0, -math.inf, -1.0), (2.0, math.inf, 1.0))
    origins = torch.tensor([[0.0, 9, 0], [0.0, 9, 0], [3.0, 0, 0], [1.5, 0, 0], [1.5, 0, 2]])
    towards = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [0.0, 1, 0], [0.0, 1, 0]])
    assert meets(box, Rays(origins, towards)).tolist() == [True, False, False, True, False]
    everything = Box((-math.inf,) * 3, (math.inf,) * 3)
    assert meets(everything, Rays(origins, towards)).all()
