"""Pictures of a fitted scene, and their scores against the held-out photographs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nerfxl.blend import Painter
from nerfxl.cameras import Camera, orbit
from nerfxl.captures import View, load_image, load_mask
from nerfxl.ensemble import Ensemble
from nerfxl.field import background_colour
from nerfxl.fitting import fit_look
from nerfxl.metrics import ImageScore, psnr, score, summarise
from nerfxl.model import parameter_counts
from nerfxl.pictures import SheetRow, colourise, depth_range, save_depth, save_image, sheet
from nerfxl.pixels import camera_rays, opaque
from nerfxl.prepare import RunScene, Shot, photographs
from nerfxl.ranks import Ranks
from nerfxl.rays import Batch
from nerfxl.runs import RunFolder, make_folder, write_atomic
from nerfxl.spec import SceneSpec

CHUNK = 4096  # rays rendered at once, at most
UNTRAINED = 16  # without gradients, a sample takes this much less memory than in training
SHEET_ROWS = 6
DEPTHS = "depth"  # folder beside the pictures: 16 bits a pixel, source units
DEPTH_REACH = 8.0  # scene units, four root boxes: beyond, a stored depth is unknown


@dataclass(frozen=True)
class Picture:
    """One rendered view. colour: [H, W, 3] in [0, 1]. depth: [H, W], ray distance, source units."""

    colour: Tensor
    depth: Tensor


@torch.no_grad()
def picture(
    painter: Painter, shot: Shot, scene: RunScene, device: torch.device, row: int | None = None
) -> Picture:
    """Render one view; a collective of all ranks that hold tiles.

    row: of the photograph as which it is shown (see `Views`); None: as nobody took it.
    """
    camera: Camera = shot.camera
    sampling, exchange = scene.spec.sampling, painter.exchange
    rays = camera_rays(camera, scene.world.poses(shot.pose[None])[0], device)
    found = rays.origins.new_empty(len(rays), 4)
    pieces = math.ceil(len(rays) / rays_at_once(scene.spec))
    for first in range(pieces):
        piece = rays[first::pieces]  # from all over the picture: work for all ranks
        count = len(piece)
        mine = exchange.mine(count)
        number = torch.arange(count, device=device)[mine]
        still = piece.origins.new_full((len(number), 2), 0.5)
        view = None if row is None else torch.full_like(number, row)
        batch = Batch(piece[mine], still, number, count, view=view)
        pixels = painter.still(batch, sampling.proposal.padding, sampling.render_samples)
        seen = torch.cat([pixels.colour.clamp(0, 1), pixels.depth[:, None]], 1)
        found[first::pieces] = exchange.whole(seen, count)
    values = found.reshape(camera.height, camera.width, 4).cpu()
    return Picture(values[..., :3], values[..., 3] / scene.world.scale)


def rays_at_once(spec: SceneSpec) -> int:
    """How many rays are rendered together: as many as keep memory below that of training."""
    sampling = spec.sampling
    if sampling.method == "proposal":
        bins = max(sampling.render_samples, sampling.proposal.samples)
    else:
        bins = sampling.occupancy.samples
    return max(1, min(CHUNK, UNTRAINED * sampling.budget // bins))


def evaluate(
    run: RunFolder,
    scene: RunScene,
    ensemble: Ensemble,
    ranks: Ranks,
    step: int,
    train_seconds: float,
) -> None:
    """Render and score the held-out views into `eval/step-<step>/`; a collective.

    All ranks render every view, as many as they are one after the other; then each scores and
    stores one of them.
    """
    capture = photographs(run, scene.spec, scene.shots)
    held_out = {view.name: view for view in capture.test}
    folder = run.eval / f"step-{step:09d}"
    make_folder(folder / DEPTHS)
    settle(ensemble, scene)
    half = scene.spec.appearance.at_test == "half"
    behind = background_colour(scene.spec.field)
    shots = [shot for shot in scene.shots if shot.test and shot.name in held_out]
    shown = set(np.linspace(0, len(shots) - 1, min(SHEET_ROWS, len(shots))).round().astype(int))
    scores: dict[int, ImageScore] = {}
    rows, seconds = [], 0.0
    row_of = {shot.name: row for row, shot in enumerate(scene.shots)}
    for turn in turns(len(shots), ranks):
        kept: dict[int, Picture] = {}
        for index in turn:
            shot, row = shots[index], None
            if half:
                row = row_of[shot.name]
                _fit_left_half(ensemble, scene, row, held_out[shot.name], ranks)
            ranks.barrier()  # time to render is not time to wait for another rank's files
            start = time.monotonic()
            rendered = picture(ensemble.painter, shot, scene, ranks.device, row)
            seconds += time.monotonic() - start
            if index % ranks.size == ranks.rank or (ranks.first and index in shown):
                kept[index] = rendered
        for index, rendered in kept.items():
            shot = shots[index]
            truth = opaque(load_image(held_out[shot.name]), behind)
            exact = torch.from_numpy(truth).float() / 255
            pair = (rendered.colour.numpy(), rendered.depth.numpy())
            if index % ranks.size == ranks.rank:
                first = shot.camera.width // 2 if half else 0
                scores[index] = score(shot.name, exact[:, first:], rendered.colour[:, first:])
                save_image(pair[0], folder / file_name(shot.name))
                steps = 65535 * scene.world.scale / DEPTH_REACH  # of 16 bits, in a source unit
                save_depth(pair[1], folder / DEPTHS / file_name(shot.name), steps)
            if ranks.first and index in shown:
                rows.append(SheetRow(shot.name, truth, *pair, psnr(exact, rendered.colour)))
    mine_as_json = [(index, asdict(one)) for index, one in scores.items()]
    for others in ranks.gather_json(mine_as_json):
        scores |= {index: ImageScore(**one) for index, one in others}
    peaks = ranks.gather_json(ranks.peak_memory())
    if not ranks.first:
        return
    if rows:
        sheet(rows, folder / "sheet.png")
    per_image = [scores[index] for index in sorted(scores)]
    per_tile, shared = parameter_counts(scene.spec)
    tiles = len(scene.plan)
    summary = {
        "step": step,
        **summarise(per_image),
        "train_seconds": train_seconds,
        "peak_memory_per_rank": peaks,
        "parameters": tiles * per_tile + shared,
        "tiles": tiles,
        "world_size": ranks.size,
        "device": str(ranks.device.type),
        "capture": str(capture.root),
        "capture_note": capture.note,
        "appearance": appearance_words(scene.spec),
        "render_seconds": seconds / max(1, len(shots)),
        "per_image": [asdict(one) for one in per_image],
    }
    write_atomic(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")


def settle(ensemble: Ensemble, scene: RunScene) -> None:
    """Give views that nobody took their look, before pictures are made."""
    trained = [row for row, shot in enumerate(scene.shots) if not shot.test]
    for member in ensemble.members:
        member.model.shared.views.settle(trained, scene.spec.appearance.at_test)


def appearance_words(spec: SceneSpec) -> str:
    """What is learned of the look of images, and which look the held-out ones are scored with.

    >>> appearance_words(SceneSpec(capture={"path": "x"}))
    'off'
    """
    look = spec.appearance
    learned = [name for name in ("embedding", "exposure") if getattr(look, name) == "on"]
    which = {
        "zero": "held-out images take none",
        "mean": "held-out images take the mean of the training images",
        "half": "fitted on the left half of each held-out image, the right half is scored",
    }[look.at_test]
    if not learned:
        return "off, the right half of each image is scored" if look.at_test == "half" else "off"
    return f"{' and '.join(learned)}; {which}"


def _fit_left_half(ensemble: Ensemble, scene: RunScene, row: int, view: View, ranks: Ranks) -> None:
    """Learn the look of a held-out image from its left half."""
    shot, device = scene.shots[row], ranks.device
    camera = shot.camera
    rays = camera_rays(camera, scene.world.poses(shot.pose[None])[0], device)
    left = torch.arange(len(rays)) % camera.width < camera.width // 2
    mask = load_mask(view)
    if mask is not None:
        left &= torch.from_numpy(mask.reshape(-1))
    if not bool(left.any()):
        return
    chosen = left.nonzero()[:, 0].to(device)
    image = opaque(load_image(view), background_colour(scene.spec.field))
    truth = (torch.from_numpy(image).reshape(-1, 3)[left].float() / 255).to(device)
    for member in ensemble.members:
        fit_look(member, scene.spec, row, rays[chosen], truth)


def render(
    run: RunFolder,
    scene: RunScene,
    ensemble: Ensemble,
    ranks: Ranks,
    shots: Sequence[Shot],
    into: str,
) -> None:
    """Render shots into `renders/<into>/`: colour and depth as PNG; a collective."""
    folder = run.renders / into
    make_folder(folder)
    settle(ensemble, scene)
    taken = {shot.name: row for row, shot in enumerate(scene.shots) if not shot.test}
    for turn in turns(len(shots), ranks):
        mine: dict[str, Picture] = {}
        for index in turn:
            name = shots[index].name
            row = taken.get(name)  # a training image as it was taken, others as by nobody
            rendered = picture(ensemble.painter, shots[index], scene, ranks.device, row)
            if index % ranks.size == ranks.rank:
                mine[name] = rendered
        for name, rendered in mine.items():
            target = folder / file_name(name)
            save_image(rendered.colour.numpy(), target)
            depth = rendered.depth.numpy()
            low, high = depth_range(depth)
            save_image(colourise(depth, low, high), target.with_suffix(".depth.png"))


def turns(count: int, ranks: Ranks) -> Iterator[range]:
    """Places of pictures, as many at a time as there are ranks: each rank then stores one."""
    for first in range(0, count, ranks.size):
        yield range(first, min(first + ranks.size, count))


def orbit_shots(scene: RunScene, frames: int) -> list[Shot]:
    """A level circle around the middle of the root box, as wide and as high as the cameras are."""
    poses = scene.world.poses(np.stack([shot.pose for shot in scene.shots]))
    away = poses[:, :, 3] - np.array(scene.plan.root.centre)
    radius = max(float(np.median(np.hypot(away[:, 0], away[:, 1]))), 0.1)
    height = float(np.median(away[:, 2]))
    circle = orbit(scene.plan.root.centre, radius, height, frames)
    back = scene.world.inverse()
    camera = scene.shots[0].camera
    return [
        Shot(f"orbit_{index:04d}.png", camera, back.poses(pose[None])[0], test=True)
        for index, pose in enumerate(circle)
    ]


def file_name(view: str) -> str:
    """A flat PNG name for a view's name, which may hold folders.

    >>> file_name("left/img_1.jpg")
    'left_img_1.png'
    """
    return str(Path(view).with_suffix(".png")).replace("/", "_")
