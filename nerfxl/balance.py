"""A plan balanced by what a run learned: cut where its samples lie, and measured on other rays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nerfxl.cost import imbalance, ladder
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.model import Model
from nerfxl.partition import Plan, plan
from nerfxl.pixels import jitter
from nerfxl.prepare import Prepared, read_back, same_place, some_rays
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Batch, Rays
from nerfxl.runs import RunFolder
from nerfxl.scene.spec import SceneSpec
from nerfxl.storage.checkpoint import Origin, load

RAYS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class Sampled:
    """Places of a run's samples, [M, 3] in scene coordinates, on a number of training rays."""

    points: Tensor
    rays: int

    def by_tile(self, cut: Plan) -> Tensor:
        """How many lie in each tile of a plan: float64 [K]."""
        return cut.tile_of(self.points).bincount(minlength=len(cut)).double()


@dataclass(frozen=True)
class Balance:
    """Lambda, samples of the busiest rank over their mean, by number of ranks.

    before: of the run's plan; after: of the new one; on the same samples, which the new plan was
    not cut by.
    """

    step: int
    before: dict[int, float]
    after: dict[int, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def balanced(
    prepared: Prepared, run: RunFolder, rays: int, device: torch.device
) -> tuple[Plan, Sampled, Balance]:
    """Cut the scene by the samples of a run of it.

    Half of the random training rays give the places to cut by, the others measure both plans: a
    plan always suits the rays that it was made from.

    Raises
    ------
    UserError: the run is of another capture or box, has no checkpoint, or sees nothing.
    """
    scene = read_back(run)
    if scene.spec.train.independent:
        raise UserError(
            f"--balance {run.path}: its train.mode is {scene.spec.train.mode}, and NeRFs that are "
            "trained alone do not share a ray's samples: name a run of joint or ddp."
        )
    spec, cut = prepared.scene.spec, prepared.plan
    if not same_place(scene.plan, scene.world, cut.root, prepared.world):
        raise UserError(
            f"--balance {run.path}: the run's box is not that of {prepared.scene.path} (capture, "
            "orientation or bounds differ): name a run of this scene."
        )
    ranks = Ranks(device=device)
    model = Model(scene.spec, scene.plan, scene.near, ranks, views=len(scene.shots))
    origin = Origin.of(run, scene.spec.name, scene.plan)
    found = load(run.checkpoints, origin, range(len(scene.plan)), ranks)
    model.load(found.tiles, found.shared)
    drawn = some_rays(prepared.capture, prepared.world, 2 * rays, spec.seed)
    to_cut_by = _sampled(model, scene.spec, drawn[:rays], device)
    to_measure = _sampled(model, scene.spec, drawn[rays:], device)
    if not len(to_measure.points):
        raise UserError(f"--balance {run.path}: its rays have no samples: name another run.")
    new = plan(to_cut_by.points, cut.root, len(cut), cut.open)
    balance = Balance(found.step, _by_ranks(to_measure, scene.plan), _by_ranks(to_measure, new))
    return new, to_measure, balance


def show(found: Balance, run: RunFolder, console: Console) -> None:
    """Print lambda before and after, a line a number of ranks."""
    table = Table(
        title=f"Samples of the busiest rank over their mean, {run.path.name}, step {found.step}",
        box=SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    for heading in ("ranks", "the run's plan", "balanced"):
        table.add_column(heading, justify="right")
    for ranks in sorted({*found.before, *found.after}):
        values = (found.before.get(ranks), found.after.get(ranks))
        table.add_row(f"{ranks}", *("-" if value is None else f"{value:.2f}" for value in values))
    console.print(table)


def _sampled(model: Model, spec: SceneSpec, rays: Rays, device: torch.device) -> Sampled:
    """Send rays through a run's renderer, on one process with all tiles, a chunk at a time."""
    places = []
    for first in range(0, len(rays), RAYS_AT_ONCE):
        some = rays[first : first + RAYS_AT_ONCE]
        some = Rays(some.origins.to(device), some.directions.to(device))
        batch = Batch.of(some, jitter(spec.seed, first, len(some), device))
        points, _ = model.renderer.sample_points(batch, spec.sampling.proposal.padding)
        places.append(points.cpu())
    return Sampled(torch.cat(places), len(rays))


def _by_ranks(sampled: Sampled, cut: Plan) -> dict[int, float]:
    """Lambda of a plan on 2, 4, ... and as many ranks as tiles."""
    held = sampled.by_tile(cut)
    rungs = (ranks for ranks in ladder(len(cut)) if ranks > 1)
    return {ranks: imbalance(held, deal(len(cut), ranks)) for ranks in rungs}
