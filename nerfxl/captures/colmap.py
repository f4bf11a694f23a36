"""COLMAP models, binary or text, with the photographs in images/.

The files are read here rather than by pycolmap, which ends the whole process on a damaged
points3D.bin and accepts a truncated cameras.bin. Rig and frame files are not needed: images.bin
holds the pose of every registered image, with or without them.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import MODELS, Camera
from nerfxl.captures.capture import Found, Photograph, inside, present, rigid
from nerfxl.captures.images import image_size
from nerfxl.errors import UserError

FOLDERS = ("sparse/0", "sparse", ".")
_FILES = ("cameras", "images", "points3D")
_HEAD = 1000  # bytes in which COLMAP's remarks at the top of a text file end
_NAMES = tuple(MODELS)  # in the order of COLMAP's numbers

_Cameras = dict[int, Camera]
_Image = tuple[str, int, NDArray[np.float64]]  # name, camera, pose
_Points = tuple[NDArray[np.float64], NDArray[np.uint8]]


def model_folder(root: Path) -> Path | None:
    """Return the first of sparse/0, sparse and root itself that holds a COLMAP model."""
    for folder in FOLDERS:
        if any((root / folder / f"images.{end}").is_file() for end in ("bin", "txt")):
            return root / folder
    return None


def read_colmap(root: Path, downscale: int, skip_missing: bool) -> Found:
    """Read the model of sparse/0, sparse or root, whichever is found first.

    A binary model comes before a text one. Photographs are looked for in images_<downscale>/,
    which holds them made smaller, then in images/, from where they are loaded at 1 / downscale.
    Masks are looked for beside that folder, as COLMAP names them: masks/<name of the image>.png or
    masks_<downscale>/<name of the image>.png.

    Raises
    ------
    UserError: no model, a damaged file, missing photographs, a folder of another size.
    """
    folder = model_folder(root)
    if folder is None:
        looked = ", ".join(str(Path(name) / "images.bin") for name in FOLDERS)
        raise UserError(f"{root}: no COLMAP model; looked for {looked} and the same as .txt.")
    end = "bin" if (folder / "images.bin").is_file() else "txt"
    files = [folder / f"{name}.{end}" for name in _FILES]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: the file is missing; a model has {', '.join(_FILES)}.")
    read: tuple[Callable[[Path], Any], ...] = (
        (_binary_cameras, _binary_images, _binary_points)
        if end == "bin"
        else (_text_cameras, _text_images, _text_points)
    )
    cameras: _Cameras = read[0](files[0])
    images: list[_Image] = read[1](files[1])
    points, colours = read[2](files[2])
    photographs, skipped, divisor = _photographs(
        root, files[1], cameras, images, downscale, skip_missing
    )
    return Found("colmap", files[1], photographs, divisor, points, colours, skipped=skipped)


def _photographs(
    root: Path,
    source: Path,
    cameras: _Cameras,
    images: list[_Image],
    downscale: int,
    skip_missing: bool,
) -> tuple[list[Photograph], tuple[str, ...], int]:
    small = root / f"images_{downscale}"
    ready = downscale > 1 and small.is_dir()
    folder = small if ready else root / "images"
    paths = {name: inside(folder, name, str(source)) for name, _, _ in images}
    kept, skipped = present(source, paths.items(), skip_missing)
    photographs = []
    for name, number, pose in images:
        if number not in cameras:
            raise UserError(
                f"{source}: image {name!r} has camera {number}, which is not among the "
                f"{len(cameras)} of {source.with_stem('cameras').name}."
            )
        if name in kept:
            camera = cameras[number]
            if ready:
                camera = _fitted(camera, paths[name], downscale)
            mask = folder.with_name(folder.name.replace("images", "masks")) / f"{name}.png"
            photographs.append(
                Photograph(name, camera, pose, paths[name], mask if mask.is_file() else None)
            )
    return photographs, skipped, 1 if ready else downscale


def _fitted(camera: Camera, path: Path, downscale: int) -> Camera:
    """Return the camera at the size of an image that somebody made smaller."""
    width, height = image_size(path)
    if abs(width - camera.width / downscale) >= 1 or abs(height - camera.height / downscale) >= 1:
        raise UserError(
            f"{path}: the file is {width} x {height} pixels, 1/{downscale} of its camera would be "
            f"{camera.width / downscale:.6g} x {camera.height / downscale:.6g}; make the folder "
            "anew, or remove it and the images are loaded smaller from images/."
        )
    return camera.scaled(width, height)


def _pose(quaternion: tuple[float, ...], shift: tuple[float, ...], where: str) -> Any:
    """World-to-camera as COLMAP keeps it (w, x, y, z) -> camera-to-world [3, 4]."""
    norm = float(np.linalg.norm(quaternion))
    if norm == 0 or not np.isfinite(norm):
        raise UserError(f"{where}: the rotation {quaternion} is no quaternion; remove the image.")
    w, x, y, z = np.asarray(quaternion) / norm
    rotation = np.array(  # transposed: camera to world
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rigid(np.column_stack([rotation, -rotation @ np.asarray(shift)]), where)


def _camera(number: int, model: str, numbers: tuple[float, ...], path: Path) -> Camera:
    width, height, *params = numbers
    if model not in MODELS or len(params) != MODELS[model]:
        raise UserError(
            f"{path}: camera {number} is of model {model!r} with {len(params)} parameters, which "
            "is not one of COLMAP's; copy the model again."
        )
    return Camera(model, int(width), int(height), tuple(params))


class _Cursor:
    """Little-endian records of a file, one after the other."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at, self.record = path, data, 0, "its header"

    def take(self, form: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from(f"<{form}", self.data, self.at)
        except struct.error:
            raise self.ended() from None
        self.at += struct.calcsize(f"<{form}")
        return values

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise self.ended()
        self.at += size

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.ended()
        raw, self.at = self.data[self.at : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: the name {raw!r} is not UTF-8.") from None

    def records(self, kind: str) -> Iterator[int]:
        """Count through as many records as the header promises, then insist on the end."""
        (count,) = self.take("Q")
        for index in range(count):
            self.record = f"{kind} {index + 1} of {count}"
            yield index
        if self.at != len(self.data):
            raise UserError(
                f"{self.path}: {len(self.data) - self.at} bytes follow after the last {kind}; "
                "copy the file again."
            )

    def ended(self) -> UserError:
        return UserError(
            f"{self.path}: the file ends in the middle of {self.record}; copy it again."
        )


def _with_cursor(path: Path, read: Callable[[_Cursor], Any]) -> Any:
    if path.stat().st_size == 0:  # which mmap refuses
        raise UserError(f"{path}: the file is empty; copy it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return read(_Cursor(path, data))


def _binary_cameras(path: Path) -> _Cameras:
    def read(cursor: _Cursor) -> _Cameras:
        cameras = {}
        for _ in cursor.records("camera"):
            number, model, width, height = cursor.take("IiQQ")
            if not 0 <= model < len(_NAMES):
                raise UserError(
                    f"{path}: camera {number} is of model number {model}, which is not one of "
                    "COLMAP's; copy the model again."
                )
            name = _NAMES[model]
            params = cursor.take(f"{MODELS[name]}d")
            cameras[number] = _camera(number, name, (width, height, *params), path)
        return cameras

    cameras: _Cameras = _with_cursor(path, read)
    return cameras


def _binary_images(path: Path) -> list[_Image]:
    def read(cursor: _Cursor) -> list[_Image]:
        images = []
        for _ in cursor.records("image"):
            values = cursor.take("I7dI")
            name = cursor.text()
            (keypoints,) = cursor.take("Q")
            cursor.skip(24 * keypoints)  # x, y and point of each
            images.append((name, values[8], _pose(values[1:5], values[5:8], f"{path}: {name!r}")))
        return images

    images: list[_Image] = _with_cursor(path, read)
    return images


def _binary_points(path: Path) -> _Points:
    def read(cursor: _Cursor) -> list[tuple[Any, ...]]:
        rows = []
        for _ in cursor.records("point"):
            values = cursor.take("Q3d3BdQ")
            cursor.skip(8 * values[8])  # image and keypoint of each observation
            rows.append(values[1:7])
        return rows

    return _split_columns(_with_cursor(path, read))


def _split_columns(rows: list[tuple[Any, ...]]) -> _Points:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return table[:, :3].copy(), table[:, 3:].astype(np.uint8)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.startswith("#"):
                yield number, line.rstrip("\n")


def _check_whole(path: Path, kind: str, found: int) -> None:
    """Refuse a text file that was cut short, where COLMAP wrote at its top how much it holds."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(-1, os.SEEK_END)
        ended = file.read() == b"\n"
    announced = re.search(rb"^# Number of \w+: (\d+)", head, re.MULTILINE)
    if announced and found < int(announced[1]):
        raise UserError(
            f"{path}: the file announces {int(announced[1])} {kind}s at its top and holds {found}; "
            "copy it again, or correct the number."
        )
    if announced and not ended:
        raise UserError(f"{path}: the file ends in the middle of a line; copy it again.")


def _bad_line(path: Path, number: int, kind: str) -> UserError:
    return UserError(f"{path}, line {number}: this is no {kind} as COLMAP writes it.")


def _text_cameras(path: Path) -> _Cameras:
    cameras = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            key, model, *numbers = line.split()
            camera = _camera(int(key), model, tuple(map(float, numbers)), path)
        except (ValueError, OverflowError):
            raise _bad_line(path, number, "camera") from None
        cameras[int(key)] = camera
    _check_whole(path, "camera", len(cameras))
    return cameras


def _text_images(path: Path) -> list[_Image]:
    images = []
    lines = _lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            _, *pose, camera, name = line.split(maxsplit=9)
            values = tuple(map(float, pose))
            key = int(camera)
            if len(values) != 7:
                raise ValueError
        except ValueError:
            raise _bad_line(path, number, "image") from None
        images.append((name.strip(), key, _pose(values[:4], values[4:], f"{path}: {name!r}")))
        next(lines, None)  # the keypoints of the image, possibly none
    _check_whole(path, "image", len(images))
    return images


def _text_points(path: Path) -> _Points:
    rows = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = tuple(map(float, line.split()[1:7]))
            if len(values) != 6 or not all(0 <= value <= 255 for value in values[3:]):
                raise ValueError
        except ValueError:
            raise _bad_line(path, number, "point") from None
        rows.append(values)
    _check_whole(path, "point", len(rows))
    return _split_columns(rows)
