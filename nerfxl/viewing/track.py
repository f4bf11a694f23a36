"""A camera path in the making: keyframes that are added, moved, timed and taken away.

Nothing changes in place: every edit gives another path. Times begin at 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nerfxl.errors import UserError
from nerfxl.filming.paths import Array, CameraPath, Keyframe
from nerfxl.runs import make_folder, write_atomic

EMPTY = CameraPath(())
STEP_SECONDS = 2.0  # from a keyframe to one that is added after it
SHORTEST = 0.1  # seconds that a path lasts at least
NAME = re.compile(r"[\w-][\w. -]{0,99}")


def added(path: CameraPath, pose: Array, fov: float) -> CameraPath:
    """One more keyframe at the end. pose: [3, 4], source coordinates. fov: vertical, degrees."""
    frames = path.keyframes
    time = frames[-1].time + STEP_SECONDS if frames else 0.0
    return replace(path, keyframes=(*frames, Keyframe(time, pose, fov)))


def placed(path: CameraPath, index: int, pose: Array, fov: float) -> CameraPath:
    """Another camera in the place of a keyframe's."""
    return _with(path, index, replace(path.keyframes[index], pose=pose, fov=fov))


def widened(path: CameraPath, index: int, fov: float) -> CameraPath:
    """Another field of view of a keyframe, degrees."""
    return _with(path, index, replace(path.keyframes[index], fov=fov))


def moved(path: CameraPath, index: int, by: int) -> CameraPath:
    """A keyframe earlier (-1) or later (+1): it changes places with its neighbour, if there is one.

    Times stay where they are: the cameras change.
    """
    other = index + by
    if not 0 <= other < len(path.keyframes):
        return path
    here, there = path.keyframes[index], path.keyframes[other]
    half = _with(path, index, replace(there, time=here.time))
    return _with(half, other, replace(here, time=there.time))


def removed(path: CameraPath, index: int) -> CameraPath:
    """Without a keyframe; those after it come earlier, by the time that led up to it."""
    before, after = path.keyframes[:index], path.keyframes[index + 1 :]
    if not after:
        return replace(path, keyframes=before)
    cut = path.keyframes[index].time - before[-1].time if before else after[0].time
    return replace(path, keyframes=(*before, *_shifted(after, -cut)))


def delayed(path: CameraPath, index: int, seconds: float) -> CameraPath:
    """A keyframe, and all after it, so that it comes so long after the one before it.

    The first stays where it is.
    """
    if index == 0:
        return path
    frames = path.keyframes
    shift = frames[index - 1].time + max(seconds, SHORTEST) - frames[index].time
    return replace(path, keyframes=(*frames[:index], *_shifted(frames[index:], shift)))


def lasting(path: CameraPath, seconds: float) -> CameraPath:
    """The same path in another time, all of it faster or slower alike."""
    if len(path.keyframes) < 2:
        return path
    factor = max(seconds, SHORTEST) / path.seconds
    frames = tuple(replace(one, time=one.time * factor) for one in path.keyframes)
    return replace(path, keyframes=frames)


def save(path: CameraPath, folder: Path, name: str, known: str) -> Path:
    """Write `folder/name.json`; the file.

    known: name of the file that the path was read from or saved to last, which it may replace.

    Raises
    ------
    UserError: there is nothing to save, the name is none of a file, another path has it, or it
        cannot be written.
    """
    if not path.keyframes:
        raise UserError("The path has no keyframe yet: add one where the camera is now.")
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name a path: use letters, digits, '-', '_', '.', ' '.")
    file = folder / f"{name}.json"
    if name != known and file.exists():
        raise UserError(f"{file} is there already: load it first, or choose another name.")
    make_folder(folder)
    write_atomic(file, path.to_json())
    return file


def saved(folder: Path) -> list[str]:
    """Names of the paths in a folder."""
    return sorted(file.stem for file in folder.glob("*.json"))


def _with(path: CameraPath, index: int, keyframe: Keyframe) -> CameraPath:
    frames = list(path.keyframes)
    frames[index] = keyframe
    return replace(path, keyframes=tuple(frames))


def _shifted(frames: Sequence[Keyframe], by: float) -> list[Keyframe]:
    return [replace(one, time=one.time + by) for one in frames]
