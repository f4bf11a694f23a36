"""Camera paths: they pass where they should, turn without shearing, and survive their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerfxl.cameras import look_at
from nerfxl.errors import UserError
from nerfxl.filming.paths import (
    CameraPath,
    Keyframe,
    flythrough,
    interpolated,
    orbit,
    orthonormal,
    spiral,
    through,
)

Array = NDArray[np.float64]


def cameras(count: int, seed: int) -> Array:
    """Cameras that look at places around the origin, from some way off."""
    random = np.random.default_rng(seed)
    eyes = random.normal((6, 0, 0), size=(count, 3))
    return np.stack([look_at(eye, random.normal(size=3)) for eye in eyes])


def is_rigid(pose: Array) -> None:
    np.testing.assert_allclose(pose[:, :3].T @ pose[:, :3], np.eye(3), atol=1e-9)
    assert np.linalg.det(pose[:, :3]) > 0


def keyframes(count: int, seed: int) -> tuple[Keyframe, ...]:
    times = np.cumsum(np.random.default_rng(seed).uniform(0.1, 2, count))
    poses = cameras(count, seed)
    return tuple(
        Keyframe(float(t), pose, 40.0 + 5 * i)
        for i, (t, pose) in enumerate(zip(times, poses, strict=True))
    )


def test_an_orbit_looks_at_its_centre_from_one_distance() -> None:
    poses = orbit((1, 2, 3), radius=3, height=4, count=4)
    assert len(poses) == 4
    np.testing.assert_allclose(poses[0][:, 3], (4, 2, 7))
    np.testing.assert_allclose(poses[1][:, 3], (1, 5, 7))
    for pose in poses:  # 3-4-5 triangle
        np.testing.assert_allclose(pose[:, 3] + 5 * pose[:, 2], (1, 2, 3), atol=1e-12)


@given(st.integers(2, 9), st.integers(0, 99), st.integers(1, 7))
def test_a_way_through_poses_passes_them(count: int, seed: int, between: int) -> None:
    """Its ends always; and with as many steps from each to the next, all of them in turn."""
    poses = cameras(count, seed)
    found = interpolated(poses, count * between + 1)
    for pose in found:
        is_rigid(pose)
    np.testing.assert_allclose(found[0], poses[0], atol=1e-9)
    np.testing.assert_allclose(found[-1], poses[-1], atol=1e-9)
    times = np.arange(count, dtype=np.float64)
    ends = np.linspace(0, count - 1, (count - 1) * between + 1)
    curve = through(times, poses.reshape(count, 12), ends)
    np.testing.assert_allclose(curve[::between], poses.reshape(count, 12), atol=1e-9)


def test_a_loop_closes_without_a_corner() -> None:
    poses = cameras(5, 3)
    ring = interpolated(poses, 4000, loop=True)
    places = np.stack([pose[:, 3] for pose in ring])
    steps = np.diff(np.concatenate([places, places[:2]]), axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    assert lengths[-2] < 3 * np.median(lengths), "the last picture is a step away from the first"
    bends = (steps[1:] * steps[:-1]).sum(1) / (lengths[1:] * lengths[:-1])
    assert bends[-2:].min() > 0.99, "the way goes on in its direction"


@given(st.integers(1, 6), st.integers(0, 99))
def test_cameras_that_stand_still_give_a_film_that_does(count: int, seed: int) -> None:
    pose = cameras(1, seed)
    still = np.repeat(pose, count, axis=0)
    for found in (*interpolated(still, 5), *flythrough(still, 5)):
        np.testing.assert_allclose(found, pose[0], atol=1e-9)


def test_a_flight_is_smoother_than_the_walk_and_stays_near() -> None:
    random = np.random.default_rng(0)
    eyes = np.stack([np.arange(30.0), random.normal(size=30) * 0.3, np.zeros(30)], axis=1)
    walk = np.stack([look_at(eye, eye + np.array([0, 5, 0])) for eye in eyes])
    flight = np.stack(flythrough(walk, 120))[:, :, 3]
    assert np.abs(flight[:, 1]).std() < 0.6 * np.abs(eyes[:, 1]).std()
    assert np.abs(flight[:, 1]).max() < 1
    steps = np.linalg.norm(np.diff(flight, axis=0), axis=1)
    assert steps[10:-10].max() < 2 * steps[10:-10].min(), "at an even pace"


def test_a_spiral_keeps_its_target_in_the_middle() -> None:
    random = np.random.default_rng(1)
    eyes = random.normal(size=(20, 3)) * (1, 0.2, 0.5)
    poses = np.stack([look_at(eye, eye + np.array([0, 10, 0])) for eye in eyes])
    found = spiral(poses, 16, depth=10)
    target = eyes.mean(axis=0) + np.array([0, 10, 0])
    for pose in found:
        is_rigid(pose)
        towards = target - pose[:, 3]
        assert pose[:, 2] @ towards / np.linalg.norm(towards) == pytest.approx(1)
    with pytest.raises(ValueError, match="different directions"):
        spiral(np.stack([look_at((0, 0, 0), (1, 0, 0)), look_at((0, 0, 0), (-1, 0, 0))]), 4, 1)


@given(st.integers(0, 99))
def test_the_nearest_rotation_of_a_rotation_is_itself(seed: int) -> None:
    poses = cameras(4, seed)
    np.testing.assert_allclose(orthonormal(poses), poses, atol=1e-12)
    np.testing.assert_allclose(orthonormal(poses * 3)[:, :, :3], poses[:, :, :3], atol=1e-12)


@given(st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_a_path_survives_its_file_to_the_bit(count: int, seed: int, loop: bool) -> None:
    path = CameraPath(keyframes(count, seed), fps=24.0, loop=loop, width=640, height=360)
    back = CameraPath.from_json(path.to_json(), "a.json")
    assert back.to_json() == path.to_json()
    for one, other in zip(back.keyframes, path.keyframes, strict=True):
        np.testing.assert_array_equal(one.pose, other.pose)
    frames = back.frames(7)
    assert len(frames) == 7
    np.testing.assert_allclose(frames[0].pose, path.keyframes[0].pose, atol=1e-9)
    if not loop:
        np.testing.assert_allclose(frames[-1].pose, path.keyframes[-1].pose, atol=1e-9)
        assert frames[-1].fov == pytest.approx(path.keyframes[-1].fov)


def test_a_film_is_as_long_as_its_path() -> None:
    frames = keyframes(4, 2)
    length = frames[-1].time - frames[0].time
    assert CameraPath(frames, fps=10).seconds == pytest.approx(length)
    assert len(CameraPath(frames, fps=10).frames()) == round(10 * length)
    assert CameraPath(frames, fps=10, loop=True).seconds == pytest.approx(length * 4 / 3)
    assert len(CameraPath(frames[:1], fps=10).frames()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "its format is not 'nerfxl-path'"),
        ({"version": 2}, "its version is 2, not 1"),
        ({"coordinates": "scene"}, "its coordinates are 'scene', not 'source'"),
        ({"keyframes": []}, "it has no keyframes"),
        ({"fps": 0}, "no film"),
        ({"keyframes": [{"time": 0, "pose": [[1, 2]], "fov": 40}]}, "pose of keyframe 0"),
        ({"keyframes": [{"time": 0, "pose": np.ones((3, 4)).tolist(), "fov": 40}]}, "no rotation"),
        ({"keyframes": [{"time": 0, "pose": np.eye(3, 4).tolist(), "fov": 0}]}, "has fov 0"),
        ({"keyframes": [{"time": 0, "pose": np.eye(3, 4).tolist()}]}, "key 'fov' is missing"),
        ({"keyframes": 2 * [{"time": 1, "pose": np.eye(3, 4).tolist(), "fov": 40}]}, "do not rise"),
    ],
)
def test_what_is_no_path_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    document = json.loads(CameraPath(keyframes(2, 0)).to_json()) | change
    file = tmp_path / "way.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=words) as raised:
        CameraPath.load(file)
    assert str(file) in str(raised.value)


def test_a_missing_path_is_told() -> None:
    with pytest.raises(UserError, match=r"nowhere.json cannot be read as a camera path"):
        CameraPath.load(Path("nowhere.json"))
