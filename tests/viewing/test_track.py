"""A path in the making: edits keep its times in order, and what is saved is what render reads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.cameras import look_at
from nerfxl.errors import UserError
from nerfxl.filming.paths import CameraPath
from nerfxl.viewing import track


def path_of(count: int) -> CameraPath:
    path = track.EMPTY
    for k in range(count):
        path = track.added(path, look_at((k, 0, 0), (k, 1, 0)), 40.0 + k)
    return path


def cameras(path: CameraPath) -> list[int]:
    """Which keyframes of `path_of` these are."""
    return [round(one.pose[0, 3]) for one in path.keyframes]


def times(path: CameraPath) -> list[float]:
    return [round(one.time, 6) for one in path.keyframes]


def test_keyframes_come_two_seconds_apart() -> None:
    assert times(path_of(3)) == [0, 2, 4]
    assert [one.fov for one in path_of(3).keyframes] == [40, 41, 42]


def test_cameras_move_and_times_stay() -> None:
    path = track.delayed(path_of(3), 2, 5)
    assert times(path) == [0, 2, 7]
    earlier = track.moved(path, 2, -1)
    assert cameras(earlier) == [0, 2, 1]
    assert times(earlier) == [0, 2, 7]
    assert track.moved(path, 0, -1) is path
    assert track.moved(path, 2, 1) is path


def test_what_follows_a_removed_keyframe_comes_earlier() -> None:
    path = track.delayed(path_of(4), 1, 3)  # 0, 3, 5, 7
    assert times(track.removed(path, 1)) == [0, 2, 4]
    assert times(track.removed(path, 0)) == [0, 2, 4]
    assert times(track.removed(path, 3)) == [0, 3, 5]
    assert track.removed(path_of(1), 0).keyframes == ()


def test_a_path_is_made_longer_as_a_whole() -> None:
    path = track.delayed(path_of(3), 1, 1)  # 0, 1, 3
    assert times(track.lasting(path, 6)) == [0, 2, 6]
    # A loop takes half as long again here to come back: 3 / 2 s. All of it is to take 9 s.
    looped = CameraPath(path.keyframes, loop=True)
    assert track.lasting(looped, 9).seconds == pytest.approx(9)
    assert times(track.lasting(path_of(1), 9)) == [0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["added", "moved", "removed", "delayed", "lasting", "placed"]),
            st.integers(0, 9),
            st.floats(0, 100),
        ),
        max_size=12,
    )
)
def test_times_rise_whatever_is_edited(edits: list[tuple[str, int, float]]) -> None:
    path = path_of(2)
    for what, number, seconds in edits:
        if what == "added" or not path.keyframes:
            path = track.added(path, look_at((number, 0, 0), (number, 1, 0)), 50)
            continue
        at = number % len(path.keyframes)
        if what == "moved":
            path = track.moved(path, at, 1)
        elif what == "removed":
            path = track.removed(path, at)
        elif what == "delayed":
            path = track.delayed(path, at, seconds)
        elif what == "lasting":
            path = track.lasting(path, seconds)
        else:
            path = track.placed(path, at, look_at((1, 1, 1), (0, 0, 0)), 9)
    found = [one.time for one in path.keyframes]
    assert not found or found[0] == 0
    assert all(early < late for early, late in pairwise(found))
    if path.keyframes:
        CameraPath.from_json(path.to_json(), "the path")


def test_what_is_saved_is_what_render_reads(tmp_path: Path) -> None:
    path = path_of(3)
    file = track.save(path, tmp_path / "paths", "a walk", "")
    assert file == tmp_path / "paths" / "a walk.json"
    found = CameraPath.load(file)
    assert times(found) == times(path)
    np.testing.assert_array_equal(found.keyframes[1].pose, path.keyframes[1].pose)
    assert track.saved(tmp_path / "paths") == ["a walk"]


@pytest.mark.parametrize("name", ["", "../walk", "a/b", ".hidden", "x" * 200, "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a path"):
        track.save(path_of(1), tmp_path / "paths", name, "")
    assert not list(tmp_path.iterdir())


def test_a_path_does_not_replace_another_by_accident(tmp_path: Path) -> None:
    track.save(path_of(1), tmp_path, "walk", "")
    with pytest.raises(UserError, match="is there already"):
        track.save(path_of(2), tmp_path, "walk", "")
    track.save(path_of(2), tmp_path, "walk", "walk")
    assert len(CameraPath.load(tmp_path / "walk.json").keyframes) == 2


def test_an_empty_path_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no keyframe yet"):
        track.save(track.EMPTY, tmp_path, "walk", "")
