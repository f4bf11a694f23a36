"""The laws of a plan: it covers, balances, orders and joins, for any K."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.partition import Node, Plan, elongation, octants, plan
from nerfxl.rays import Box, Rays

CUBE = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
SLAB = Box((-1.0, -0.7, -0.125), (1.0, 0.7, 0.125))

laws = settings(max_examples=60, deadline=None)
counts = st.integers(1, 64)
seeds = st.integers(0, 10_000)
roots = st.sampled_from([CUBE, SLAB])


def cloud(seed: int, size: int = 500) -> Tensor:
    """Points in clumps, a few of them outside the box: [P, 3] float32."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(5, 3, generator=generator) * 1.6 - 0.8
    which = torch.randint(5, (size,), generator=generator)
    return centres[which] + 0.15 * torch.randn(size, 3, generator=generator)


def inside(root: Box, seed: int, size: int = 500) -> Tensor:
    """Uniform points in the box: [P, 3] float32."""
    low, high = torch.tensor(root.low), torch.tensor(root.high)
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(size, 3, generator=generator)


def nasty_rays(made: Plan, seed: int, dtype: torch.dtype, size: int = 300) -> Rays:
    """Rays from planes, edges and corners, along axes and in planes, with denormal slopes."""
    generator = torch.Generator().manual_seed(seed)
    origins = (torch.rand(size, 3, generator=generator, dtype=dtype) * 4 - 2).to(dtype)
    directions = torch.randn(size, 3, generator=generator, dtype=dtype)
    directions /= directions.norm(dim=1, keepdim=True)
    for axis in range(3):
        planes = [n.plane for n in made.nodes if n.axis == axis]
        special = torch.tensor([*planes, made.root.low[axis], made.root.high[axis]], dtype=dtype)
        pick = special[torch.randint(len(special), (size,), generator=generator)]
        on_plane = torch.rand(size, generator=generator) < 0.4
        origins[:, axis] = torch.where(on_plane, pick, origins[:, axis])
        tiny = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e-45, -1e-45], dtype=dtype)
        pick = tiny[torch.randint(len(tiny), (size,), generator=generator)]
        flat = torch.rand(size, generator=generator) < 0.35
        directions[:, axis] = torch.where(flat, pick, directions[:, axis])
    return Rays(origins, directions)


def holds(box: Box, points: Tensor, slack: float = 0.0) -> Tensor:
    """Whether the half-open box [low, high) holds each point, or nearly so: [N]."""
    low, high = points.new_tensor(box.low), points.new_tensor(box.high)
    if slack:
        return ((points >= low - slack) & (points <= high + slack)).all(dim=1)
    return ((points >= low) & (points < high)).all(dim=1)


@laws
@given(counts, seeds, roots, st.booleans())
def test_every_point_lies_in_exactly_one_tile(K: int, seed: int, root: Box, is_open: bool) -> None:
    made = plan(cloud(seed), root, K, is_open)
    points = cloud(seed + 1) * 3 if is_open else inside(root, seed)
    held = torch.stack([holds(tile, points) for tile in made.tiles])  # [K, N]
    assert len(made) == len(made.tiles) == len(made.cores) == K
    assert (held.sum(dim=0) == 1).all()
    assert torch.equal(held.int().argmax(dim=0), made.tile_of(points))


@laws
@given(counts, seeds, roots, st.booleans())
def test_cores_fill_the_root_box(K: int, seed: int, root: Box, is_open: bool) -> None:
    made = plan(cloud(seed), root, K, is_open)
    volume = sum(math.prod(core.size) for core in made.cores)
    assert volume == pytest.approx(math.prod(root.size), rel=1e-9)


def test_the_planes_themselves_belong_to_the_upper_side() -> None:
    made = Plan(CUBE, False, (Node(0, 0.25, ~0, ~1),))
    points = torch.tensor([[0.25, 0, 0], [math.nextafter(0.25, 0), 0, 0]], dtype=torch.float64)
    assert made.tile_of(points).tolist() == [1, 0]


@laws
@given(counts, seeds, roots, st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_intervals_share_out_the_ray(
    K: int, seed: int, root: Box, is_open: bool, dtype: torch.dtype
) -> None:
    """Finite, joined bit for bit in `order`, together the whole ray, each inside its tile."""
    made = plan(cloud(seed), root, K, is_open)
    rays = nasty_rays(made, seed, dtype)
    near, far = 0.05, 5.0
    found = made.intervals(rays, near, far)
    assert found.shape == (K, len(rays), 2)
    assert found.dtype == dtype
    assert found.isfinite().all()
    whole = Plan(root, is_open, ()).intervals(rays, near, far)[0]  # [N, 2]
    sequence = made.order[octants(rays.directions)]  # [N, K]
    along = found[sequence, torch.arange(len(rays))[:, None]]  # [N, K, 2]
    reached = whole[:, 0]
    for entry, leave in (ends.unbind(1) for ends in along.unbind(1)):
        met = entry < leave
        assert ((entry == 0) & (leave == 0) | met).all()
        assert (entry[met] == reached[met]).all()
        reached = torch.where(met, leave, reached)
    assert torch.equal(reached, whole[:, 1])
    lengths = (found[..., 1] - found[..., 0]).sum(dim=0)
    torch.testing.assert_close(lengths, whole[:, 1] - whole[:, 0], rtol=1e-5, atol=1e-5)
    slack = 16 * torch.finfo(dtype).eps * far
    for tile, ends in zip(made.tiles, found, strict=True):
        met = ends[:, 0] < ends[:, 1]
        assert holds(tile, rays[met].at(ends[met].mean(dim=1)), slack).all()


@laws
@given(counts, seeds, st.booleans())
def test_a_tile_is_met_where_its_points_are_seen(K: int, seed: int, is_open: bool) -> None:
    """A ray aimed at a point of a tile has that point's distance in the tile's interval."""
    made = plan(cloud(seed), CUBE, K, is_open)
    target = inside(CUBE, seed).double()
    origins = torch.full_like(target, 3.0)
    distance = (target - origins).norm(dim=1)
    rays = Rays(origins, (target - origins) / distance[:, None])
    ends = made.intervals(rays, 0.0, 100.0)[made.tile_of(target), torch.arange(len(target))]
    assert (ends[:, 0] <= distance + 1e-9).all()
    assert (distance <= ends[:, 1] + 1e-9).all()


@laws
@given(counts, seeds, st.integers(3000, 5000))
def test_tiles_hold_equal_shares_of_the_points(K: int, seed: int, size: int) -> None:
    """Each cut rounds by half a point and hands on at most 2/3 of that: 0.5 / (1 - 2/3)."""
    points = inside(CUBE, seed, size)  # so even and many that no cut is clamped
    made = plan(points, CUBE, K, False)
    held = made.tile_of(points).bincount(minlength=K)
    assert ((held - size / K).abs() <= 1.5).all()


def test_three_tiles_are_cut_at_the_quantiles() -> None:
    # x = 1 .. 9 in a box of [0, 30] x 1 x 1: 1 + 2 tiles, so 3 points below the first plane,
    # 3.5, which is over the minimum of 30 / 10; the rest, 4 .. 9, is cut at its median 6.5, but
    # a tenth of [3.5, 30] is 2.65, so the plane lies at 6.5 > 6.15.
    points = torch.stack([torch.arange(1.0, 10.0), torch.full((9,), 0.5), torch.full((9,), 0.5)], 1)
    made = plan(points, Box((0.0, 0.0, 0.0), (30.0, 1.0, 1.0)), 3, False)
    assert made.nodes == (Node(0, 3.5, ~0, 1), Node(0, 6.5, ~1, ~2))
    assert made.tiles[1] == Box((3.5, 0.0, 0.0), (6.5, 1.0, 1.0))


def test_open_tiles_reach_to_infinity_and_cores_do_not() -> None:
    made = Plan(CUBE, True, (Node(1, 0.25, ~0, ~1),))
    inf = math.inf
    assert made.tiles == (Box((-inf,) * 3, (inf, 0.25, inf)), Box((-inf, 0.25, -inf), (inf,) * 3))
    assert made.cores[0] == Box((-1.0, -1.0, -1.0), (1.0, 0.25, 1.0))


def test_the_cut_is_across_the_long_edge() -> None:
    assert plan(torch.empty(0, 3), Box((0.0,) * 3, (1.0, 2.0, 1.0)), 2, False).nodes[0].axis == 1
    assert plan(torch.empty(0, 3), Box((0.0,) * 3, (1.0, 2.0, 4.0)), 2, False).nodes[0].axis == 2


def test_of_two_long_edges_the_one_with_the_better_halves_is_cut() -> None:
    # All points near x = -0.9 would leave a sliver there; along y they spread evenly.
    points = inside(SLAB, 0)
    points[:, 0] = -0.9
    root = Box((-1.0, -1.0, -0.05), (1.0, 1.0, 0.05))
    assert plan(points, root, 2, False).nodes[0].axis == 1


def test_elongation_of_a_cube_is_one() -> None:
    # 1 x 1 x 8: the volume of a cube of edge 2, surface 34 against 24.
    assert elongation(Box((0.0,) * 3, (2.0,) * 3)) == pytest.approx(1)
    assert elongation(Box((0.0,) * 3, (1.0, 1.0, 8.0))) == pytest.approx(34 / 24)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(torch.empty(0, 3), id="none"),
        pytest.param(torch.zeros(1, 3), id="one"),
        pytest.param(torch.full((50, 3), 0.999), id="all-equal"),
        pytest.param(torch.full((50, 3), 40.0), id="outside"),
        pytest.param(torch.full((50, 3), math.nan), id="nan"),
        pytest.param(torch.full((50, 3), math.inf), id="infinite"),
    ],
)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("K", [1, 2, 3, 7, 64])
def test_degenerate_points_leave_no_sliver(points: Tensor, is_open: bool, K: int) -> None:
    made = plan(points, CUBE, K, is_open)
    assert len(made) == K
    depth = math.ceil(math.log2(K))
    assert all(min(core.size) >= 2 * 0.0999**depth for core in made.cores)


def test_without_points_the_box_is_shared_out() -> None:
    # 1 of 3 tiles gets a third of the edge [0, 3]; the rest is halved.
    made = plan(torch.empty(0, 3), Box((0.0,) * 3, (3.0, 1.0, 1.0)), 3, False)
    assert [node.plane for node in made.nodes] == [1.0, 2.0]


def test_neighbouring_floats_are_told_apart() -> None:
    # No float32 lies between the two: the plane is the upper one, which keeps the lower below.
    low = torch.tensor(0.5)
    high = torch.nextafter(low, torch.tensor(1.0))
    points = torch.zeros(2, 3)
    points[:, 0] = torch.stack([low, high])
    made = plan(points, Box((-2.0, -1.0, -1.0), (2.0, 1.0, 1.0)), 2, False)
    assert made.nodes[0] == Node(0, float(high), ~0, ~1)


def test_a_ray_in_a_shared_plane_goes_to_the_upper_side() -> None:
    made = Plan(CUBE, False, (Node(0, 0.0, ~0, ~1),))
    rays = Rays(torch.tensor([[0.0, -3.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
    assert made.intervals(rays, 0.0, 10.0).tolist() == [[[0.0, 0.0]], [[2.0, 4.0]]]


def test_near_may_differ_from_ray_to_ray() -> None:
    made = Plan(CUBE, False, ())
    rays = Rays(torch.tensor([[-3.0, 0.0, 0.0]]).expand(3, 3), torch.eye(3)[:1].expand(3, 3))
    near = torch.tensor([0.0, 3.0, 5.0])  # before, inside and behind the box [2, 4]
    assert made.intervals(rays, near, 10.0)[0].tolist() == [[2.0, 4.0], [3.0, 4.0], [0.0, 0.0]]


def test_an_open_plan_takes_an_infinite_far() -> None:
    made = plan(cloud(0), CUBE, 8, True)
    found = made.intervals(nasty_rays(made, 0, torch.float32), 0.0, math.inf)
    assert not found.isnan().any()
    assert (found[..., 1].amax(dim=0) == math.inf).all()


def test_no_rays_no_trouble() -> None:
    made = plan(cloud(0), CUBE, 3, False)
    assert made.intervals(Rays(torch.empty(0, 3), torch.empty(0, 3)), 0.0, 1.0).shape == (3, 0, 2)
    assert made.tile_of(torch.empty(0, 3)).shape == (0,)


def test_octants_count_positive_components() -> None:
    directions = torch.tensor([[1.0, -1, 0], [-1, 2, 3], [1, 1, 1], [0, -0.0, -1]])
    assert octants(directions).tolist() == [1, 6, 7, 0]


def test_order_of_two_tiles() -> None:
    # Tile 0 is the lower one along y: first for the octants with bit 1 set (2, 3, 6, 7).
    made = Plan(CUBE, False, (Node(1, 0.0, ~0, ~1),))
    rows = [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert made.order.tolist() == rows + rows


@laws
@given(counts, seeds, roots, st.booleans())
def test_json_round_trip_is_exact(K: int, seed: int, root: Box, is_open: bool) -> None:
    made = plan(cloud(seed), root, K, is_open)
    text = made.to_json()
    back = Plan.from_json(text, "plan.json")
    assert back == made
    assert hash(back) == hash(made)
    assert back.tiles == made.tiles
    assert "Infinity" not in text


def test_plans_that_differ_in_one_number_differ() -> None:
    made = Plan(CUBE, True, (Node(0, 0.5, ~0, ~1),))
    assert made != Plan(CUBE, False, made.nodes)
    assert made != Plan(CUBE, True, (Node(0, 0.25, ~0, ~1),))


def edited(**changes: object) -> str:
    document = json.loads(Plan(CUBE, False, (Node(0, 0.5, ~0, ~1),)).to_json())
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[", "Expecting value: line 1 column 2 (char 1)"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("{}", 'it has no "format": "nerfxl-plan"'),
        ('{"format": "nerfxl-plan"}', "the key 'version' is missing"),
        (edited(version=2), "it has version 2, expected 1"),
        (edited(open=1), "open is not true or false"),
        (edited(root={"low": [0, 0, 0]}), "the key 'high' is missing"),
        (edited(root={"low": [0, 0], "high": [1, 1]}), "root.low is not a list of 3 numbers"),
        (edited(root={"low": [0, 0, 0], "high": [1, 1, 0]}), "the root box"),
        (edited(root={"low": [0, 0, 0], "high": [1, 1, math.inf]}), "the root box"),
        (edited(nodes=3), "not iterable"),
        (edited(nodes=[[0, 0.5, -1]]), "node 0 is not a list of 4 numbers"),
        (edited(nodes=[[0, True, -1, -2]]), "node 0 is not a list of 4 numbers"),
        (edited(nodes=[[0.0, 0.5, -1, -2]]), "node 0 is not [axis, plane, left, right]"),
        (edited(nodes=[[0, 10**400, -1, -2]]), "too large"),
        (edited(nodes=[[3, 0.5, -1, -2]]), "the axis 3 of node 0 is not 0, 1 or 2"),
        (edited(nodes=[[0, 0.1, -1, -2]]), "the plane 0.1 of node 0 is not a float32 number"),
        (edited(nodes=[[0, math.nan, -1, -2]]), "the plane nan of node 0 is not a float32 number"),
        (edited(nodes=[[0, 1.5, -1, -2]]), "the plane 1.5 of node 0 is outside its box"),
        (edited(nodes=[[0, 1e300, -1, -2]]), "of node 0 is not a float32 number"),
        (edited(nodes=[[0, 0.5, 0, -1]]), "a child of node 0 does not come after it"),
        (edited(nodes=[[0, 0.5, 1, -1]]), "its nodes do not form one tree with each tile once"),
        (edited(nodes=[[0, 0.5, -1, -1]]), "its nodes do not form one tree with each tile once"),
    ],
)
def test_a_malformed_plan_is_named(text: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        Plan.from_json(text, "runs/city/plan.json")
    message = str(caught.value)
    assert message.startswith("runs/city/plan.json is not a plan that this nerfxl can read: ")
    assert what in message
    assert message.endswith("; write a new one with `nerfxl plan`.")


def test_a_plan_is_loaded_from_a_file(tmp_path: Path) -> None:
    made = plan(cloud(0), CUBE, 5, True)
    path = tmp_path / "plan.json"
    path.write_text(made.to_json(), encoding="utf-8")
    assert Plan.load(path) == made
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"plan\.json cannot be read as a plan"):
        Plan.load(path)
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read as a plan: .*No such file"):
        Plan.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("high", [(1.0, 1.0, 0.0), (math.inf,) * 3])
def test_a_plan_needs_a_box_with_volume(high: tuple[float, float, float]) -> None:
    root = Box((0.0, 0.0, 0.0), high)
    with pytest.raises(ValueError, match="empty or not finite"):
        plan(torch.empty(0, 3), root, 2, False)


def test_a_plan_needs_a_tile() -> None:
    with pytest.raises(ValueError, match="at least one tile, not 0"):
        plan(torch.empty(0, 3), CUBE, 0, False)
