"""The NeRFs of a run, by its training mode: which of them are here, and who makes pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nerfxl.blend import InPicture, InSpace, Painter
from nerfxl.checkpoint import Checkpoint
from nerfxl.exchange import Replicated, deal
from nerfxl.model import Model
from nerfxl.partition import Plan, plan
from nerfxl.prepare import RunScene
from nerfxl.ranks import Ranks
from nerfxl.rays import Box
from nerfxl.regions import Regions
from nerfxl.spec import SceneSpec
from nerfxl.spec_training import TrainSpec

OVERLAP = {"independent-3d": 0.15, "independent-2d": 0.5}  # Mega-NeRF's, Block-NeRF's
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
    """The members at hand, and who makes pictures of all of them together."""

    members: list[Member]
    painter: Painter

    @property
    def tiles(self) -> list[int]:
        """What this rank reads of a checkpoint."""
        return [number for member in self.members for number in member.numbers]

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the fields of a checkpoint."""
        for member in self.members:
            member.load(checkpoint)


def assemble(scene: RunScene, ranks: Ranks) -> Ensemble:
    """Make the NeRFs that are this rank's to hold: 'joint' and 'ddp' one, else one an own tile."""
    spec, views = scene.spec, len(scene.shots)
    if not spec.train.independent:
        ddp = Replicated(ranks, len(scene.plan)) if spec.train.mode == "ddp" else None
        model = Model(spec, scene.plan, scene.near, ranks, views=views, exchange=ddp)
        return Ensemble([Member(model, model.exchange.own)], model.renderer)
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
        model = Model(_of_one(spec, k), cut, scene.near, alone, views=views)
        members.append(Member(model, (k,), **sees))
    tiles = [member.model.tiles[0] for member in members]
    shared = [member.model.shared for member in members]
    painter: Painter
    if in_space:
        painter = InSpace(scene.plan, found, tiles, shared, spec.sampling, scene.near, ranks)
    else:
        painter = InPicture(found, [member.model.renderer for member in members], ranks)
    return Ensemble(members, painter)


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
