"""Scores of a fitted scene against the held-out photographs, and the pictures to see why."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from nerfxl.captures import View, load_image, load_mask
from nerfxl.ensemble import Ensemble, settle
from nerfxl.field import background_colour
from nerfxl.filming.shooting import row_of
from nerfxl.filming.stills import Picture, depth_steps, picture, turns
from nerfxl.fitting import fit_look
from nerfxl.metrics import ImageScore, psnr, score, summarise
from nerfxl.model import parameter_counts
from nerfxl.pictures import DEPTHS, MAP, SheetRow, file_name, save_depth, save_image, sheet
from nerfxl.pixels import camera_rays, opaque
from nerfxl.prepare import RunScene, Shot, photographs
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
    folder = run.eval / f"step-{step:09d}"
    make_folder(folder / DEPTHS)
    settle(ensemble, scene)
    scoring = _Scoring(folder, scene, ensemble, ranks, {view.name: view for view in capture.test})
    for turn in turns(len(scoring.shots), ranks):
        made = [scoring.rendered(index) for index in turn]
        for index, rendered in zip(turn, made, strict=True):
            scoring.keep(index, rendered)
    per_image = scoring.of_all_ranks()
    peaks = ranks.gather_json(ranks.peak_memory())
    if not ranks.first:
        return
    if scoring.rows:
        sheet(scoring.rows, folder / "sheet.png")
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
        "render_seconds": scoring.seconds / max(1, len(scoring.shots)),
        "per_image": [asdict(one) for one in per_image],
    }
    write_atomic(folder / "metrics.json", json.dumps(summary, indent=1) + "\n")


@dataclass
class _Scoring:
    """The held-out views of a checkpoint, on their way to scores.

    views: their photographs, by name. scores: of the views that this rank keeps, by their place
    among `shots`. rows: of the sheet, on the first rank. seconds: of rendering.
    """

    folder: Path
    scene: RunScene
    ensemble: Ensemble
    ranks: Ranks
    views: dict[str, View]
    scores: dict[int, ImageScore] = field(default_factory=dict)
    rows: list[SheetRow] = field(default_factory=list)
    seconds: float = 0.0

    @cached_property
    def shots(self) -> list[Shot]:
        """The views that have a photograph, in the order of the capture."""
        return [shot for shot in self.scene.shots if shot.test and shot.name in self.views]

    @cached_property
    def shown(self) -> set[int]:
        """Places of the views on the sheet, spread over all."""
        count = len(self.shots)
        return set(np.linspace(0, count - 1, min(SHEET_ROWS, count)).round().astype(int).tolist())

    @property
    def half(self) -> bool:
        """Whether looks are fitted on left halves, and right halves alone scored."""
        return self.scene.spec.appearance.at_test == "half"

    def rendered(self, index: int) -> Picture | None:
        """Render a view; a collective. None where this rank has no use for it."""
        shot, row = self.shots[index], None
        if self.half:
            row = row_of(shot.name, self.scene.shots)
            _fit_left_half(self.ensemble, self.scene, row, self.views[shot.name], self.ranks)
        self.ranks.barrier()  # time to render is not time to wait for another rank's files
        start = time.monotonic()
        made = picture(self.ensemble, shot.camera, shot.pose, self.scene, row)
        self.seconds += time.monotonic() - start
        return made if self._is_mine(index) or self._is_shown(index) else None

    def keep(self, index: int, made: Picture | None) -> None:
        """Score and store a picture, and put it on the sheet, as far as this rank does."""
        if made is None:
            return
        shot = self.shots[index]
        truth = opaque(load_image(self.views[shot.name]), background_colour(self.scene.spec.field))
        exact = torch.from_numpy(truth).float() / 255
        colour, depth = made.colour.numpy(), made.depth.numpy()
        if self._is_mine(index):
            first = shot.camera.width // 2 if self.half else 0
            self.scores[index] = score(shot.name, exact[:, first:], made.colour[:, first:])
            save_image(colour, self.folder / file_name(shot.name))
            save_depth(depth, self.folder / file_name(shot.name, MAP), depth_steps(self.scene))
        if self._is_shown(index):
            self.rows.append(SheetRow(shot.name, truth, colour, depth, psnr(exact, made.colour)))

    def of_all_ranks(self) -> list[ImageScore]:
        """The scores of all views, in their order; a collective."""
        found: dict[int, ImageScore] = {}
        for some in self.ranks.gather_json([(at, asdict(one)) for at, one in self.scores.items()]):
            found |= {at: ImageScore(**one) for at, one in some}
        return [found[at] for at in sorted(found)]

    def _is_mine(self, index: int) -> bool:
        return index % self.ranks.size == self.ranks.rank

    def _is_shown(self, index: int) -> bool:
        return self.ranks.first and index in self.shown


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
