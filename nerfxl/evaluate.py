"""Pictures of a fitted scene, and their scores against the held-out photographs."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nerfxl.cameras import Camera, orbit
from nerfxl.captures import load_image
from nerfxl.field import background_colour
from nerfxl.metrics import score, summarise
from nerfxl.model import Model, parameter_counts
from nerfxl.pictures import SheetRow, colourise, depth_range, save_image, sheet
from nerfxl.pixels import camera_rays, opaque
from nerfxl.prepare import RunScene, Shot, photographs
from nerfxl.ranks import Ranks
from nerfxl.render import Renderer
from nerfxl.runs import RunFolder, write_atomic
from nerfxl.spec import SceneSpec

CHUNK = 16_384  # rays rendered at once with few samples each
UNTRAINED = 16  # without gradients, a sample takes this much less memory than in training
SHEET_ROWS = 6


@dataclass(frozen=True)
class Picture:
    """One rendered view. colour: [H, W, 3] in [0, 1]. depth: [H, W], ray distance, source units."""

    colour: Tensor
    depth: Tensor


@torch.no_grad()
def picture(renderer: Renderer, shot: Shot, scene: RunScene, device: torch.device) -> Picture:
    """Render one view; a collective of all ranks that hold tiles."""
    camera: Camera = shot.camera
    rays = camera_rays(camera, scene.world.poses(shot.pose[None])[0], device)
    colours, depths = [], []
    chunk = rays_at_once(scene.spec)
    for start in range(0, len(rays), chunk):
        part = rays[start : start + chunk]
        still = part.origins.new_full((len(part), 2), 0.5)
        pixels, _ = renderer(part, still, scene.spec.sampling.proposal.padding)
        colours.append(pixels.colour)
        depths.append(pixels.depth)
    size = (camera.height, camera.width)
    colour = torch.cat(colours).clamp(0, 1).reshape(*size, 3)
    return Picture(colour.cpu(), (torch.cat(depths) / scene.world.scale).reshape(size).cpu())


def rays_at_once(spec: SceneSpec) -> int:
    """How many rays are rendered together: as many as keep memory below that of training."""
    if spec.sampling.method == "proposal":
        return CHUNK
    return max(1, min(CHUNK, UNTRAINED * spec.sampling.budget // spec.sampling.occupancy.samples))


def evaluate(
    run: RunFolder,
    scene: RunScene,
    model: Model,
    ranks: Ranks,
    step: int,
    train_seconds: float,
) -> None:
    """Render and score the held-out views into `eval/step-<step>/`; a collective."""
    capture = photographs(run, scene.spec, scene.shots)
    held_out = {view.name: view for view in capture.test}
    folder = run.eval / f"step-{step:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    behind = background_colour(scene.spec.field)
    scores, rows = [], []
    shots = [shot for shot in scene.shots if shot.test and shot.name in held_out]
    shown = set(np.linspace(0, len(shots) - 1, min(SHEET_ROWS, len(shots))).round().astype(int))
    for index, shot in enumerate(shots):
        rendered = picture(model.renderer, shot, scene, ranks.device)
        if not ranks.first:
            continue
        truth = opaque(load_image(held_out[shot.name]), behind)
        scores.append(score(shot.name, torch.from_numpy(truth).float() / 255, rendered.colour))
        save_image(rendered.colour.numpy(), folder / file_name(shot.name))
        if index in shown:
            pair = (rendered.colour.numpy(), rendered.depth.numpy())
            rows.append(SheetRow(shot.name, truth, *pair, scores[-1].psnr))
    memory = torch.tensor([peak_memory(ranks.device)], device=ranks.device)
    peaks = ranks.all_gather(memory, [1] * ranks.size).tolist()
    if not ranks.first:
        return
    if rows:
        sheet(rows, folder / "sheet.png")
    per_tile, shared = parameter_counts(scene.spec)
    tiles = len(scene.plan)
    summary = {
        "step": step,
        **summarise(scores),
        "train_seconds": train_seconds,
        "peak_memory_per_rank": peaks,
        "parameters": tiles * per_tile + shared,
        "tiles": tiles,
        "world_size": ranks.size,
        "device": str(ranks.device.type),
        "capture": str(capture.root),
        "capture_note": capture.note,
        "appearance": "off",
        "per_image": [asdict(one) for one in scores],
    }
    write_atomic(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")


def render(
    run: RunFolder, scene: RunScene, model: Model, ranks: Ranks, shots: Sequence[Shot], into: str
) -> None:
    """Render shots into `renders/<into>/`: colour and depth as PNG; a collective."""
    folder = run.renders / into
    folder.mkdir(parents=True, exist_ok=True)
    for shot in shots:
        rendered = picture(model.renderer, shot, scene, ranks.device)
        if ranks.first:
            target = folder / file_name(shot.name)
            save_image(rendered.colour.numpy(), target)
            depth = rendered.depth.numpy()
            low, high = depth_range(depth)
            save_image(colourise(depth, low, high), target.with_suffix(".depth.png"))


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


def peak_memory(device: torch.device) -> int:
    """The most memory this process has used so far, bytes: of the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
