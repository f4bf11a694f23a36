"""Renders what a user asked for into a folder: pictures, depth maps, a film; a collective."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from nerfxl.ensemble import Ensemble
from nerfxl.filming.displays import KINDS, display
from nerfxl.filming.film import write_film
from nerfxl.filming.shooting import SHOOTING, Frame, Shooting
from nerfxl.filming.stills import Picture, depth_steps, picture, turns
from nerfxl.pictures import DEPTHS, MAP, depth_range, file_name, save_depth, save_image
from nerfxl.prepare import RunScene
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import make_folder, write_atomic

RENDERED = "rendered.json"  # of which rendering the pictures in the folder are
LOOKS, LOOK_WIDTH = 12, 48  # small pictures, from which the range of a film's depths is taken


def render(folder: Path, scene: RunScene, ensemble: Ensemble, ranks: Ranks, step: int) -> None:
    """Render what `folder/shooting.json` asks for; a collective.

    Pictures that an interrupted rendering of the very same left are kept, those of another are
    removed. A film is put together of the pictures, at the end.
    """
    shooting = Shooting.load(folder)
    missing = ranks.gather_json(_missing(folder, shooting, step) if ranks.first else None)[0]
    left = [shooting.frames[index] for index in missing]
    range_ = (0.0, 1.0)
    if left and "depth" in shooting.shows:
        range_ = _depths(shooting, scene, ensemble)
    for turn in turns(len(left), ranks):
        mine: list[tuple[Frame, Picture]] = []
        for index in turn:
            frame, own = left[index], index % ranks.size == ranks.rank
            if own or ensemble.ranks.size > 1:
                made = picture(ensemble, frame.camera, frame.pose, scene, frame.like)
            if own:
                mine.append((frame, made))
        for frame, made in mine:
            _store(folder, shooting, frame, made, scene, range_)
    ranks.barrier()
    if ranks.first and shooting.fps:
        for kind in (show for show in KINDS if show in shooting.shows):
            pictures = [folder / file_name(frame.name, kind) for frame in shooting.frames]
            write_film(pictures, folder / f"{kind}.mp4", shooting.fps)


def _missing(folder: Path, shooting: Shooting, step: int) -> list[int]:
    """Places of the frames that are still to be rendered."""
    if MAP in shooting.shows:
        make_folder(folder / DEPTHS)
    asked = hashlib.sha256((folder / SHOOTING).read_bytes()).hexdigest()
    key = {"shooting": asked, "step": step}
    made = folder / RENDERED
    before = json.loads(made.read_text()) if made.exists() else {}
    if {name: before.get(name) for name in key} != key:
        for name in before.get("files", ()):
            (folder / name).unlink(missing_ok=True)
        files = [name for frame in shooting.frames for name in shooting.files(frame)]
        files += [f"{kind}.mp4" for kind in KINDS]
        write_atomic(made, json.dumps(key | {"files": files}))
    return [
        index
        for index, frame in enumerate(shooting.frames)
        if not all((folder / name).exists() for name in shooting.files(frame))
    ]


def _depths(shooting: Shooting, scene: RunScene, ensemble: Ensemble) -> tuple[float, float]:
    """The range of depths along a path: one for all its pictures, so that a film does not flicker.

    Views of the capture, which nobody plays one after the other, get each its own: (0, 0).
    """
    if not shooting.path:
        return 0.0, 0.0
    frames = shooting.frames
    shown = np.linspace(0, len(frames) - 1, min(LOOKS, len(frames))).round().astype(int)
    found = []
    for index in sorted(set(shown.tolist())):
        camera = frames[index].camera
        height = max(1, round(LOOK_WIDTH * camera.height / camera.width))
        small = camera.scaled(LOOK_WIDTH, height)
        found.append(picture(ensemble, small, frames[index].pose, scene).depth.numpy())
    return depth_range(np.concatenate([depth.reshape(-1) for depth in found]))


def _store(
    folder: Path,
    shooting: Shooting,
    frame: Frame,
    made: Picture,
    scene: RunScene,
    range_: tuple[float, float],
) -> None:
    near_far = range_ if range_[1] else depth_range(made.depth.numpy())
    for show, name in zip(shooting.shows, shooting.files(frame), strict=True):
        if show == MAP:
            save_depth(made.depth.numpy(), folder / name, depth_steps(scene))
            continue
        kind = next(kind for kind in KINDS if kind == show)
        seen = display(kind, made, frame.camera, frame.pose, scene, near_far)
        save_image(seen, folder / name)
