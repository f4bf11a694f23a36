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
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

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
_Keypoints = tuple[NDArray[np.float64], NDArray[np.int64]]  # pixels [k, 2], points' numbers [k]


class _Image(NamedTuple):
    """An image of the model. keypoints: reads them when they are asked for, as few runs do."""

    name: str
    camera: int
    pose: NDArray[np.float64]
    keypoints: Callable[[], _Keypoints] | None


@dataclass(frozen=True, eq=False)
class _Points:
    """Numbers [P] of the points, their places [P, 3] and colours [P, 3]."""

    numbers: NDArray[np.int64]
    places: NDArray[np.float64]
    colours: NDArray[np.uint8]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows by ascending number."""
        return self.numbers.argsort()

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the points with these numbers [S]; -1 where there is none."""
        place = np.searchsorted(self.numbers, numbers, sorter=self.order)
        there = place < len(self.order)
        found = self.order[place[there]]
        rows = np.full(len(numbers), -1)
        rows[there] = np.where(self.numbers[found] == numbers[there], found, -1)
        return rows


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
    points: _Points = read[2](files[2])
    photographs, skipped, divisor = _photographs(
        root, files[1], cameras, images, points, downscale, skip_missing
    )
    cloud = (points.places, points.colours)
    return Found("colmap", files[1], photographs, divisor, *cloud, skipped=skipped)


def _photographs(
    root: Path,
    source: Path,
    cameras: _Cameras,
    images: list[_Image],
    points: _Points,
    downscale: int,
    skip_missing: bool,
) -> tuple[list[Photograph], tuple[str, ...], int]:
    small = root / f"images_{downscale}"
    ready = downscale > 1 and small.is_dir()
    folder = small if ready else root / "images"
    paths = {image.name: inside(folder, image.name, str(source)) for image in images}
    kept, skipped = present(source, paths.items(), skip_missing)
    photographs = []
    for image in images:
        name, number = image.name, image.camera
        if number not in cameras:
            raise UserError(
                f"{source}: image {name!r} has camera {number}, which is not among the "
                f"{len(cameras)} of {source.with_stem('cameras').name}."
            )
        if name in kept:
            whole = cameras[number]
            camera = _fitted(whole, paths[name], downscale) if ready else whole
            mask = folder.with_name(folder.name.replace("images", "masks")) / f"{name}.png"
            smaller = (camera.width / whole.width, camera.height / whole.height)
            photographs.append(
                Photograph(
                    name,
                    camera,
                    image.pose,
                    paths[name],
                    mask if mask.is_file() else None,
                    seen=partial(_sightings, image, smaller, points, source)
                    if image.keypoints
                    else None,
                )
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


def _sightings(
    image: _Image,
    smaller: tuple[float, float],
    points: _Points,
    source: Path,
) -> NDArray[np.float64]:
    """Read the points that an image saw: pixel, at the size of its file, and place, [S, 5].

    smaller: the size of the file in sizes of the model's picture, along x and y.
    """
    assert image.keypoints is not None
    pixels, numbers = image.keypoints()
    pixels, numbers = pixels[numbers >= 0], numbers[numbers >= 0]  # the others made no point
    where = f"{source}: image {image.name!r}"
    if not np.isfinite(pixels).all():
        raise UserError(f"{where} has a keypoint that is not finite; copy the model again.")
    rows = points.rows(numbers)
    if (rows < 0).any():
        raise UserError(
            f"{where} sees point {numbers[rows < 0][0]}, which is not among the "
            f"{len(points.numbers)} of {source.with_stem('points3D').name}; write the model again, "
            "or set train.losses.depth to 0."
        )
    return np.hstack([pixels * smaller, points.places[rows]])


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
            (count,) = cursor.take("Q")
            keypoints = partial(_binary_keypoints, path, cursor.at, count) if count else None
            cursor.skip(24 * count)
            pose = _pose(values[1:5], values[5:8], f"{path}: {name!r}")
            images.append(_Image(name, values[8], pose, keypoints))
        return images

    images: list[_Image] = _with_cursor(path, read)
    return images


def _binary_keypoints(path: Path, at: int, count: int) -> _Keypoints:
    kinds = [("pixel", "<f8", 2), ("point", "<i8")]  # none is the largest number, here -1
    rows = np.fromfile(path, np.dtype(kinds), count, offset=at)
    return rows["pixel"], rows["point"]


def _binary_points(path: Path) -> _Points:
    def read(cursor: _Cursor) -> list[tuple[Any, ...]]:
        rows = []
        for _ in cursor.records("point"):
            values = cursor.take("Q3d3BdQ")
            cursor.skip(8 * values[8])  # image and keypoint of each observation
            rows.append(values[:7])
        return rows

    return _split_columns(_with_cursor(path, read))


def _split_columns(rows: list[tuple[Any, ...]]) -> _Points:
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    with np.errstate(invalid="ignore"):  # numbers that are none are the numbers of no point
        numbers = table[:, 0].astype(np.int64)
    return _Points(numbers, table[:, 1:4].copy(), table[:, 4:].astype(np.uint8))


def _lines(path: Path) -> Iterator[tuple[int, str, int]]:
    """Number and text of each line that is no remark, and the byte at which it starts."""
    with path.open("rb") as file:
        start = 0
        for number, raw in enumerate(file, start=1):
            if not raw.startswith(b"#"):
                yield number, raw.decode(errors="replace").rstrip("\r\n"), start
            start += len(raw)


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
    for number, line, _ in _lines(path):
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
    for number, line, _ in lines:
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
        at, listed, start = next(lines, (0, "", 0))
        keypoints = partial(_text_keypoints, path, at, start) if listed.strip() else None
        turned = _pose(values[:4], values[4:], f"{path}: {name!r}")
        images.append(_Image(name.strip(), key, turned, keypoints))
    _check_whole(path, "image", len(images))
    return images


def _text_keypoints(path: Path, number: int, start: int) -> _Keypoints:
    with path.open("rb") as file:
        file.seek(start)
        fields = file.readline().split()
    try:
        rows = np.array(fields, dtype=np.float64).reshape(-1, 3)
        if not (np.abs(rows) < 2**53).all():
            raise ValueError
    except ValueError:
        raise _bad_line(path, number, "list of keypoints") from None
    return rows[:, :2], rows[:, 2].astype(np.int64)


def _text_points(path: Path) -> _Points:
    rows = []
    for number, line, _ in _lines(path):
        if not line.strip():
            continue
        try:
            values = tuple(map(float, line.split()[:7]))
            if len(values) != 7 or not all(0 <= value <= 255 for value in values[4:]):
                raise ValueError
        except ValueError:
            raise _bad_line(path, number, "point") from None
        rows.append(values)
    _check_whole(path, "point", len(rows))
    return _split_columns(rows)
