"""Cameras: every ray projects back to its pixel, at every size."""

from __future__ import annotations

from math import cos, sin

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerfxl.cameras import MODELS, Camera, look_at

DISTORTION: dict[str, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (0.05,),
    "SIMPLE_RADIAL_FISHEYE": (0.02,),
    "RADIAL": (0.05, -0.02),
    "RADIAL_FISHEYE": (0.02, -0.004),
    "OPENCV": (0.05, -0.02, 0.001, 0.002),
    "OPENCV_FISHEYE": (0.03, -0.004, 0.001, -0.0002),
    "FULL_OPENCV": (0.05, -0.02, 0.001, 0.001, 0.002, 0.01, 0.001, 0.001),
    "FOV": (0.5,),
    "THIN_PRISM_FISHEYE": (0.02, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        *(0.01, -0.002, 0.001, 0, 0, 0),
        *(0.001, 0.002),
        *(0.001, 0.001, 0.001, 0.001),
    ),
    "SIMPLE_DIVISION": (0.05,),
    "DIVISION": (0.05,),
    "EUCM": (0.6, 1.1),
}


def example(model: str) -> Camera:
    """Make a camera of 32 x 24 pixels whose axis is off the centre."""
    if model == "EQUIRECTANGULAR":
        return Camera(model, 32, 16, (32.0, 16.0))
    extra = DISTORTION.get(model, ())
    focal = (25.0,) if MODELS[model] - len(extra) == 3 else (25.0, 24.0)
    return Camera(model, 32, 24, (*focal, 15.0, 12.5, *extra))


def projected(camera: Camera, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels of rays by pycolmap: [N, 3] -> [N, 2]."""
    oracle = pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params)
    )
    return np.asarray(oracle.img_from_cam(rays, False))


def centres(camera: Camera) -> NDArray[np.float64]:
    """Pixel centres, row by row: [H * W, 2]."""
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    return np.stack([x.ravel(), y.ravel()], axis=1)


def test_the_table_of_models_is_pycolmaps() -> None:
    known = pycolmap.CameraModelId.__members__
    names = sorted((name for name in known if name != "INVALID"), key=lambda n: int(known[n]))
    cameras = [pycolmap.Camera.create_from_model_name(1, name, 10.0, 8, 6) for name in names]
    assert list(MODELS.items()) == [
        (name, len(camera.params)) for name, camera in zip(names, cameras, strict=True)
    ]


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_ray_projects_back_to_its_pixel(model: str) -> None:
    camera = example(model)
    rays = camera.directions()
    assert rays.dtype == np.float32
    assert rays.shape == (camera.height, camera.width, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    back = projected(camera, rays.reshape(-1, 3).astype(np.float64))
    np.testing.assert_allclose(back, centres(camera), atol=1e-4)  # float32 rays


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_scaled_camera_sees_the_same_rays_at_scaled_pixels(model: str) -> None:
    camera = example(model)
    pixels = centres(camera)
    for smaller, factor in (
        (camera.scaled(16, 7), (16 / camera.width, 7 / camera.height)),
        (camera.scaled(64, 2 * camera.height), (2.0, 2.0)),
        (camera.reduced(3), (1 / 3, 1 / 3)),
    ):
        np.testing.assert_allclose(
            smaller.directions_at(pixels * factor), camera.directions_at(pixels), atol=1e-6
        )


def test_a_pinhole_by_hand() -> None:
    # f = 2, centre (1, 1): the first pixel centre (0.5, 0.5) is (-0.25, -0.25, 1) / 1.0607
    rays = Camera("SIMPLE_PINHOLE", 2, 2, (2.0, 1.0, 1.0)).directions()
    expected = np.array([-0.25, -0.25, 1]) / np.sqrt(1.125)
    np.testing.assert_allclose(rays[0, 0], expected, atol=1e-7)
    np.testing.assert_allclose(rays[1, 0], expected * (1, -1, 1), atol=1e-7)


def test_one_focal_length_stays_one_where_both_axes_scale_alike() -> None:
    camera = Camera("SIMPLE_RADIAL", 10, 8, (9.0, 5.0, 4.0, 0.1))
    assert camera.scaled(5, 4) == Camera("SIMPLE_RADIAL", 5, 4, (4.5, 2.5, 2.0, 0.1))
    assert camera.scaled(5, 8) == Camera("OPENCV", 5, 8, (4.5, 9.0, 2.5, 4.0, 0.1, 0.0, 0.0, 0.0))
    # floor(10 / 4) = 2 is a fifth of the width, yet the focal length is exactly 9 / 4
    assert camera.reduced(4) == Camera("SIMPLE_RADIAL", 2, 2, (2.25, 1.25, 1.0, 0.1))


@given(angle=st.floats(0.0, 2.8), turn=st.floats(0.0, 6.28))
def test_a_fisheye_sees_behind_itself(angle: float, turn: float) -> None:
    # radius = f angle (1 + 0.01 angle^2): grows for every angle, also beyond 90 degrees
    camera = Camera("OPENCV_FISHEYE", 400, 400, (60.0, 60.0, 200.0, 200.0, 0.01, 0, 0, 0))
    radius = 60 * angle * (1 + 0.01 * angle**2)
    pixel = np.array([[200 + radius * cos(turn), 200 + radius * sin(turn)]])
    ray = (sin(angle) * cos(turn), sin(angle) * sin(turn), cos(angle))
    np.testing.assert_allclose(camera.directions_at(pixel)[0], ray, atol=1e-9)


def test_pixels_without_a_ray_are_nan() -> None:
    # angle (1 - 0.1 angle^2) grows up to angle = sqrt(1 / 0.3) = 1.826, where it is 1.217
    fisheye = Camera("SIMPLE_RADIAL_FISHEYE", 400, 400, (100.0, 200.0, 200.0, -0.1))
    inside, outside = fisheye.directions_at(np.array([[320.0, 200.0], [323.0, 200.0]]))
    assert np.isfinite(inside).all()
    assert np.isnan(outside).all()
    # r (1 - 0.4 r^2) has its top 0.609 at r = 0.913
    radial = Camera("SIMPLE_RADIAL", 400, 400, (100.0, 200.0, 200.0, -0.4))
    rays = radial.directions()
    assert np.isfinite(rays[200, 255]).all()
    assert np.isnan(rays[200, 270]).all()
    # pycolmap inverts prism fisheyes to 90 degrees only and returns another ray beyond
    prism = Camera("THIN_PRISM_FISHEYE", 400, 400, (100.0, 100.0, 200.0, 200.0, *(0.0,) * 8))
    assert np.isnan(prism.directions_at(np.array([[390.0, 200.0]]))).all()


def test_a_fan_reaches_the_corners() -> None:
    camera = Camera("PINHOLE", 4, 2, (2.0, 2.0, 2.0, 1.0))
    fan = camera.fan(3)
    plane = fan[:, :2] / fan[:, 2:]
    np.testing.assert_allclose(plane[0], (-1, -0.5))
    np.testing.assert_allclose(plane[4], (0, 0))
    np.testing.assert_allclose(plane[8], (1, 0.5))


point = st.tuples(*[st.floats(-100, 100)] * 3)


@settings(max_examples=50)
@given(eye=point, target=point)
def test_look_at_is_a_rotation_that_sees_its_target(
    eye: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    away = np.asarray(target, dtype=np.float64) - np.asarray(eye)
    if np.linalg.norm(away) < 1e-3:
        return
    pose = look_at(eye, target)
    np.testing.assert_allclose(pose[:, :3].T @ pose[:, :3], np.eye(3), atol=1e-9)
    assert np.linalg.det(pose[:, :3]) > 0
    seen = pose[:, :3].T @ away
    np.testing.assert_allclose(seen, [0.0, 0.0, float(np.linalg.norm(away))], atol=1e-6)
    assert pose[2, 1] <= 1e-9  # the image's lower edge never points up


def test_look_at_by_hand() -> None:
    # looking north (+y): right is east, down is -z
    expected = [[1, 0, 0, 5], [0, 0, 1, 0], [0, -1, 0, 0]]
    np.testing.assert_allclose(look_at((5, 0, 0), (5, 9, 0)), expected, atol=1e-12)
    # looking straight down: the upper edge is north
    down = look_at((0, 0, 3), (0, 0, 0))
    np.testing.assert_allclose(down, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3]], atol=1e-12)
    with pytest.raises(ValueError, match="cannot look at the point where it stands"):
        look_at((1, 2, 3), (1, 2, 3))
