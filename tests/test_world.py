"""The world: laws of the similarity, and bounds that a person would choose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerfxl.cameras import Camera, look_at
from nerfxl.captures import read_capture
from nerfxl.errors import UserError
from nerfxl.filming.paths import orbit
from nerfxl.rays import Box
from nerfxl.world import Bounds, WorldTransform, estimate_bounds, orientation

DATA = Path(__file__).parents[2] / "shared" / "data"

Array = NDArray[np.float64]
EMPTY: Array = np.empty((0, 3))


def rotation_of(quaternion: tuple[float, ...]) -> Array:
    """Rotation matrix of any four numbers that are not all 0."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    v = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + 2 * w * v + 2 * v @ v)


part = st.floats(-1, 1)
rotations = (
    st.tuples(part, part, part, part)
    .filter(lambda q: float(np.linalg.norm(q)) > 0.1)
    .map(rotation_of)
)
shifts = st.tuples(*[st.floats(-1e4, 1e4)] * 3).map(np.array)
worlds = st.builds(WorldTransform, st.floats(1e-3, 1e3), rotations, shifts)


def same(one: WorldTransform, other: WorldTransform, atol: float) -> None:
    np.testing.assert_allclose(one.scale, other.scale, rtol=1e-12)
    np.testing.assert_allclose(one.rotation, other.rotation, atol=1e-12)
    np.testing.assert_allclose(one.translation, other.translation, rtol=1e-9, atol=atol)


@given(world=worlds, point=shifts)
def test_the_inverse_undoes(world: WorldTransform, point: Array) -> None:
    # rounding: about 1e-16 of the largest number on the way, 1e7, divided by the scale
    back = world.inverse().points(world.points(point[None]))[0]
    np.testing.assert_allclose(back, point, atol=1e-8 / min(1.0, world.scale))
    identity = WorldTransform(1.0, np.eye(3), np.zeros(3))
    same(world.inverse().compose(world), identity, atol=1e-8 / min(1.0, world.scale))
    same(world.compose(identity), world, atol=0)


@given(first=worlds, second=worlds, point=shifts)
def test_composition_is_one_after_the_other(
    first: WorldTransform, second: WorldTransform, point: Array
) -> None:
    both = second.compose(first).points(point[None])
    np.testing.assert_allclose(both, second.points(first.points(point[None])), rtol=1e-9, atol=1e-2)


@given(world=worlds, place=shifts, turn=rotations)
def test_a_pose_moves_like_the_points_it_sees(
    world: WorldTransform, place: Array, turn: Array
) -> None:
    pose = np.column_stack([turn, place])
    moved = world.poses(pose[None])[0]
    np.testing.assert_allclose(moved[:, :3].T @ moved[:, :3], np.eye(3), atol=1e-12)
    ahead = place + 7 * turn[:, 2]  # 7 source units before the camera, 7 scale scene units after
    expected = moved[:, 3] + 7 * world.scale * moved[:, 2]
    np.testing.assert_allclose(world.points(ahead[None])[0], expected, atol=1e-7 * world.scale)


@given(world=worlds)
def test_json_is_exact(world: WorldTransform) -> None:
    again = WorldTransform.from_json(world.to_json(), "scene_transform.json")
    assert again.scale == world.scale
    assert np.array_equal(again.rotation, world.rotation)
    assert np.array_equal(again.translation, world.translation)


GOOD = json.loads(WorldTransform(2.0, np.eye(3), np.zeros(3)).to_json())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", 'it has no "format": "nerfxl scene transform"'),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (json.dumps({**GOOD, "version": 2}), "it has version 2, expected 1"),
        (
            json.dumps({key: GOOD[key] for key in ("format", "version")}),
            "the key 'scale' is missing",
        ),
        (
            json.dumps({**GOOD, "scale": 0}),
            "scale or translation is not finite, or scale is not above 0",
        ),
        (
            json.dumps({**GOOD, "scale": float("nan")}),
            "scale or translation is not finite, or scale is not above 0",
        ),
        (
            json.dumps({**GOOD, "rotation": [[1]]}),
            "rotation is not 3 x 3 or translation is not 3 numbers",
        ),
        (
            json.dumps({**GOOD, "rotation": (2 * np.eye(3)).tolist()}),
            "rotation is not a rotation",
        ),
        (
            json.dumps({**GOOD, "rotation": (-np.eye(3)).tolist()}),
            "rotation is not a rotation",
        ),
    ],
)
def test_bad_json(text: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        WorldTransform.from_json(text, "a.json")
    assert str(caught.value) == (
        f"a.json is not a scene transform that this nerfxl can read: {what}."
    )


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json cannot be read as a scene transform: "):
        WorldTransform.load(path)
    path.write_text(WorldTransform(2.0, np.eye(3), np.ones(3)).to_json())
    assert WorldTransform.load(path).scale == 2.0


def test_the_box_becomes_two_long() -> None:
    # 4 x 2 x 1 about (3, 0, 0): scale 2 / 4, and (1, -1, -0.5) goes to (-1, -0.5, -0.25)
    bounds = Bounds(Box((1, -1, -0.5), (5, 1, 0.5)), "contract", "")
    world = bounds.transform(np.eye(3))
    assert world.scale == 0.5
    np.testing.assert_array_equal(world.points(np.array([[1, -1, -0.5]])), [[-1, -0.5, -0.25]])
    assert bounds.scene_box == Box((-1, -0.5, -0.25), (1, 0.5, 0.25))


def street(seed: int = 0) -> tuple[Array, Array]:
    """Walk along y for 100 m: 51 poses, facades 8 m to both sides and a few far points."""
    rng = np.random.default_rng(seed)
    poses = np.stack([look_at((0, y, 1.6), (0, y + 1, 1.6)) for y in np.linspace(0, 100, 51)])
    walls = rng.uniform((-8, 0, 0), (8, 110, 6), (2000, 3))
    walls[:, 0] = np.where(walls[:, 0] > 0, 8, -8)
    far = rng.uniform((-300, 0, 0), (300, 2000, 90), (100, 3))
    return np.concatenate([walls, far]), poses


def flight(seed: int = 0, height: float = 60.0) -> tuple[Array, Array]:
    """Fly over 200 x 100 m: 45 poses that look down, ground, one tower of 30 m."""
    rng = np.random.default_rng(seed)
    places = [(x, y, height) for x in np.linspace(0, 200, 9) for y in np.linspace(0, 100, 5)]
    poses = np.stack([look_at(place, (place[0] + 3, place[1], 0)) for place in places])
    ground = rng.uniform((0, 0, -1), (200, 100, 1), (3000, 3))
    tower = rng.uniform((50, 50, 0), (53, 53, 30), (30, 3))
    return np.concatenate([ground, tower]), poses


def sights_of(poses: Array) -> Array:
    """Of cameras that see 45 degrees to each side and 37 up and down."""
    fan = Camera("PINHOLE", 8, 6, (4.0, 4.0, 4.0, 3.0)).fan(5)
    return np.asarray(np.einsum("nij,sj->nsi", poses[:, :, :3], fan))


@settings(max_examples=25, deadline=None)
@given(turn=rotations, seed=st.integers(0, 3))
def test_pca_finds_the_ground_whatever_the_axes(turn: Array, seed: int) -> None:
    for points, poses in (street(seed), flight(seed)):
        found = orientation("pca", turn @ poses, points @ turn.T)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(found) > 0
        up = found @ turn @ (0, 0, 1)
        assert up[2] > np.cos(np.radians(4)), "the old up is still up"


@given(turn=rotations)
def test_up_levels_the_cameras(turn: Array) -> None:
    _, poses = street()
    found = orientation("up", turn @ poses, EMPTY)
    np.testing.assert_allclose(found @ turn @ (0, 0, 1), (0, 0, 1), atol=1e-7)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-7)


def test_orientation_by_hand() -> None:
    points, poses = street()
    np.testing.assert_array_equal(orientation("keep", poses, points), np.eye(3))
    upside_down = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(
        orientation("up", upside_down @ poses, points), upside_down, atol=1e-9
    )
    # without points the cameras' own plane: a ring about z
    ring = np.stack(orbit((0, 0, 0), 3, 1, 12))
    np.testing.assert_allclose(orientation("pca", ring, EMPTY)[2], (0, 0, 1), atol=1e-9)
    opposed = np.stack([poses[0], upside_down @ poses[0]])
    with pytest.raises(UserError) as caught:
        orientation("up", opposed, points)
    assert str(caught.value) == (
        "capture.orientation 'up': the cameras have no common up, the mean of theirs is only 0.00 "
        "long; use 'pca' or 'keep'."
    )
    with pytest.raises(ValueError, match="'north' is not one of keep, pca, up"):
        orientation("north", poses, points)


def holds(box: Box, points: Array) -> float:
    """Share of the points that lie in the box."""
    return float(((points >= box.low) & (points <= box.high)).all(axis=1).mean())


def test_a_street_is_contracted_outside() -> None:
    points, poses = street()
    bounds = estimate_bounds(points, poses, sights=sights_of(poses))
    assert bounds.outside == "contract"
    assert holds(bounds.box, poses[:, :, 3]) == 1
    assert holds(bounds.box, points[:2000]) > 0.95
    x, y, z = bounds.box.size
    assert (x < 40, y < 160, z < 20) == (True, True, True), "the far points do not count"
    assert bounds.reason.startswith("contract outside: the box holds the 51 cameras and the ")
    assert bounds.reason.endswith(" of one.")


def test_a_flight_is_empty_outside() -> None:
    points, poses = flight()
    bounds = estimate_bounds(points, poses, sights=sights_of(poses))
    assert bounds.outside == "empty"
    assert holds(bounds.box, points) == 1, "the tower too"
    assert holds(bounds.box, poses[:, :, 3]) == 0
    # pictures reach 60 m to the sides of a flight of 200 m, the outermost 1 % are given up
    assert -60 < bounds.box.low[0] < -35
    assert 235 < bounds.box.high[0] < 265
    assert bounds.reason.startswith("empty outside: 45 cameras look down, by 87 degrees, from 5")
    assert bounds.reason.endswith(" of their sight lines meet the ground inside the box.")
    without = estimate_bounds(points, poses)
    assert without.outside == "empty"
    assert without.box.low[0] == pytest.approx(2 - 0.1 * 196, abs=2)


def test_a_flight_that_sees_the_horizon_is_contracted_outside() -> None:
    points, poses = flight()
    tilted = np.stack([look_at(p[:, 3], p[:, 3] + (30, 0, -20)) for p in poses])
    assert estimate_bounds(points, tilted, sights=sights_of(tilted)).outside == "contract"


@settings(max_examples=10, deadline=None)
@given(turn=rotations)
def test_bounds_are_those_of_the_turned_world(turn: Array) -> None:
    for points, poses in (street(), flight()):
        sights = sights_of(poses)
        plain = estimate_bounds(points, poses, sights=sights)
        turned = estimate_bounds(
            points @ turn.T, turn @ poses, sights=sights @ turn.T, rotation=turn.T
        )
        assert turned.outside == plain.outside
        np.testing.assert_allclose(turned.box.low, plain.box.low, atol=1e-6)
        np.testing.assert_allclose(turned.box.high, plain.box.high, atol=1e-6)


def test_without_points_the_box_lies_before_the_cameras() -> None:
    _, poses = street()
    bounds = estimate_bounds(EMPTY, poses)
    assert bounds.outside == "contract"
    assert holds(bounds.box, poses[:, :, 3]) == 1
    assert bounds.box.high[1] > 125  # the last camera looks on along the street
    ring = np.stack(orbit((5, 5, 0), 4, 1, 12))
    about = estimate_bounds(EMPTY, ring)
    np.testing.assert_allclose(about.box.centre[:2], (5, 5), atol=0.5)
    assert about.reason == (
        "contract outside: the box holds the 12 cameras and places up to 6.185 before them, there "
        "being no points."
    )


def test_an_isolated_object_gets_the_box_that_all_see() -> None:
    # distance sqrt(16 + 1) = 4.123; tan of the smaller half angle 0.75, its sine 0.6
    ring = np.stack(orbit((5, 5, 0), 4, 1, 12))
    bounds = estimate_bounds(EMPTY, ring, sights=sights_of(ring), isolated=True, margin=0)
    assert bounds.outside == "empty"
    np.testing.assert_allclose(bounds.box.centre, (5, 5, 0), atol=1e-9)
    np.testing.assert_allclose(bounds.box.size, [2 * 0.6 * 17**0.5] * 3)
    assert bounds.reason == (
        "empty outside: 12 cameras look at one object from 4.123 away, and the box is what all of "
        "them see, 4.948 wide."
    )


def test_the_scene_file_decides() -> None:
    points, poses = flight()
    bounds = estimate_bounds(points, poses, box=((0, 0, -5), (100, 50, 40)), outside="contract")
    assert bounds.box == Box((0, 0, -5), (100, 50, 40))
    assert bounds.outside == "contract"
    assert bounds.reason.startswith(
        "contract outside, by bounds.outside; of itself: the box is bounds.box; of the outside: "
        "empty outside: 45 cameras look down"
    )
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x -> y
    turned = estimate_bounds(points, poses, rotation=quarter, box=((0, 0, -5), (100, 50, 40)))
    np.testing.assert_allclose(turned.box.low, (-50, 0, -5))
    np.testing.assert_allclose(turned.box.high, (0, 100, 40))
    with pytest.raises(UserError) as caught:
        estimate_bounds(points, poses, box=((0, 0, 5), (100, 50, 5)))
    assert str(caught.value) == (
        "bounds.box ((0, 0, 5), (100, 50, 5)) is no box: each low must be below its high."
    )


def test_no_extent() -> None:
    pose = np.eye(4)[None, :3]
    with pytest.raises(UserError) as caught:
        estimate_bounds(EMPTY, np.concatenate([pose, pose]))
    assert str(caught.value) == (
        "the cameras stand at one point and there are no points, so that no box can be found; "
        "give bounds.box."
    )


def test_no_edge_is_too_short() -> None:
    level = np.stack([look_at((x, 0, 0), (x + 1, 0, 0)) for x in range(10)])
    sizes = estimate_bounds(EMPTY, level).box.size
    assert min(sizes) == pytest.approx(0.05 * max(sizes))


@pytest.mark.parametrize(
    ("name", "outside", "largest", "smallest"),
    [
        # the points of the README: 108 x 90 m, 1070 x 665 m and a street of 190 m
        ("odm_brighton", "empty", (125, 125, 25), (95, 85, 5)),
        ("odm_ochota", "empty", (1500, 1000, 200), (1070, 665, 100)),
        ("opensfm_lund", "contract", (90, 250, 25), (40, 190, 8)),
    ],
)
def test_the_shared_captures(
    name: str, outside: str, largest: tuple[float, ...], smallest: tuple[float, ...]
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip("the shared captures are not here")
    capture = read_capture(DATA / name)
    bounds = estimate_bounds(capture.points, capture.poses(), sights=capture.sights())
    assert bounds.outside == outside
    assert all(
        low <= edge <= high
        for low, edge, high in zip(smallest, bounds.box.size, largest, strict=True)
    ), bounds
    level = orientation("pca", capture.poses(), capture.points)[2, 2]
    assert level > np.cos(np.radians(5)), "their worlds are z up already"
