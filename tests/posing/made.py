"""Photographs to pose: nine of the rendered stand-in's frames, whose true poses are known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

STAND_IN = Path(__file__).parents[2] / "scenes" / "university4"
FRAMES = [f"frame_{number:04}.jpg" for number in range(60, 69)]  # 8 m of the walk
ORIGIN = (55.7, 13.19, 36.0)  # where the fountain is put: latitude, longitude, altitude
SEED = 5
EARTH = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)


def truth(names: list[str]) -> Array:
    """Camera-to-world [N, 3, 4] of frames, metres, z up, x east."""
    model = pycolmap.Reconstruction(STAND_IN / "sparse" / "0")
    images = {image.name: image for image in model.images.values()}
    return np.array([images[name].cam_from_world().inverse().matrix() for name in names])


def write_frames(folder: Path, names: list[str] = FRAMES) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(STAND_IN / "images" / name, folder / name)
    return folder


def write_gps(path: Path, rows: dict[str, Array]) -> None:
    """Write a gps.csv of places, metres east, north and up of the fountain."""
    degrees = EARTH.enu_to_ellipsoid(np.array(list(rows.values())), *ORIGIN)
    lines = ["image,lat_deg,lon_deg,alt_m"]
    lines += [
        f"{name},{lat:.9f},{lon:.9f},{alt:.4f}"
        for name, (lat, lon, alt) in zip(rows, degrees.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")


def on_its_side(path: Path) -> None:
    """Store a photograph as a phone does that was held upright, with the EXIF tag that says so."""
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    turned.save(path, quality=97, subsampling=0, exif=exif)


def poses_of(sparse: Path) -> dict[str, Array]:
    """Camera-to-world [3, 4] of a model's photographs."""
    model = pycolmap.Reconstruction(sparse)
    images = (model.image(number) for number in model.reg_image_ids())
    return {image.name: image.cam_from_world().inverse().matrix() for image in images}


def degrees_apart(one: Array, other: Array) -> float:
    """Angle between two rotations [3, 3]."""
    cosine = (np.trace(one.T @ other) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def turned(axis: tuple[float, float, float], angle: float) -> Array:
    """Rotation by an angle about an axis."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def dataset() -> pycolmap.Reconstruction:
    """Cameras all around 100 points, focal length 1280 pixels."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig = 1, 8
    pycolmap.set_random_seed(SEED)
    model = pycolmap.synthesize_dataset(options)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = 0.5
    pycolmap.synthesize_noise(noise, model)
    return model
