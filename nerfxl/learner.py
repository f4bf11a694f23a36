"""A NeRF that learns: its photographs, its rays, its loss, its gradients, its optimisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.captures import Capture, View, load_image, load_mask, load_sky
from nerfxl.ensemble import SHARED, Member, unprefixed
from nerfxl.errors import UserError
from nerfxl.field import background_colour
from nerfxl.losses import loss
from nerfxl.optimiser import Optimiser, learning_rate, pose_rate
from nerfxl.pixels import PixelPool, camera_rays, dealt
from nerfxl.prepare import RunScene
from nerfxl.rays import Truth
from nerfxl.regions import holds, meets
from nerfxl.render import Cast
from nerfxl.scene.spec import SceneSpec
from nerfxl.storage.checkpoint import Checkpoint
from nerfxl.tally import Seen
from nerfxl.views import penalise

POSE = "views.pose"  # name of the corrections among what tiles share
EXPOSURE = ("views.gain", "views.offset")
EXPOSURE_PACE = 0.1  # of the learning rate: few rays of a step are of one image
RAYS = "rays"  # name of the tensor that keeps how many rays an independent NeRF takes


@dataclass(frozen=True)
class Ahead:
    """A batch that is on its way to the tiles, and what it should find."""

    cast: Cast
    truth: Truth


class Learner:
    """A member of a run's ensemble, with all that it needs to learn.

    Each step is `see`, `back`, and, if all is finite, `update`; of 'joint' and 'ddp' these are
    collectives. where: the scene file, for errors.
    """

    def __init__(self, member: Member, scene: RunScene, capture: Capture, where: Path) -> None:
        self.member, self.model = member, member.model
        self.spec: SceneSpec = member.model.spec
        eps = self.spec.train.eps
        self.tiles = [Optimiser(dict(t.named_parameters()), eps) for t in self.model.tiles]
        shared = dict(self.model.shared.named_parameters())
        self.poses = Optimiser({n: p for n, p in shared.items() if n == POSE}, eps)
        self.exposures = Optimiser({n: p for n, p in shared.items() if n in EXPOSURE}, eps)
        rest = {n: p for n, p in shared.items() if n != POSE and n not in EXPOSURE}
        self.shared = Optimiser(rest, eps)
        self.trained = [index for index, shot in enumerate(scene.shots) if not shot.test]
        self.pool = _pool(member, scene, capture, where)
        self.count = first_rays(self.spec)
        self.ahead: Ahead | None = None

    @property
    def refines(self) -> bool:
        """Whether poses are learned: then a step's rays wait for the update of the one before."""
        return bool(self.poses.parameters)

    def begin(self, step: int) -> None:
        """Draw the rays of a step, cut them by the plan, and send them to their tiles."""
        self._cast(step)
        self._depart()

    def see(self, step: int) -> tuple[Seen, Cast]:
        """Rays that have departed -> pixels -> loss."""
        now, self.ahead = self.ahead, None
        assert now is not None
        if self.refines:
            for tile in self.model.tiles:
                tile.open_levels(opened(step, self.spec))
        spec, model = self.spec, self.model
        pixels, proposal_loss = model.renderer(
            now.cast, padding(step, spec), learn_proposal=learns_proposal(step, spec)
        )
        total, squared = loss(pixels, now.truth, spec.train.losses, now.cast.batch.count)
        total = total + spec.sampling.proposal.weight * proposal_loss
        if spec.sampling.method == "occupancy":
            samples = model.exchange.ranks.total(pixels.samples)[0]
            self.count = next_rays(spec, self.count, samples)
        return Seen(total, squared, proposal_loss.detach(), pixels.samples), now.cast

    def back(self, step: int, seen: Seen, last: bool) -> None:
        """Gradients, while the rays of the next step travel."""
        if not last and not self.refines:
            self._cast(step + 1)
        seen.loss.backward()  # type: ignore[no-untyped-call]
        if not last and not self.refines:
            self._depart()

    def update(self, step: int, last: bool) -> None:
        """Take the step that the gradients ask for."""
        model, train, cameras = self.model, self.spec.train, self.spec.cameras
        model.sum_gradients()
        rate = learning_rate(step, train)
        for optimiser in (*self.tiles, self.shared):
            optimiser.step(step, rate)
        self.exposures.step(step, EXPOSURE_PACE * rate)
        if model.shared.views.pose is not None:
            penalise(model.shared.views.pose, cameras.weight, len(self.trained))
            begun = step - cameras.warmup_steps
            if begun > 0:
                self.poses.step(begun, pose_rate(begun, cameras, train))
            else:
                model.shared.views.pose.grad = None
        for tile in model.tiles:
            if tile.occupancy is not None:
                tile.occupancy.update(tile, step - 1)
        if self.refines and not last:
            self.begin(step + 1)

    def stop(self) -> None:
        """Leave nothing on its way."""
        if self.ahead is not None:
            self.ahead.cast.route.arrive()

    def stored(self) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor]]:
        """Tensors of the tiles that this rank writes, by their numbers, and of what they share."""
        model = self.model
        shared = dict(model.shared.state_dict())
        for optimiser in (self.shared, self.exposures, self.poses):
            shared |= optimiser.state()
        tiles = {
            number: {**tile.state_dict(), **optimiser.state()}
            for number, tile, optimiser in zip(
                self.member.numbers, model.tiles, self.tiles, strict=True
            )
            if tile.index in model.exchange.keeps
        }
        if not self.member.alone:
            return tiles, shared
        (tensors,) = tiles.values()
        tensors |= {SHARED + name: value for name, value in shared.items()}
        tensors[RAYS] = torch.tensor(self.count)
        return tiles, {}

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.member.load(checkpoint)
        for number, optimiser in zip(self.member.numbers, self.tiles, strict=True):
            optimiser.load(checkpoint.tiles[number])
        shared: Mapping[str, Tensor] = checkpoint.shared
        if self.member.alone:
            tensors = checkpoint.tiles[self.member.numbers[0]]
            shared, self.count = unprefixed(tensors), int(tensors[RAYS])
        else:
            self.count = int(checkpoint.meta["rays"])
        for optimiser in (self.shared, self.exposures, self.poses):
            optimiser.load(shared)

    def outside(self, step: int, cast: Cast) -> tuple[int, int] | None:
        """Of the samples of a step's rays: how many lie outside the own tile, of how many."""
        if self.member.cell is None:
            return None
        points, _ = self.model.renderer.sample_points(cast.batch, padding(step, self.spec))
        return int((~holds(self.member.cell, points)).sum()), len(points)

    def _cast(self, step: int) -> None:
        batch, truth = self.pool.batch(self.spec.seed, step, self.count)
        draws = self.model.exchange.draws
        if draws != slice(None):
            batch, truth = batch.some(draws), truth.some(draws)
        self.ahead = Ahead(self.model.renderer.cast(batch), truth)

    def _depart(self) -> None:
        assert self.ahead is not None
        self.model.renderer.depart(self.ahead.cast)


def padding(step: int, spec: SceneSpec) -> float:
    """How evenly samples are spread: evenly at first, then as the proposal says."""
    warmup = spec.sampling.proposal.warmup
    even = 1 - step / warmup if warmup else 0.0
    return max(spec.sampling.proposal.padding, even)


def opened(step: int, spec: SceneSpec) -> float:
    """How much of the hash grid is in use at a step, while poses are refined (see `Tile`)."""
    over = spec.cameras.coarse_to_fine * spec.train.steps
    return min(1.0, step / over) if over else 1.0


def first_rays(spec: SceneSpec) -> int:
    """Rays of the first step: as many as fit the budget if no cell is empty."""
    sampling = spec.sampling
    if sampling.method == "proposal":
        return spec.train.rays
    return max(1, min(spec.train.rays, sampling.budget // sampling.occupancy.samples))


def next_rays(spec: SceneSpec, rays: int, samples: int) -> int:
    """Rays of the next step: as many as fit the budget at this step's samples a ray.

    samples: of all ranks, a whole number, so that the answer does not depend on how many they are.
    """
    return max(1, min(spec.train.rays, spec.sampling.budget * rays // max(1, samples)))


def learns_proposal(step: int, spec: SceneSpec) -> bool:
    """Whether the proposals take a gradient at this step."""
    proposal = spec.sampling.proposal
    due = step <= proposal.warmup or step % proposal.every == 0
    return spec.sampling.method == "proposal" and due


def _pool(member: Member, scene: RunScene, capture: Capture, where: Path) -> PixelPool:
    """Load the photographs that a member learns from; a collective of those who share it.

    where: the scene file, for errors.
    """
    exchange, losses = member.model.exchange, scene.spec.train.losses
    ranks = exchange.ranks
    views = dealt(_chosen(member, scene, capture.train), exchange.tiles, exchange.loads)
    masks = [_mask(member, scene, view) for _, view in views]
    shows = [mask is None or bool(mask.any()) for mask in masks]
    views, masks = list(compress(views, shows)), list(compress(masks, shows))
    row = {shot.name: index for index, shot in enumerate(scene.shots)}
    pool = PixelPool(
        views,
        (load_image(view) for _, view in views),
        masks,
        scene.world,
        background_colour(scene.spec.field),
        ranks.device,
        [row[view.name] for _, view in views],
        depth_rays=losses.depth_rays if losses.depth else 0.0,
        skies=(load_sky(view) for _, view in views) if losses.sky else None,
    )
    own = [pixels * (k in exchange.keeps) for k, pixels in enumerate(pool.held(exchange.tiles))]
    pool.agree(ranks.total(*own))
    if losses.depth and not ranks.total(len(pool.sighted))[0]:
        raise UserError(
            f"{where}: train.losses.depth is {losses.depth:g}, and no keypoint of the "
            f"{len(views)} images to fit of {capture.root} belongs to a point; give a COLMAP model "
            "whose images name their points, or set train.losses.depth to 0."
        )
    if sum(pool.totals):
        return pool
    if member.alone:
        what = "shows tile" if member.group is None else "was taken in camera group"
        raise UserError(
            f"{capture.root}: no pixel of the {len(capture.train)} training photographs {what} "
            f"{member.numbers[0]}, so that its NeRF cannot be trained alone; set partition.tiles "
            "lower, or train.mode to joint."
        )
    raise UserError(
        f"{capture.root}: no pixel is left to learn from, the masks or the lenses of all "
        f"{len(capture.train)} photographs leave out every one; correct them."
    )


def _chosen(member: Member, scene: RunScene, views: Sequence[View]) -> list[View]:
    """The photographs whose cameras stood in the member's group."""
    if member.group is None:
        return list(views)
    stood = scene.world.points(np.stack([view.pose[:, 3] for view in views]))
    return list(compress(views, holds(member.group, torch.from_numpy(stood)).tolist()))


def _mask(member: Member, scene: RunScene, view: View) -> NDArray[np.bool_] | None:
    """Pixels of a view that the member learns from: [H, W] bool, or None for all."""
    mask = load_mask(view)
    if member.box is None:
        return mask
    rays = camera_rays(view.camera, scene.world.poses(view.pose[None])[0], torch.device("cpu"))
    met = meets(member.box, rays).reshape(view.camera.height, view.camera.width).numpy()
    return met if mask is None else met & mask
