"""What is to be rendered: views of the capture or a camera path, their size, and what of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import Camera, pinhole, vertical_fov
from nerfxl.errors import UserError
from nerfxl.filming.displays import KINDS
from nerfxl.filming.paths import CameraPath, flythrough, interpolated, orbit, spiral
from nerfxl.pictures import MAP, file_name
from nerfxl.prepare import RunScene, Shot

SHOOTING = "shooting.json"
FRAMES = 60
SHOWS = (*KINDS, MAP)
PATHS = ("orbit", "spiral", "interpolate", "flythrough")

Array = NDArray[np.float64]
Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Frame:
    """One picture to be made. pose: [3, 4], source coordinates. like: the row of a photograph."""

    name: str
    camera: Camera
    pose: Array
    like: int | None = None


@dataclass(frozen=True)
class Shooting:
    """What is rendered into a folder.

    shows: of `SHOWS`. path: whether the frames follow each other. fps: of a film; 0 = none.
    """

    frames: tuple[Frame, ...]
    shows: tuple[str, ...]
    path: bool
    fps: float = 0.0

    def to_json(self) -> str:
        """Write it for the ranks to read."""
        frames = [{**asdict(one), "pose": one.pose.tolist()} for one in self.frames]
        return json.dumps({**vars(self), "frames": frames})

    @staticmethod
    def load(folder: Path) -> Shooting:
        """Read what `to_json` wrote."""
        found = json.loads((folder / SHOOTING).read_text())
        frames = tuple(_frame(one) for one in found["frames"])
        return Shooting(frames, tuple(found["shows"]), found["path"], found["fps"])

    def files(self, frame: Frame) -> list[str]:
        """What is made of a frame, in the folder: a file a show."""
        return [file_name(frame.name, show) for show in self.shows]


@dataclass(frozen=True)
class Wish:
    """What the options of `nerfxl render` say; None: as it comes.

    path: of PATHS, or a file. size: width and height, pixels. fov: vertical, degrees. shows: comma
    separated. like: name of a photograph.
    """

    split: Split = "test"
    path: str | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fov: float | None = None
    shows: str = "colour,depth"
    video: bool = False
    fps: float | None = None
    like: str | None = None

    @property
    def name(self) -> str:
        """Of the folder, in the run's renders."""
        return self.split if self.path is None else Path(self.path).stem


def arranged(wish: Wish, scene: RunScene, shots: Sequence[Shot]) -> Shooting:
    """Make what was asked for of a run's views.

    shots: the views, with the poses that the run has learned.

    Raises
    ------
    UserError: what was asked for does not fit together, or there is no such file or view.
    """
    shows = tuple(dict.fromkeys(show.strip() for show in wish.shows.split(",")))
    unknown = [show for show in shows if show not in SHOWS]
    if unknown:
        raise UserError(f"--show {wish.shows}: '{unknown[0]}' is none of {', '.join(SHOWS)}.")
    like = None
    if wish.like is not None:
        like = row_of(wish.like, shots)
    if wish.path is None:
        if wish.frames is not None:
            raise UserError("--frames says how many pictures a path has: name one with --path.")
        frames, fps = _views(wish, shots, like), 30.0
        if wish.video and len({(one.camera.width, one.camera.height) for one in frames}) > 1:
            raise UserError(
                "--video: the views are of several sizes; give one for all of them with --size and "
                "--fov."
            )
    else:
        frames, fps = _along(wish, wish.path, scene, shots, like)
    return Shooting(tuple(frames), shows, wish.path is not None, (wish.fps or fps) * wish.video)


def row_of(name: str, shots: Sequence[Shot]) -> int:
    """Where a view stands among all.

    Raises
    ------
    UserError: there is none of that name.
    """
    names = [shot.name for shot in shots]
    if name not in names:
        raise UserError(
            f"the run has no view '{name}'; it has {len(names)}, from '{names[0]}' to "
            f"'{names[-1]}'."
        )
    return names.index(name)


def _views(wish: Wish, shots: Sequence[Shot], like: int | None) -> list[Frame]:
    """Views of the capture: training images as they were taken, others as by nobody."""
    found = []
    for row, shot in enumerate(shots):
        if wish.split in ("all", "test" if shot.test else "train"):
            look = like if like is not None else None if shot.test else row
            found.append(Frame(shot.name, _lens(shot, wish), shot.pose, look))
    if not found:
        raise UserError(f"--split {wish.split}: the run has no such view; try --split all.")
    return found


def _lens(shot: Shot, wish: Wish) -> Camera:
    """A view's camera at another size; with another field of view it has no distortion."""
    camera = shot.camera
    width, height = wish.size or (camera.width, camera.height)
    if wish.fov is not None:
        return pinhole(width, height, wish.fov)
    if abs(width * camera.height / camera.width - height) > 1:
        fits = round(width * camera.height / camera.width)
        raise UserError(
            f"--size {width}x{height}: {shot.name} is {camera.width}x{camera.height}; ask for "
            f"{width}x{fits}, which has its shape, or for a field of view of your own with --fov."
        )
    return camera if wish.size is None else camera.scaled(width, height)


def _along(
    wish: Wish, path: str, scene: RunScene, shots: Sequence[Shot], like: int | None
) -> tuple[list[Frame], float]:
    """Frames along a path, and how many there are a second."""
    first = shots[0].camera
    if path not in PATHS:
        read = _read(path)
        count = read.frames(wish.frames)
        width, height = wish.size or (read.width, read.height)
        fovs = [wish.fov or one.fov for one in count]
        cameras = [pinhole(width, height, fov) for fov in fovs]
        poses, fps = [one.pose for one in count], read.fps
    else:
        width, height = wish.size or (first.width // 2 * 2, first.height // 2 * 2)
        poses, fps = _walk(wish, path, scene, shots), 30.0
        cameras = [pinhole(width, height, wish.fov or vertical_fov(first))] * len(poses)
    name = Path(path).stem
    numbered = enumerate(zip(cameras, poses, strict=True))
    return [Frame(f"{name}_{at:04d}.png", lens, pose, like) for at, (lens, pose) in numbered], fps


def _walk(wish: Wish, path: str, scene: RunScene, shots: Sequence[Shot]) -> list[Array]:
    """Poses of a path that follows from the capture's cameras, in source coordinates."""
    count = wish.frames or FRAMES
    to_scene, back = scene.world, scene.world.inverse()
    every = to_scene.poses(np.stack([shot.pose for shot in shots]))
    if path == "orbit":
        poses = _orbit(every, scene, count)
    elif path == "spiral":
        away = np.array(scene.plan.root.centre) - every[:, :, 3].mean(axis=0)
        forward = every[:, :, 2].mean(axis=0)
        try:
            poses = spiral(every, count, max(0.1, float(away @ forward)))
        except ValueError as error:
            raise UserError(f"--path spiral: {error}; try orbit or flythrough.") from error
    elif path == "interpolate":
        chosen = [wish.split in ("all", "test" if shot.test else "train") for shot in shots]
        if not any(chosen):
            raise UserError(f"--split {wish.split}: the run has no such view; try --split all.")
        poses = interpolated(every[chosen], count)
    else:
        poses = flythrough(every, count)
    return list(back.poses(np.stack(poses)))


def _orbit(every: Array, scene: RunScene, count: int) -> list[Array]:
    """A level circle around the middle of the root box, as wide and as high as the cameras are."""
    away = every[:, :, 3] - np.array(scene.plan.root.centre)
    radius = max(float(np.median(np.hypot(away[:, 0], away[:, 1]))), 0.1)
    height = float(np.median(away[:, 2]))
    return orbit(scene.plan.root.centre, radius, height, count)


def _read(path: str) -> CameraPath:
    """Read a path's file.

    Raises
    ------
    UserError: it is none, and the name is none of PATHS either.
    """
    file = Path(path)
    if file.suffix != ".json":
        raise UserError(f"--path {path}: give one of {', '.join(PATHS)}, or a file, NAME.json.")
    return CameraPath.load(file)


def _frame(entry: Any) -> Frame:
    camera = Camera(**{**entry["camera"], "params": tuple(entry["camera"]["params"])})
    return replace(Frame(**{**entry, "camera": camera}), pose=np.array(entry["pose"], np.float64))
