"""The capture that posing leaves: model, transforms.json and scene file, written whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.captures import read_capture
from nerfxl.posing.journal import fresh, moved
from nerfxl.runs import write_atomic
from nerfxl.world import WorldTransform, estimate_bounds

_LOADED = 1600  # pixels of the longer edge at which a fit loads photographs, at most
_FLAT = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_ROUND = ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE")
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", *_ROUND[:2])
_NAMES = {  # of a model's parameters after focal length and centre, as transforms.json has them
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
    "SIMPLE_RADIAL_FISHEYE": ("k1",),
    "RADIAL_FISHEYE": ("k1", "k2"),
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
}

SOLID = "\n    solid: 0.001        # a flight: every ray ends at something"

SCENE = """\
# Written by nerfxl pose; all keys are in nerfxl's scenes/README.md.

name: {name}

capture:
  path: .
  downscale: {downscale}          # photographs are {width} x {height}
  orientation: keep     # z is up already
  split: auto           # every 8th photograph is held out

bounds:
  box: auto
  outside: auto

partition:
  tiles: 4

train:
  losses:
    depth: 0.1          # light ends where the points are that posing found{solid}

profiles:
  # For a laptop: small networks and tables, many quick steps of few rays.
  cpu:
    field:
      levels: 6
      features: 4
      log2_table: 16
      max_resolution: 2048
      density_hidden: 32
      colour_hidden: 32
    sampling:
      samples: 24
      render_samples: 48
      proposal:
        samples: 64
        levels: 5
        log2_table: 16
        max_resolution: 512
        warmup: 200
        every: 4
    train:
      steps: 6000
      rays: 1024
      learning_rate: 0.03
      losses:
        colour: mse

  cuda:
    train:
      steps: 20000
      rays: 8192
"""


def poses_of(model: Any) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the registered photographs, in order, and camera-to-world [N, 3, 4]."""
    images = sorted((model.image(n) for n in model.reg_image_ids()), key=lambda one: one.name)
    poses = [image.cam_from_world().inverse().matrix() for image in images]
    return [image.name for image in images], np.array(poses)


def points_of(model: Any) -> NDArray[np.float64]:
    """Places of the points, [P, 3]."""
    return np.array([model.points3D[n].xyz for n in sorted(model.points3D)]).reshape(-1, 3)


def placed(model: Any, transform: WorldTransform) -> None:
    """Move a model into the world, in place."""
    from nerfxl.colmap import pycolmap

    turned = np.column_stack([transform.scale * transform.rotation, transform.translation])
    model.transform(pycolmap.Sim3d(turned))


def write_model(model: Any, out: Path, threads: int) -> None:
    """Write sparse/0, whole or not at all; colours are read from the photographs."""
    model.extract_colors_for_all_images(out / "images", threads)
    part = fresh(out / "work" / "sparse.part")
    (part / "0").mkdir()
    model.write_binary(part / "0")
    moved(part, out / "sparse")


def write_transforms(model: Any, out: Path, told: dict[str, Any]) -> bool:
    """Write transforms.json; False, and nothing, where its camera model has no place in it."""
    frames = []
    for image in sorted((model.image(n) for n in model.reg_image_ids()), key=lambda im: im.name):
        camera = model.cameras[image.camera_id]
        if camera.model_name not in _NAMES and camera.model_name not in _FLAT[:2]:
            return False
        pose = np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
        values = {
            "file_path": f"images/{image.name}",
            **_intrinsics(camera),
            "transform_matrix": (pose * [1, -1, -1, 1]).tolist(),  # OpenGL's axes
        }
        frames.append(values)
    document = {"world": told["frame"], **{k: told[k] for k in ("origin",) if k in told}}
    write_atomic(out / "transforms.json", json.dumps({**document, "frames": frames}, indent=1))
    return True


def _intrinsics(camera: Any) -> dict[str, Any]:
    name, params = camera.model_name, [float(value) for value in camera.params]
    one = name in _ONE_FOCAL
    focal = (params[0], params[0 if one else 1])
    cx, cy, *rest = params[1 if one else 2 :]
    return {
        "camera_model": "OPENCV" if name in _FLAT else "OPENCV_FISHEYE",
        "w": camera.width,
        "h": camera.height,
        "fl_x": focal[0],
        "fl_y": focal[1],
        "cx": cx,
        "cy": cy,
        **dict(zip(_NAMES.get(name, ()), rest, strict=True)),
    }


def is_flight(out: Path) -> bool:
    """Whether all that the posed photographs see is the ground below them."""
    capture = read_capture(out)
    found = estimate_bounds(capture.points, capture.poses(), sights=capture.sights())
    return found.outside == "empty"


def write_scene(out: Path, width: int, height: int, *, flight: bool) -> Path:
    """Write the scene file of the capture, unless there is one that may be the user's by now."""
    path = out / "scene.yaml"
    if not path.exists():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).strip("._-")[:64] or "scene"
        downscale = -(-max(width, height) // _LOADED)
        solid = SOLID if flight else ""
        text = SCENE.format(name=name, downscale=downscale, width=width, height=height, solid=solid)
        write_atomic(path, text)
    return path
