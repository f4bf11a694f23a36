"""Exported cameras are read back, by nerfxl and by pycolmap, as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray
from PIL import Image

from nerfxl.cameras import MODELS, Camera, look_at
from nerfxl.captures import Capture, read_capture
from nerfxl.errors import UserError
from nerfxl.exporting.cameras import Rig, store
from nerfxl.prepare import Shot

SIZE = (64, 48)
EXACT = 1e-9

PLAIN = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"}
ROUND = {name for name in MODELS if name.endswith("FISHEYE")} - {
    "THIN_PRISM_FISHEYE",
    "RAD_TAN_THIN_PRISM_FISHEYE",
}
IN_JSON = PLAIN | ROUND


def camera_of(model: str) -> Camera:
    """With small distortions, each another."""
    one = model in ("SIMPLE_PINHOLE", "SIMPLE_FISHEYE") or (
        model.startswith("SIMPLE") or model in ("RADIAL", "RADIAL_FISHEYE")
    )
    if model == "EQUIRECTANGULAR":
        return Camera(model, *SIZE, (64.0, 48.0))
    lens = (50.25, 31.5, 24.125) if one else (50.25, 49.75, 31.5, 24.125)
    extra = tuple(0.001 * (i + 1) for i in range(MODELS[model] - len(lens)))
    if model == "FULL_OPENCV":
        extra = (*extra[:5], 0.0, 0.0, 0.0)
    return Camera(model, *SIZE, lens + extra)


def rig_of(*cameras: Camera, at: tuple[float, ...] = (0, 0, 0), points: int = 5) -> Rig:
    """Each camera twice, looking inwards, the last held out."""
    draw = np.random.default_rng(2)
    shots = []
    for index, camera in enumerate([*cameras, *cameras]):
        eye = draw.uniform(-3, 3, 3) + at
        shots.append(Shot(f"street/{index:02d}.png", camera, look_at(eye, at), False))
    shots[-1] = Shot(shots[-1].name, shots[-1].camera, shots[-1].pose, True)
    places = draw.uniform(-1, 1, (points, 3)) + at
    return Rig(tuple(shots), places, draw.integers(0, 255, (points, 3)).astype(np.uint8), None, "")


def with_pictures(rig: Rig, folder: Path) -> None:
    for shot in rig.shots:
        file = folder / "images" / shot.name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(file)


def poses_of(shots: tuple[Shot, ...]) -> NDArray[np.float64]:
    return np.stack([shot.pose for shot in shots])


def same_rays(one: Camera, other: Camera) -> None:
    a, b = one.directions_at(EDGES), other.directions_at(EDGES)
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert np.nanmax(np.abs(a - b)) < EXACT
    assert (one.width, one.height) == (other.width, other.height)


EDGES = np.array([[0.5, 0.5], [32.0, 24.0], [63.5, 47.5], [10.0, 40.0]])


def check(capture: Capture, rig: Rig, prefix: str = "") -> None:
    """The capture has the rig's cameras, poses and points."""
    assert [view.name for view in capture.views] == [f"{prefix}{shot.name}" for shot in rig.shots]
    assert np.abs(capture.poses() - poses_of(rig.shots)).max() < EXACT * max(
        1, np.abs(poses_of(rig.shots)).max()
    )
    for view, shot in zip(capture.views, rig.shots, strict=True):
        same_rays(view.camera, shot.camera)
    assert np.abs(capture.points - rig.points).max() < EXACT
    assert np.array_equal(capture.point_colours, rig.colours)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_colmap_holds_every_camera(model: str, tmp_path: Path) -> None:
    rig = rig_of(camera_of(model))
    store(rig, tmp_path, "colmap")
    assert not (tmp_path / "transforms.json").exists()
    with_pictures(rig, tmp_path)
    if model != "EQUIRECTANGULAR":  # has no focal length, by which captures are checked
        capture = read_capture(tmp_path, format="colmap")
        check(capture, rig)
        assert {view.camera for view in capture.views} == {shot.camera for shot in rig.shots}
    found: Any = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    assert found.num_points3D() == len(rig.points)
    for image in found.images.values():
        shot = next(shot for shot in rig.shots if shot.name == image.name)
        pose = image.cam_from_world().inverse().matrix()
        assert np.abs(pose - shot.pose).max() < EXACT
        own = found.cameras[image.camera_id]
        assert (own.model.name, tuple(own.params)) == (model, shot.camera.params)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_transforms_holds_those_it_has_words_for(model: str, tmp_path: Path) -> None:
    rig = rig_of(camera_of(model))
    if model not in IN_JSON:
        with pytest.raises(UserError, match=f"of the model {model}: .* --format colmap"):
            store(rig, tmp_path / "new", "both")
        assert not (tmp_path / "new").exists()
        return
    store(rig, tmp_path, "transforms")
    assert not (tmp_path / "sparse").exists()
    with_pictures(rig, tmp_path)
    capture = read_capture(tmp_path)
    check(capture, rig, "images/")
    assert [view.test for view in capture.views] == [shot.test for shot in rig.shots]


def test_a_denominator_has_no_word_in_transforms(tmp_path: Path) -> None:
    full = camera_of("FULL_OPENCV")
    bent = Camera(full.model, *SIZE, (*full.params[:10], 0.5, 0.0))
    with pytest.raises(UserError, match=r"street/00.png: .* FULL_OPENCV with k5 = 0.5: write the"):
        store(rig_of(bent), tmp_path, "transforms")


def test_cameras_of_several_kinds_stand_in_one_file(tmp_path: Path) -> None:
    rig = rig_of(camera_of("PINHOLE"), camera_of("OPENCV_FISHEYE"), camera_of("RADIAL"))
    store(rig, tmp_path, "both")
    with_pictures(rig, tmp_path)
    check(read_capture(tmp_path, format="transforms"), rig, "images/")
    check(read_capture(tmp_path, format="colmap"), rig)


def test_poses_far_from_the_origin_are_kept(tmp_path: Path) -> None:
    rig = rig_of(camera_of("PINHOLE"), at=(512_000.0, 5_403_000.0, 210.0))
    store(rig, tmp_path, "both")
    with_pictures(rig, tmp_path)
    exact = read_capture(tmp_path, format="transforms")
    assert np.abs(exact.poses()[:, :, 3] - poses_of(rig.shots)[:, :, 3]).max() == 0
    # COLMAP keeps -R c, and c comes back by another product of numbers of 5 million: 2^-30 each
    turned = read_capture(tmp_path, format="colmap")
    assert np.abs(turned.poses()[:, :, 3] - poses_of(rig.shots)[:, :, 3]).max() < 1e-8


def test_the_matrix_is_opengls(tmp_path: Path) -> None:
    """A camera that looks along +y and holds its upper edge to +z, at the origin."""
    level = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
    shot = Shot("a.png", camera_of("PINHOLE"), level, False)
    empty = (np.empty((0, 3)), np.empty((0, 3), np.uint8))
    store(Rig((shot, shot), *empty, None, ""), tmp_path, "transforms")
    document = json.loads((tmp_path / "transforms.json").read_text())
    matrix = np.array(document["frames"][0]["transform_matrix"])
    assert matrix[:3, 1].tolist() == [0, 0, 1]  # up
    assert matrix[:3, 2].tolist() == [0, -1, 0]  # backwards
    assert matrix[3].tolist() == [0, 0, 0, 1]
    assert "ply_file_path" not in document
    assert not (tmp_path / "points.ply").exists()
