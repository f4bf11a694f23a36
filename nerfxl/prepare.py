"""Scene file -> capture, world, plan: everything that is decided before training starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.cameras import Camera
from nerfxl.captures import Capture, Split, check_image, read_capture
from nerfxl.disturb import disturbed
from nerfxl.errors import UserError
from nerfxl.partition import Plan, plan
from nerfxl.randomness import generator
from nerfxl.rays import Box, Rays
from nerfxl.runs import RunFolder, write_atomic
from nerfxl.scene.file import Scene, choose_candidate, load_scene, plan_file, save_scene
from nerfxl.scene.spec import CaptureSpec, SceneSpec, SplitEvery, SplitLists
from nerfxl.world import Bounds, WorldTransform, estimate_bounds, orientation

NEAR_OPEN = 0.02  # scene units: among the tiles, rays start this far from the camera
STAND_IN_POINTS = 20_000
PLACE_TOLERANCE = 1e-6  # scene units, of boxes 2 long: machines round differently
CORNERS = np.array([[-1.0, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of the scene's cube
TRANSFORM = "scene_transform.json"  # beside a plan, in a run's folder and in that of `nerfxl plan`
SEEN_POINTS = 2_000  # of which one must be in some view


@dataclass(frozen=True)
class Prepared:
    """A capture placed in its world and cut into tiles.

    points: [P, 3], scene coordinates. poses: of the views, as they will be trained on; those of the
    capture unless they are disturbed on purpose.
    """

    scene: Scene
    capture: Capture
    bounds: Bounds
    world: WorldTransform
    points: Tensor
    plan: Plan
    poses: list[NDArray[np.float64]]


@dataclass(frozen=True)
class Shot:
    """One picture to be rendered: all that is needed of a view, without its photograph.

    pose: [3, 4] camera-to-world, source coordinates.
    """

    name: str
    camera: Camera
    pose: NDArray[np.float64]
    test: bool


def prepare(scene: Scene, skip_missing: bool = False) -> Prepared:
    """Read the capture, choose the bounds, cut the plan; decodes no image.

    Raises
    ------
    UserError: the capture is not there or cannot be used; its cameras see nothing of the scene.
    """
    spec = scene.spec
    folder, note = choose_candidate(scene)
    capture = _read(spec, folder, note, _split(spec.capture), skip_missing)
    for view in capture.views:
        check_image(view)
    check_losses(spec, capture, scene.path)
    _check_seen(capture)
    poses = capture.poses()
    rotation = orientation(spec.capture.orientation, poses, capture.points)
    bounds = estimate_bounds(
        capture.points,
        poses,
        sights=capture.sights(),
        rotation=rotation,
        quantile=spec.bounds.quantile,
        margin=spec.bounds.margin,
        box=None if spec.bounds.box == "auto" else spec.bounds.box,
        outside=spec.bounds.outside,
        isolated=capture.isolated,
    )
    world = bounds.transform(rotation)
    is_open = bounds.outside == "contract"
    points = torch.from_numpy(world.points(capture.points)).float()
    passed = _places_in_box(capture, world, bounds, spec)
    if not len(passed):
        raise UserError(
            f"{scene.path}: bounds.box: no ray of the {len(capture.views)} cameras meets the box; "
            "give it in the coordinates of the capture, or leave it out."
        )
    if not len(points):
        points = passed
    file = plan_file(scene)
    if file is None:
        cut = plan(points, bounds.scene_box, spec.partition.tiles, is_open)
    else:
        cut = _given_plan(file, scene, bounds.scene_box, world, is_open)
    edge = max(bounds.box.size)
    used = disturbed(capture.views, spec.cameras.disturb, edge, spec.seed)
    return Prepared(scene, capture, bounds, world, points, cut, used)


def check_losses(spec: SceneSpec, capture: Capture, where: Path) -> None:
    """See that the capture has what the losses ask for; reads nothing.

    Raises
    ------
    UserError: no photograph to fit has sightings, or the sky; where: the scene file.
    """
    losses, views = spec.train.losses, capture.train
    if losses.depth and not any(view.seen for view in views):
        raise UserError(
            f"{where}: train.losses.depth is {losses.depth:g}, and the capture {capture.root} "
            f"({capture.format}) does not say which image saw which point; give a COLMAP model "
            "with its keypoints, or set train.losses.depth to 0."
        )
    if losses.sky and not any(view.sky for view in views):
        first = capture.root / spec.capture.sky / f"{views[0].name}.png"
        raise UserError(
            f"{where}: train.losses.sky is {losses.sky:g}, and none of the {len(views)} images to "
            f"fit has a mask of the sky, the first would be {first}; put them there, name their "
            "folder by capture.sky, or set train.losses.sky to 0."
        )


def near_plane(spec: SceneSpec, world: WorldTransform, is_open: bool) -> float:
    """Where rays start, scene units."""
    if spec.sampling.near == "auto":
        return NEAR_OPEN if is_open else 0.0
    return float(spec.sampling.near) * world.scale


def some_rays(capture: Capture, world: WorldTransform, count: int, seed: int) -> Rays:
    """Random training rays, scene coordinates, without looking at any pixel."""
    sights = np.stack([view.camera.fan(9) @ view.pose[:, :3].T for view in capture.train])
    directions = torch.from_numpy(sights @ world.rotation.T).flatten(0, 1)
    centres = np.stack([view.pose[:, 3] for view in capture.train])
    origins = torch.from_numpy(world.points(centres)).repeat_interleave(sights.shape[1], 0)
    good = directions.isfinite().all(-1).nonzero()[:, 0]
    draw = torch.randint(len(good), (count,), generator=generator(seed, 0))
    chosen = good[draw]
    return Rays(origins[chosen].float(), directions[chosen].float())


def write(prepared: Prepared, run: RunFolder) -> None:
    """Store in the run folder what every rank, and every later command, reads back."""
    save_scene(prepared.scene, run.scene)
    write_atomic(run.plan, prepared.plan.to_json())
    write_atomic(run.scene_transform, prepared.world.to_json())
    shots = [
        {
            "name": view.name,
            "test": view.test,
            "camera": asdict(view.camera),
            "pose": pose.tolist(),
        }
        | ({} if pose is view.pose else {"true_pose": view.pose.tolist()})
        for view, pose in zip(prepared.capture.views, prepared.poses, strict=True)
    ]
    write_atomic(run.cameras, json.dumps({"format": "nerfxl-cameras", "views": shots}))


@dataclass(frozen=True)
class RunScene:
    """What a run folder says of its scene: enough to render, without the photographs."""

    spec: SceneSpec
    plan: Plan
    world: WorldTransform
    shots: tuple[Shot, ...]

    @property
    def near(self) -> float:
        """Where rays start, scene units."""
        return near_plane(self.spec, self.world, self.plan.open)


def read_back(run: RunFolder) -> RunScene:
    """Read what `write` stored.

    Raises
    ------
    UserError: a file is missing or damaged.
    """
    spec = load_scene(run.scene, device="cpu").spec  # resolved: no profile is left in it
    try:
        plan_text = run.plan.read_text()
        document = json.loads(run.cameras.read_text())
        shots = tuple(
            Shot(
                entry["name"],
                Camera(**{**entry["camera"], "params": tuple(entry["camera"]["params"])}),
                np.array(entry["pose"]),
                entry["test"],
            )
            for entry in document["views"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.path}: the run cannot be read: {error}.") from error
    cut = Plan.from_json(plan_text, str(run.plan))
    return RunScene(spec, cut, WorldTransform.load(run.scene_transform), shots)


def photographs(run: RunFolder, spec: SceneSpec, shots: Sequence[Shot]) -> Capture:
    """The capture of a run, with the split and the poses that the run started with."""
    scene = load_scene(run.scene, device="cpu")
    folder, note = choose_candidate(scene)
    train = tuple(shot.name for shot in shots if not shot.test)
    test = tuple(shot.name for shot in shots if shot.test)
    found = _read(spec, folder, note, Split(train=train, test=test), skip_missing=True)
    poses = {shot.name: shot.pose for shot in shots}
    views = tuple(replace(view, pose=poses[view.name]) for view in found.views)
    return replace(found, views=views)


def _read(spec: SceneSpec, folder: Path, note: str, split: Split, skip_missing: bool) -> Capture:
    """The capture that the spec describes, from its chosen folder."""
    capture = spec.capture
    return read_capture(
        folder,
        format=capture.format,
        downscale=capture.downscale,
        split=split,
        max_megapixels=capture.max_megapixels,
        skip_missing=skip_missing,
        note=note,
        sky=capture.sky if spec.train.losses.sky else "",
    )


def _given_plan(file: Path, scene: Scene, root: Box, world: WorldTransform, is_open: bool) -> Plan:
    """Read the plan that the scene names; it must be one of this scene, box and tiles."""
    found, tiles = Plan.load(file), scene.spec.partition.tiles
    where = f"{scene.path}: partition.plan: {file}"
    if len(found) != tiles:
        raise UserError(
            f"{where} has {len(found)} tiles and partition.tiles is {tiles}: set partition.tiles "
            f"to {len(found)}, or name another plan."
        )
    if found.open != is_open:
        words = {True: "reaches to infinity", False: "ends at its box"}
        raise UserError(
            f"{where} {words[found.open]}, and the scene {words[is_open]}: set bounds.outside to "
            f"{'contract' if found.open else 'empty'}, or name another plan."
        )
    beside = file.with_name(TRANSFORM)
    if not same_place(found, WorldTransform.load(beside), root, world):
        raise UserError(
            f"{where} was cut for another box than the scene's (capture, orientation or bounds "
            "differ): write a new one with `nerfxl plan`."
        )
    return found


def same_place(cut: Plan, world: WorldTransform, root: Box, other: WorldTransform) -> bool:
    """Whether a plan in its world cuts this box of another, but for rounding."""
    boxes = np.array([(cut.root.low, cut.root.high), (root.low, root.high)])
    back = world.points(other.inverse().points(CORNERS))
    return all(
        np.allclose(one, two, rtol=0, atol=PLACE_TOLERANCE)
        for one, two in ((boxes[0], boxes[1]), (back, CORNERS))
    )


def _split(spec: CaptureSpec) -> Split:
    if isinstance(spec.split, SplitEvery):
        return Split(every=spec.split.every)
    if isinstance(spec.split, SplitLists):
        return Split(train=tuple(spec.split.train), test=tuple(spec.split.test))
    return Split()


def _check_seen(capture: Capture) -> None:
    """Refuse cameras that all look away from all points: their axes are not what was meant."""
    points = capture.points[:: max(1, len(capture.points) // SEEN_POINTS)]
    for view, sights in zip(capture.views, capture.sights(), strict=True):
        forward, away = view.pose[:, 2], points - view.pose[:, 3]
        widest = np.nanmin(sights @ forward, initial=1.0)
        if (away @ forward >= widest * np.linalg.norm(away, axis=1)).any():
            return
    if len(points):
        raise UserError(
            f"{capture.root}: no camera sees any of the {len(capture.points)} points; correct the "
            "poses (do the cameras look along the axis that the format says?), or the points."
        )


def _places_in_box(
    capture: Capture, world: WorldTransform, bounds: Bounds, spec: SceneSpec
) -> Tensor:
    """Places along random training rays inside the box, [N, 3], scene coordinates.

    They stand in for points where a capture has none (NeRF-XL).
    """
    rays = some_rays(capture, world, STAND_IN_POINTS, spec.seed)
    whole = plan(torch.zeros(0, 3), bounds.scene_box, 1, open=False)
    inside = whole.intervals(rays, 0.0, torch.inf)[0]
    share = torch.rand(len(rays), generator=generator(spec.seed, 1))
    t = inside[:, 0] + share * (inside[:, 1] - inside[:, 0])
    return rays.at(t)[inside[:, 1] > inside[:, 0]]
