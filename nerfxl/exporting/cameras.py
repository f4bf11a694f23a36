"""The cameras as the run has them, for other programs: a COLMAP model and a transforms.json."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import Camera
from nerfxl.captures import Capture
from nerfxl.captures.capture import rigid
from nerfxl.errors import UserError
from nerfxl.exporting.geometry import Geometry
from nerfxl.exporting.ply import ply
from nerfxl.prepare import RunScene, Shot, photographs
from nerfxl.runs import RunFolder, make_folder, write_atomic

Format = Literal["both", "colmap", "transforms"]

MODEL, TRANSFORMS, POINTS, IMAGES = "sparse/0", "transforms.json", "points.ply", "images"

# What transforms.json calls the parameters of COLMAP's models; f is fl_x and fl_y.
_FLAT = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fl_x fl_y cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2 k3 k4 k5 k6",
}
_FISHEYE = {
    "SIMPLE_FISHEYE": "f cx cy",
    "FISHEYE": "fl_x fl_y cx cy",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "OPENCV_FISHEYE": "fl_x fl_y cx cy k1 k2 k3 k4",
}
_DENOMINATOR = ("k4", "k5", "k6")  # of FULL_OPENCV: transforms.json has no word for them


@dataclass(frozen=True, eq=False)
class Rig:
    """All that is written.

    shots: their names are paths below images/; cameras are those of the photographs' files, where
    these are known. points: [P, 3], colours: [P, 3], of the capture, or none. images: the folder
    that holds the photographs, if it was found. note: what the reader should know of all this.
    """

    shots: tuple[Shot, ...]
    points: NDArray[np.float64]
    colours: NDArray[np.uint8]
    images: Path | None
    note: str


def check_free(folder: Path, form: Format, overwrite: bool) -> None:
    """See that nothing is lost by writing into a folder.

    Raises
    ------
    UserError: it holds what would be written, and overwrite is not asked for.
    """
    found = {"transforms": [folder / TRANSFORMS], "colmap": [folder / MODEL / "images.bin"]}
    wanted = found["transforms"] + found["colmap"] if form == "both" else found[form]
    for file in wanted:
        if file.exists() and not overwrite:
            raise UserError(
                f"{file} is there already: replace it by --overwrite, or name another folder by "
                "--to."
            )


def gather(run: RunFolder, scene: RunScene, shots: Sequence[Shot]) -> Rig:
    """Collect what a run and its capture, if that is still there, say of its cameras.

    shots: as the run has learned them. The rotation of each is made exact.
    """
    exact = [replace(shot, pose=rigid(shot.pose, shot.name)) for shot in shots]
    try:
        capture = photographs(run, scene.spec, scene.shots)
    except UserError as error:
        note = f"without the capture ({str(error).rstrip('.')}): no points"
        if scene.spec.capture.downscale > 1:
            note += f", cameras of pictures at 1/{scene.spec.capture.downscale} of their size"
        none = (np.empty((0, 3)), np.empty((0, 3), np.uint8))
        return Rig(_renamed(exact), *none, None, note)
    views = {view.name: view for view in capture.views}
    for row, shot in enumerate(exact):
        view = views.get(shot.name)
        if view is not None and view.divisor > 1:
            exact[row] = replace(shot, camera=shot.camera.enlarged(view.divisor, *view.stored))
    shots = _renamed(exact)
    images = _folder(capture, dict(zip((shot.name for shot in exact), shots, strict=True)))
    return Rig(shots, capture.points, capture.point_colours, images, "")


def store(rig: Rig, folder: Path, form: Format) -> list[Path]:
    """Write the files, each whole or not at all, and link images/ to the photographs.

    Raises
    ------
    UserError: transforms.json cannot hold a camera; there is no room, or no permission.
    """
    document = None if form == "colmap" else _document(rig)
    make_folder(folder)
    written = []
    if document is not None:
        if len(rig.points):
            write_atomic(folder / POINTS, ply(Geometry(rig.points, rig.colours)))
            written.append(folder / POINTS)
        write_atomic(folder / TRANSFORMS, json.dumps(document, indent=1, allow_nan=False) + "\n")
        written.append(folder / TRANSFORMS)
    if form != "transforms":
        make_folder(folder / MODEL)
        for name, content in _model(rig).items():
            write_atomic(folder / MODEL / name, content)
            written.append(folder / MODEL / name)
    link = folder / IMAGES
    if rig.images is not None and not link.exists() and not link.is_symlink():
        link.symlink_to(rig.images.resolve(), target_is_directory=True)
    return written


def _renamed(shots: Sequence[Shot]) -> tuple[Shot, ...]:
    """The shots by their names below images/, which COLMAP takes for granted."""
    first = f"{IMAGES}/"
    if not all(shot.name.startswith(first) for shot in shots):
        return tuple(shots)
    return tuple(replace(shot, name=shot.name.removeprefix(first)) for shot in shots)


def _folder(capture: Capture, renamed: dict[str, Shot]) -> Path | None:
    """The one folder below which all photographs lie by their names."""
    found = set()
    for view in capture.views:
        if view.image is not None and view.name in renamed:
            depth = len(PurePosixPath(renamed[view.name].name).parts)
            found.add(view.image.parents[depth - 1])
    return found.pop() if len(found) == 1 else None


def _document(rig: Rig) -> dict[str, Any]:
    """transforms.json: OpenGL's camera-to-world, x right, y up, z back."""
    lenses = [_lens(shot) for shot in rig.shots]
    alike = all(lens == lenses[0] for lens in lenses)
    names = [f"{IMAGES}/{shot.name}" for shot in rig.shots]
    frames = []
    for shot, name, lens in zip(rig.shots, names, lenses, strict=True):
        matrix = np.vstack([shot.pose * [1, -1, -1, 1], [0, 0, 0, 1]]).tolist()
        frames.append({"file_path": name, "transform_matrix": matrix} | ({} if alike else lens))
    held = [name for shot, name in zip(rig.shots, names, strict=True) if shot.test]
    return {
        **(lenses[0] if alike else {}),
        **({"ply_file_path": POINTS} if len(rig.points) else {}),
        "train_filenames": [name for name in names if name not in set(held)],
        "val_filenames": held,
        "test_filenames": held,
        "frames": frames,
    }


def _lens(shot: Shot) -> dict[str, Any]:
    """What transforms.json says of a camera."""
    camera = shot.camera
    names = (_FLAT | _FISHEYE).get(camera.model, "").split()
    values = dict(zip(names, camera.params, strict=False))
    denominator = [key for key in _DENOMINATOR if values.get(key) and camera.model in _FLAT]
    if not names or denominator:
        why = f"with {denominator[0]} = {values[denominator[0]]:g}" if denominator else ""
        raise UserError(
            f"{shot.name}: transforms.json has no camera of the model {camera.model} {why}".rstrip()
            + ": write the COLMAP model alone, by --format colmap."
        )
    if "f" in values:
        focal = values.pop("f")
        values = {"fl_x": focal, "fl_y": focal, **values}
    bent = {key: value for key, value in values.items() if key[0] in "kp" and value}
    kind = "OPENCV_FISHEYE" if camera.model in _FISHEYE else "OPENCV" if bent else "PINHOLE"
    plain = {key: values[key] for key in ("fl_x", "fl_y", "cx", "cy")}
    return {"camera_model": kind, "w": camera.width, "h": camera.height, **plain, **bent}


def _model(rig: Rig) -> dict[str, bytes]:
    """The files of a COLMAP model by their names."""
    from nerfxl.colmap import pycolmap  # heavy

    model = pycolmap.Reconstruction()
    numbers: dict[Camera, int] = {}
    for row, shot in enumerate(rig.shots, start=1):
        if shot.camera not in numbers:
            numbers[shot.camera] = len(numbers) + 1
            own = pycolmap.Camera(
                model=shot.camera.model,
                width=shot.camera.width,
                height=shot.camera.height,
                params=list(shot.camera.params),
                camera_id=numbers[shot.camera],
            )
            own.has_prior_focal_length = True
            model.add_camera_with_trivial_rig(own)
        image = pycolmap.Image(name=shot.name, camera_id=numbers[shot.camera], image_id=row)
        turn = shot.pose[:, :3].T
        placed = pycolmap.Rigid3d(pycolmap.Rotation3d(turn), -turn @ shot.pose[:, 3])
        model.add_image_with_trivial_frame(image, placed)
    for place, colour in zip(rig.points, rig.colours, strict=True):
        model.add_point3D(place, pycolmap.Track(), colour)
    with tempfile.TemporaryDirectory() as folder:
        model.write(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
