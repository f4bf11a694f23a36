"""Scores of a fitted scene against the held-out photographs, and the pictures to see why."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
import torch

from nerfxl.captures import View, load_image, load_mask
from nerfxl.ensemble import Ensemble, settle
from nerfxl.field import background_colour
from nerfxl.filming.stills import Picture, depth_steps, picture, turns
from nerfxl.fitting import fit_look
from nerfxl.metrics import ImageScore, psnr, score, summarise
from nerfxl.model import parameter_counts
from nerfxl.pictures import DEPTHS, MAP, SheetRow, file_name, save_depth, save_image, sheet
from nerfxl.pixels import camera_rays, opaque
from nerfxl.prepare import RunScene, photographs
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import RunFolder, make_folder, write_atomic
from nerfxl.scene.spec import SceneSpec

SHEET_ROWS = 6


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
            rendered = picture(ensemble, shot.camera, shot.pose, scene, row)
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
                save_depth(pair[1], folder / file_name(shot.name, MAP), depth_steps(scene))
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
