"""The NeRFs of a run, by its training mode: which of them are here, and who makes pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nerfxl.blend import InPicture, InSpace, Painter
from nerfxl.exchange import Replicated, deal
from nerfxl.field import Tile
from nerfxl.model import Model, parameter_counts
from nerfxl.partition import Plan, plan
from nerfxl.plan_report import available_memory
from nerfxl.prepare import RunScene
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Box
from nerfxl.regions import Regions
from nerfxl.runs import RunFolder
from nerfxl.scene.spec import SceneSpec
from nerfxl.scene.training import TrainSpec
from nerfxl.storage.checkpoint import Checkpoint, Origin, fields, load, shard
from nerfxl.storage.paging import TABLE, Paged, Pager

OVERLAP = {"independent-3d": 0.15, "independent-2d": 0.5}  # Mega-NeRF's, Block-NeRF's
FREE_SHARE = 0.5  # of the memory that is free, for hash tables, unless another limit is given
SHARED = "shared."  # begins the names of what an independent NeRF keeps of the shared layers


@dataclass(frozen=True)
class Member:
    """A NeRF that is trained as one.

    numbers: in the run, of the model's tiles. box: only rays that meet it are learned from; None =
    all. group: only cameras inside it are; None = all. cell: what the NeRF is for, of 'independent-
    3d', so that samples outside it can be counted.
    """

    model: Model
    numbers: tuple[int, ...]
    box: Box | None = None
    group: Box | None = None
    cell: Box | None = None

    @property
    def alone(self) -> bool:
        """Whether it is trained by one rank, and shares nothing with the other members."""
        return self.box is not None or self.group is not None

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the fields of a checkpoint; what else it holds is left."""
        if self.alone:
            tensors = checkpoint.tiles[self.numbers[0]]
            self.model.load({0: tensors}, unprefixed(tensors))
        else:
            self.model.load(checkpoint.tiles, checkpoint.shared)


@dataclass(frozen=True)
class Ensemble:
    """The members at hand, and what makes pictures of all of them; `ranks` make each together."""

    members: list[Member]
    painter: Painter
    ranks: Ranks
    pager: Pager | None = None

    @property
    def tiles(self) -> list[int]:
        """What this rank reads of a checkpoint."""
        return [number for member in self.members for number in member.numbers]

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the fields of a checkpoint."""
        for member in self.members:
            member.load(checkpoint)
            for number, tile in zip(member.numbers, member.model.tiles, strict=True):
                if self.pager is not None and isinstance(tile, Paged):
                    self.pager.add(number, tile, checkpoint.folder / shard(number))


def restore(
    run: RunFolder, scene: RunScene, ranks: Ranks, memory: float | None = None, sharing: int = 1
) -> tuple[Ensemble, Checkpoint]:
    """The NeRFs of a run's newest whole checkpoint, to make pictures of; a collective.

    Hash tables are read when they are asked for. memory: GiB that they may take on this rank; where
    more are asked for, they make room for each other. None: half of what is free, which so many
    processes share.

    Raises
    ------
    UserError: none is whole.
    """
    pager = Pager(_room(ranks.device, memory, sharing), ranks.device)
    ensemble = assemble(scene, ranks, pager)
    origin = Origin.of(run, scene.spec.name, scene.plan)

    def wanted(name: str) -> bool:
        return fields(name) and name != TABLE

    found = load(run.checkpoints, origin, ensemble.tiles, ranks, wanted)
    ensemble.load(found)
    settle(ensemble, scene)
    return ensemble, found


def restore_for_pictures(
    run: RunFolder, scene: RunScene, ranks: Ranks, memory: float | None, sharing: int
) -> tuple[Ensemble, Checkpoint]:
    """`restore`, with all tiles on every rank if there is room; a collective.

    Ranks then make pictures of their own, and nobody waits: what a camera sees lies in few tiles,
    and few ranks have work where tiles are shared out. The pictures are the same.
    """
    numbers = sum(parameter_counts(scene.spec)) * len(scene.plan)
    if not ranks.any(4 * numbers > _room(ranks.device, memory, sharing)):
        alone = Ranks(device=ranks.device, threads=ranks.threads)
        made = restore(run, scene, alone, memory, sharing)
        if len(set(ranks.gather_json(made[1].step))) == 1:
            return made  # else a newer one was written meanwhile: they settle on one
    return restore(run, scene, ranks, memory, sharing)


def _room(device: torch.device, memory: float | None, sharing: int) -> float:
    """Bytes for hash tables; see `restore`."""
    if memory is not None:
        return memory * 2**30
    return FREE_SHARE * available_memory(device) / sharing


def settle(ensemble: Ensemble, scene: RunScene) -> None:
    """Give views that nobody took their look, before pictures are made."""
    trained = [row for row, shot in enumerate(scene.shots) if not shot.test]
    for member in ensemble.members:
        member.model.shared.views.settle(trained, scene.spec.appearance.at_test)


def assemble(scene: RunScene, ranks: Ranks, pager: Pager | None = None) -> Ensemble:
    """Make the NeRFs that are this rank's to hold: 'joint' and 'ddp' one, else one an own tile."""
    spec, views = scene.spec, len(scene.shots)
    kind = Tile if pager is None else Paged
    if not spec.train.independent:
        ddp = Replicated(ranks, len(scene.plan)) if spec.train.mode == "ddp" else None
        whole = (spec, scene.plan, scene.near, ranks)
        model = Model(*whole, views=views, exchange=ddp, kind=kind)
        return Ensemble([Member(model, model.exchange.own)], model.renderer, ranks, pager)
    stood = np.stack([shot.pose[:, 3] for shot in scene.shots if not shot.test])
    found = regions(spec, scene.plan, torch.from_numpy(scene.world.points(stood)))
    in_space = spec.train.mode == "independent-3d"
    alone = Ranks(device=ranks.device, threads=ranks.threads)
    members = []
    for k in deal(len(scene.plan), ranks.size)[ranks.rank]:
        if in_space:
            cut = Plan(found.core(k), open=True, nodes=())
            sees = {"box": found.box(k), "cell": scene.plan.tiles[k]}
        else:
            cut = Plan(scene.plan.root, scene.plan.open, nodes=())
            sees = {"group": found.box(k)}
        model = Model(_of_one(spec, k), cut, scene.near, alone, views=views, kind=kind)
        members.append(Member(model, (k,), **sees))
    tiles = [member.model.tiles[0] for member in members]
    shared = [member.model.shared for member in members]
    painter: Painter
    if in_space:
        painter = InSpace(scene.plan, found, tiles, shared, spec.sampling, scene.near, ranks)
    else:
        painter = InPicture(found, [member.model.renderer for member in members], ranks)
    return Ensemble(members, painter, ranks, pager)


def most_ranks(spec: SceneSpec) -> int | None:
    """How many ranks can share a run: one a tile; None, any number, where each holds all."""
    return None if spec.train.mode == "ddp" else spec.partition.tiles


def overlap(train: TrainSpec) -> float:
    """By how much of its edge what an independent NeRF is for is grown."""
    return OVERLAP[train.mode] if train.overlap == "auto" else float(train.overlap)


def regions(spec: SceneSpec, cut: Plan, places: Tensor) -> Regions:
    """What each independent NeRF of a run is for: tiles, or groups of cameras that stand together.

    Groups are cut as tiles are, by the places of the training cameras: [V, 3], scene coordinates.
    """
    if spec.train.mode == "independent-3d":
        return Regions(cut, overlap(spec.train))
    low, high = places.amin(0), places.amax(0)
    least = 0.01 * float((high - low).max().clamp(min=1e-6))  # of a walk on level ground, too
    edges = [(a - least, b + least) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    (ax, bx), (ay, by), (az, bz) = edges
    groups = plan(places, Box((ax, ay, az), (bx, by, bz)), len(cut), open=True)
    return Regions(groups, overlap(spec.train))


def unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shared layers among an independent NeRF's tensors, by their own names."""
    return {
        name.removeprefix(SHARED): value
        for name, value in tensors.items()
        if name.startswith(SHARED)
    }


def _of_one(spec: SceneSpec, k: int) -> SceneSpec:
    """One of the tiles' share of the scene's step: as many samples in all as one scene has."""
    tiles = spec.partition.tiles
    train = spec.train.model_copy(update={"rays": max(1, spec.train.rays // tiles)})
    budget = max(1, spec.sampling.budget // tiles)
    sampling = spec.sampling.model_copy(update={"budget": budget})
    update = {"train": train, "sampling": sampling, "seed": (spec.seed + k) % 2**32}
    return spec.model_copy(update=update)
