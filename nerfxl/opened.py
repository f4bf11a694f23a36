"""A fitted run, open in this process: pictures from anywhere, density and colour of any point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.cameras import Camera
from nerfxl.ensemble import Ensemble, restore
from nerfxl.filming.shooting import row_of
from nerfxl.filming.stills import Picture, picture
from nerfxl.prepare import RunScene, Shot, read_back
from nerfxl.processes.cluster import alone
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import RunFolder
from nerfxl.storage.checkpoint import Origin, fields, load
from nerfxl.views import corrected

POINTS_AT_ONCE = 1 << 16

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Opened:
    """A run's newest whole checkpoint, held by this process alone; `open_run` makes it.

    run: its folder. scene: spec, plan, world and views. step: of the checkpoint. All coordinates
    are those of the capture's files, the source's.
    """

    run: RunFolder
    scene: RunScene
    step: int
    ensemble: Ensemble

    @property
    def device(self) -> torch.device:
        """Where the tiles are."""
        return self.ensemble.painter.exchange.ranks.device

    def render(
        self,
        camera: Camera,
        pose: Array,
        like: str | None = None,
        told: Callable[[float], None] | None = None,
    ) -> Picture:
        """Render what a camera sees.

        Parameters
        ----------
        pose: [3, 4], camera-to-world, x right, y down, z forward.
        like: name of a photograph whose look (appearance, exposure) the picture takes, where looks
            were learned; None: that of a view which nobody took.
        told: hears which share is done, piece by piece; what it raises ends the rendering.

        Raises
        ------
        UserError: there is no photograph of that name.
        """
        row = None if like is None else row_of(like, self.scene.shots)
        return picture(self.ensemble, camera, np.asarray(pose, np.float64), self.scene, row, told)

    def query(
        self, points: Tensor, directions: Tensor | None = None, like: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ask the field of N points.

        Parameters
        ----------
        points: [N, 3]. directions: [N, 3], along which they are seen, of any length; None: from
            above, (0, 0, -1). like: see `render`.

        Returns
        -------
        density: [N], 1 / source unit. colour: [N, 3] in [0, 1].

        Raises
        ------
        UserError: the run's NeRFs are blended in pictures, not in space (independent-2d).
        """
        if directions is None:
            directions = torch.tensor([0.0, 0.0, -1.0]).expand(len(points), 3)
        row = None if like is None else row_of(like, self.scene.shots)
        pieces = [torch.split(one, POINTS_AT_ONCE) for one in (points, directions)]
        found = [self._query(some, along, row) for some, along in zip(*pieces, strict=True)]
        if not found:
            return torch.zeros(0), torch.zeros(0, 3)
        density, colour = zip(*found, strict=True)
        return torch.cat(density) * self.scene.world.scale, torch.cat(colour)

    def shots(self) -> list[Shot]:
        """The views, as the run has learned them: poses are corrected where cameras were refined.

        Where several NeRFs each have their own idea of a camera (independent modes), poses are
        those of the capture.
        """
        member = self.ensemble.members[0]
        return learned(self.scene, None if member.alone else member.model.shared.views.pose)

    @torch.no_grad()
    def _query(self, points: Tensor, directions: Tensor, row: int | None) -> tuple[Tensor, Tensor]:
        world = self.scene.world
        placed = torch.from_numpy(world.points(points.detach().double().cpu().numpy()))
        turn = torch.from_numpy(world.rotation)
        seen = torch.nn.functional.normalize(directions.detach().double().cpu() @ turn.T, dim=1)
        rows = len(self.scene.shots) if row is None else row
        view = torch.full((len(points),), rows, device=self.device)
        places, along = (one.to(self.device, torch.float32) for one in (placed, seen))
        density, colour = self.ensemble.painter.query(places, along, view)
        return density.cpu(), colour.cpu()


def learned(scene: RunScene, correction: Tensor | None) -> list[Shot]:
    """The views of a run with corrected poses; held-out ones, which nobody learns from, as given.

    correction: [V + 1, 6], see `Views`; None: poses were not refined.
    """
    if correction is None:
        return list(scene.shots)
    poses = scene.world.poses(np.stack([shot.pose for shot in scene.shots]))
    moved = corrected(poses, correction.detach().double().cpu().numpy()[: len(poses)])
    back = scene.world.inverse().poses(moved)
    pairs = zip(scene.shots, back, strict=True)
    return [shot if shot.test else replace(shot, pose=pose) for shot, pose in pairs]


def learned_shots(run: RunFolder, scene: RunScene) -> list[Shot]:
    """The same, of the newest whole checkpoint, without opening the run.

    Raises
    ------
    UserError: none is whole.
    """
    origin = Origin.of(run, scene.spec.name, scene.plan)
    shared = load(run.checkpoints, origin, (), Ranks(), fields).shared
    return learned(scene, shared.get("views.pose"))


def open_run(
    path: Path | str | None = None,
    output_dir: Path | str = "runs",
    device: str = "auto",
    memory: float | None = None,
) -> Opened:
    """Open the newest whole checkpoint of a run.

    Parameters
    ----------
    path: of the run; None: the run that was started last in output_dir. device: 'auto', 'cpu' or
    'cuda'. memory: GiB that hash tables may take at most; those that do not fit are read from disk
    when they are asked for. None: half of what is free.

    Raises
    ------
    UserError: there is no run, or no whole checkpoint.
    """
    run = RunFolder.newest(Path(output_dir)) if path is None else RunFolder.open(Path(path))
    scene, ranks = read_back(run), alone(device)
    ensemble, found = restore(run, scene, ranks, memory)
    return Opened(run, scene, found.step, ensemble)
