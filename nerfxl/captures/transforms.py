"""transforms.json, as nerfstudio and instant-ngp write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite, tan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import Camera
from nerfxl.captures.capture import Found, Photograph, inside, present, rigid
from nerfxl.captures.images import image_size
from nerfxl.captures.ply import read_ply
from nerfxl.errors import UserError

FILE = "transforms.json"
_RADIAL = ("k1", "k2", "k3", "k4")
_TANGENTIAL = ("p1", "p2")
_FLAT = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
# held-out lists, the first that is there counts; a list without its images is no mistake
_LISTS = (("train_filenames", False), ("val_filenames", True), ("test_filenames", True))


def read_transforms(root: Path, downscale: int, skip_missing: bool) -> Found:
    """Read transforms.json: cameras, poses, masks, points and the file's own split.

    A value that a frame lacks is taken from the top of the file. Camera axes are OpenGL's
    (x right, y up, z back) and become OpenCV's by turning columns 1 and 2 round.

    `applied_transform` A (and `applied_scale` s) is what the writer did to its own source:
    x_file = s A x_source, for cameras and for the points of `ply_file_path` alike. It is undone,
    so that everything is in the coordinates of the source, like the COLMAP model beside it.

    With train_filenames and test_filenames (or, where that is absent or empty, val_filenames) the
    file has its own split, and frames in neither are not used.

    Raises
    ------
    UserError: a key that is missing or wrong, a path that leads out, missing photographs.
    """
    path = root / FILE
    document = load(path)
    undo = _Undo(document, path)
    photographs, skipped = read_frames(root, path, document, skip_missing)
    photographs = [_moved(photograph, undo) for photograph in photographs]
    photographs, own = _own_split(photographs, document, path, skipped)
    points, colours = np.empty((0, 3)), np.empty((0, 3), dtype=np.uint8)
    if "ply_file_path" in document:
        name = _text(document, "ply_file_path", str(path))
        points, colours = read_ply(inside(root, name, f"{path}: ply_file_path"))
    return Found(
        "transforms",
        path,
        photographs,
        downscale,
        undo.points(points),
        colours,
        own_split=own,
        skipped=skipped,
    )


def load(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top is a mapping."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the file is missing.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: this is not JSON: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; numbers or brackets without end
        raise UserError(f"{path}: this is not JSON: {error}.") from error
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error.strerror}.") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: the top of the file must be a mapping with the key 'frames'.")
    return document


def read_frames(
    root: Path, path: Path, document: Mapping[str, Any], skip_missing: bool
) -> tuple[list[Photograph], tuple[str, ...]]:
    """Read the key 'frames': photographs as the file has them, and the names left out."""
    frames = document.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{path}: the key 'frames' must be a list with a mapping for each image.")
    files = [_image(root, path, index, frame) for index, frame in enumerate(frames)]
    kept, skipped = present(path, files, skip_missing)
    photographs = []
    for frame, (name, image) in zip(frames, files, strict=True):
        if name not in kept:
            continue
        where = f"{path}: frame {name!r}"
        values = {**document, **frame}
        mask = None
        if "mask_path" in frame:
            mask = inside(root, _text(frame, "mask_path", where), where)
            if not mask.is_file():
                raise UserError(f"{where}: the mask {mask} is missing; put it there.")
        photographs.append(
            Photograph(name, _camera(values, image, where), _pose(frame, where), image, mask)
        )
    return photographs, skipped


def _image(root: Path, path: Path, index: int, frame: Mapping[str, Any]) -> tuple[str, Path]:
    """Name and file of a frame; '.png' is understood where the file has it and the name not."""
    where = f"{path}: frame {index}"
    name = _text(frame, "file_path", where)
    name = name.removeprefix("./")
    file = inside(root, name, where)
    if not file.is_file() and (root / f"{name}.png").is_file():
        return f"{name}.png", root / f"{name}.png"
    return name, file


def _pose(frame: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    matrix = _matrix(frame, "transform_matrix", where)
    return rigid(matrix * np.array([1, -1, -1, 1]), where)


def _matrix(values: Mapping[str, Any], key: str, where: str) -> NDArray[np.float64]:
    rows = values.get(key)
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise UserError(f"{where}: {key} must be 4 rows (or 3) of 4 numbers.")
    if len(matrix) == 4 and not np.allclose(matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise UserError(f"{where}: the last row of {key} must be 0, 0, 0, 1.")
    return matrix[:3]


def _camera(values: Mapping[str, Any], image: Path, where: str) -> Camera:
    distortion = values.get("distortion_params")
    if isinstance(distortion, list):
        values = {**values, **dict(zip((*_RADIAL, *_TANGENTIAL), distortion, strict=False))}
    model = values.get("camera_model", "OPENCV")
    if values.get("is_fisheye"):
        model = "OPENCV_FISHEYE"
    if model not in (*_FLAT, *_FISHEYE):
        raise UserError(
            f"{where}: camera_model {model!r} is not read; known are "
            f"{', '.join((*_FLAT, *_FISHEYE))}."
        )
    width, height = _size(values, image, where)
    fx = _focal(values, "x", width, where)
    fy = _focal(values, "y", height, where) or fx
    if not fx:
        raise UserError(f"{where}: there is neither fl_x nor camera_angle_x; give one of them.")
    centre = (
        _number(values, "cx", where, width / 2),
        _number(values, "cy", where, height / 2),
    )
    k1, k2, k3, k4 = (_number(values, key, where, 0.0) for key in _RADIAL)
    p1, p2 = (_number(values, key, where, 0.0) for key in _TANGENTIAL)
    lens = (fx, fy, *centre)
    if model in _FISHEYE:
        if p1 or p2:
            raise UserError(f"{where}: {model} has no p1 and p2; remove them or set them to 0.")
        return Camera("OPENCV_FISHEYE", width, height, (*lens, k1, k2, k3, k4))
    if k4:
        # the sixth-order term of some programs, the first of a denominator in others
        raise UserError(f"{where}: k4 = {k4:g} has no agreed meaning for {model}; undistort first.")
    if k3:
        return Camera("FULL_OPENCV", width, height, (*lens, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    if k1 or k2 or p1 or p2:
        return Camera("OPENCV", width, height, (*lens, k1, k2, p1, p2))
    return Camera("PINHOLE", width, height, lens)


def _size(values: Mapping[str, Any], image: Path, where: str) -> tuple[int, int]:
    if "w" not in values or "h" not in values:
        return image_size(image)
    width, height = _number(values, "w", where, 0.0), _number(values, "h", where, 0.0)
    if not (width.is_integer() and height.is_integer() and min(width, height) >= 1):
        raise UserError(f"{where}: w and h are {width:g} and {height:g}; they must count pixels.")
    return int(width), int(height)


def _focal(values: Mapping[str, Any], axis: str, side: int, where: str) -> float:
    """Focal length in pixels from fl_<axis> or camera_angle_<axis>; 0 where neither is there."""
    if values.get(f"fl_{axis}") is not None:
        return _number(values, f"fl_{axis}", where, 0.0)
    angle = _number(values, f"camera_angle_{axis}", where, 0.0)
    if not 0 <= angle < np.pi:
        raise UserError(
            f"{where}: camera_angle_{axis} is {angle:g}; it must be an angle in radians below pi."
        )
    return side / 2 / tan(angle / 2) if angle else 0.0


def _number(values: Mapping[str, Any], key: str, where: str, default: float) -> float:
    value = values.get(key)
    if value is None:
        return default
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except OverflowError:
        value = "a number of very many digits"
    raise UserError(f"{where}: {key} is {value!r}; it must be a finite number.")


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} is {value!r}; it must be the name of a file.")
    return value


class _Undo:
    """The inverse of what the writer applied: x_source = A^-1 (x_file / s)."""

    def __init__(self, document: Mapping[str, Any], path: Path):
        where = f"{path}: applied_transform"
        self.scale = _number(document, "applied_scale", str(path), 1.0)
        if self.scale <= 0:
            raise UserError(f"{path}: applied_scale is {self.scale:g}; it must be above 0.")
        applied = np.eye(4)[:3]
        if document.get("applied_transform") is not None:
            applied = rigid(_matrix(document, "applied_transform", where), where)
        self.rotation, self.shift = applied[:, :3].T, applied[:, 3]

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):  # what is not finite is refused by name, later
            return np.asarray((points / self.scale - self.shift) @ self.rotation.T)

    def pose(self, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([self.rotation @ pose[:, :3], self.points(pose[:, 3])])


def _moved(photograph: Photograph, undo: _Undo) -> Photograph:
    return Photograph(
        photograph.name,
        photograph.camera,
        undo.pose(photograph.pose),
        photograph.image,
        photograph.mask,
    )


def _own_split(
    photographs: list[Photograph],
    document: Mapping[str, Any],
    path: Path,
    skipped: tuple[str, ...],
) -> tuple[list[Photograph], bool]:
    """Mark the photographs by the file's own lists, where it has them."""
    lists = {key: document.get(key) or [] for key, _ in _LISTS}
    held = "test_filenames" if lists["test_filenames"] else "val_filenames"
    if not lists["train_filenames"] and not lists[held]:
        return photographs, False
    known = {photograph.name: photograph for photograph in photographs}
    marks: dict[str, bool] = {}
    for key, test in (("train_filenames", False), (held, True)):
        if not isinstance(lists[key], list):
            raise UserError(f"{path}: {key} must be a list of file names.")
        for name in lists[key]:
            plain = str(name).removeprefix("./")
            plain = plain if plain in known else f"{plain}.png"
            if plain in known:
                marks[plain] = test
            elif plain.removesuffix(".png") not in skipped and plain not in skipped:
                raise UserError(f"{path}: {key} has {name!r}, which is the file_path of no frame.")
    return [
        Photograph(p.name, p.camera, p.pose, p.image, p.mask, marks.get(p.name))
        for p in photographs
    ], True
