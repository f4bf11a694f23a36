"""Pose errors: laws of alignment, and numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerfxl.cameras import look_at
from nerfxl.study import poses
from nerfxl.study.poses import align, angle, apart, error
from nerfxl.views import corrected, rotation

Array = NDArray[np.float64]


def cameras(count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    return np.stack(
        [look_at(random.normal(size=3) * 3, random.normal(size=3)) for _ in range(count)]
    )


@given(st.floats(0, 3.14), st.integers(0, 2**31))
def test_a_rotation_turns_by_its_length(size: float, seed: int) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    axis /= np.linalg.norm(axis)
    (turn,) = rotation(size * axis[None])
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.allclose(turn @ axis, axis, atol=1e-12)
    assert angle(turn[None])[0] == pytest.approx(size, abs=1e-9)


def test_a_quarter_turn_about_z() -> None:
    (turn,) = rotation(np.array([[0.0, 0.0, np.pi / 2]]))
    assert np.allclose(turn @ [1, 0, 0], [0, 1, 0])


def test_tiny_turns_are_not_lost() -> None:
    assert angle(rotation(np.array([[1e-9, 0, 0]])))[0] == pytest.approx(1e-9, rel=1e-6)


def test_corrections_are_in_world_axes_and_scene_units() -> None:
    given_pose = cameras(1, 0)
    moved = corrected(given_pose, np.array([[0, 0, np.pi / 2, 0.5, 0, 0]]))
    assert np.allclose(moved[0, :, 3], given_pose[0, :, 3] + [0.5, 0, 0])
    # A quarter turn about the world's z: what pointed along x points along y.
    assert np.allclose(moved[0, 1, :3], given_pose[0, 0, :3])


def test_errors_are_means_in_degrees_and_shares_of_the_box() -> None:
    true = cameras(2, 1)
    turns = np.radians([[0.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    moves = np.array([[0.2, 0, 0], [0, 0, 0.6]])
    found = error(corrected(true, np.concatenate([turns, moves], 1)), true, edge=2.0)
    assert found.rotation == pytest.approx(3.0)  # (2 + 4) / 2
    assert found.translation == pytest.approx(0.2)  # (0.2 + 0.6) / 2, of 2


@given(st.integers(1, 6), st.integers(0, 2**31), st.floats(0.2, 5), st.booleans())
def test_a_similarity_of_all_cameras_is_no_error(
    count: int, seed: int, scale: float, on_a_line: bool
) -> None:
    """For cameras on one line, too, whose centres alone do not tell how the line is turned."""
    random = np.random.default_rng(seed)
    true = cameras(count, seed)
    if on_a_line:
        true[:, 1:, 3] = 0
    (turn,) = rotation(random.normal(size=(1, 3)))
    centres = scale * true[:, :, 3] @ turn.T + random.normal(size=3)
    moved = np.concatenate([turn @ true[:, :, :3], centres[..., None]], -1)
    found = error(align(moved, true), true, edge=1.0)
    assert found.rotation < 1e-5
    assert found.translation < 1e-9


@given(st.integers(3, 8), st.integers(0, 2**31))
def test_alignment_leaves_a_true_pose_where_it_is(count: int, seed: int) -> None:
    true = cameras(count, seed)
    assert np.allclose(align(true, true), true, atol=1e-9)


def test_tiles_that_agree_are_not_apart_and_others_are() -> None:
    zero = np.zeros((3, 6))
    one = np.array([[0.0, 0, np.radians(1), 0.1, 0, 0]] * 3)
    two = np.array([[0.0, 0, np.radians(3), 0.1, 0.4, 0]] * 3)
    assert apart(np.stack([one, one, zero]), 2.0) == pytest.approx(
        {"apart_rotation": 0.0, "apart_translation": 0.0}, abs=1e-9
    )
    # The third camera is corrected by one tile alone: it does not count.
    two[2] = 0
    found = apart(np.stack([one, zero, two]), 2.0)
    assert found == pytest.approx({"apart_rotation": 2.0, "apart_translation": 0.2})
    assert apart(np.stack([one, zero]), 2.0) == {}


def test_a_run_is_measured_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Joint: turned by 2 degrees about z, of which 1.5 are corrected."""
    true = cameras(4, 3)
    wrong = np.zeros((4, 6))
    wrong[::2, 2], wrong[1::2, 2] = np.radians(2), np.radians(-2)
    wrong[:, 3] = 0.2
    # Rows 1 .. 4 of 6 views: the others are held out, and their poses true.
    views = poses.Views(corrected(true, wrong), true, np.arange(1, 5), edge=2.0)
    monkeypatch.setattr(poses, "_views", lambda _: views)
    learned = np.zeros((6, 6))
    learned[1:5] = -0.75 * wrong
    monkeypatch.setattr(poses, "_corrections", lambda _: [learned])
    found = poses.measured(None)  # type: ignore[arg-type]
    assert found["before_rotation"] == pytest.approx(2.0)
    assert found["after_rotation"] == pytest.approx(0.5)
    assert found["before_translation"] == pytest.approx(0.1)
    assert found["after_translation"] == pytest.approx(0.025)
    assert found["before_translation_aligned"] < 0.1  # a common shift is no error after alignment
    assert not any(name.startswith("apart") for name in found)
    # Two tiles: the second has seen the first two cameras only, and made nothing better.
    lazy = np.zeros((6, 6))
    lazy[1:3] = 1e-12
    monkeypatch.setattr(poses, "_corrections", lambda _: [learned, lazy])
    found = poses.measured(None)  # type: ignore[arg-type]
    assert found["after_rotation"] == pytest.approx((4 * 0.5 + 2 * 2.0) / 6)
    assert found["apart_rotation"] == pytest.approx(1.5)
    # Without corrections only what was there before is said.
    monkeypatch.setattr(poses, "_corrections", lambda _: [])
    assert set(poses.measured(None)) == {  # type: ignore[arg-type]
        *("before_rotation", "before_translation"),
        *("before_rotation_aligned", "before_translation_aligned"),
    }
