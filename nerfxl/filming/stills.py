"""One view of a fitted scene: its picture, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.cameras import Camera
from nerfxl.ensemble import Ensemble
from nerfxl.pixels import camera_rays
from nerfxl.prepare import RunScene
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Batch, Still
from nerfxl.scene.spec import SceneSpec
from nerfxl.views import corrected

CHUNK = 4096  # rays rendered at once, at most
UNTRAINED = 16  # without gradients, a sample takes this much less memory than in training
DEPTH_REACH = 8.0  # scene units, four root boxes: beyond, a stored depth is unknown
SEEN = 0.5  # opacity from which on something is seen, that has a depth

Array = NDArray[np.float64]
Told = Callable[[float], None]


@dataclass(frozen=True)
class Picture:
    """One rendered view, in source units.

    colour: [H, W, 3] in [0, 1]. depth: [H, W], ray distance. opacity: [H, W] in [0, 1]. spread: [H,
    W], how uncertain the depth is, as a share of it (see `Still`). Where opacity is below a half
    nothing is seen, and depth and spread are NaN.
    """

    colour: Tensor
    depth: Tensor
    opacity: Tensor
    spread: Tensor

    @staticmethod
    def of(colour: Tensor, depth: Tensor, opacity: Tensor, spread: Tensor) -> Picture:
        """A picture without the depth that a `Still` gives to light which ends at nothing."""
        nothing = opacity < SEEN
        depth, spread = (each.masked_fill(nothing, torch.nan) for each in (depth, spread))
        return Picture(colour, depth, opacity, spread)


@torch.no_grad()
def picture(
    ensemble: Ensemble,
    camera: Camera,
    pose: Array,
    scene: RunScene,
    row: int | None = None,
    told: Told | None = None,
) -> Picture:
    """Render one view; a collective of all ranks that hold tiles.

    Parameters
    ----------
    pose: [3, 4], camera-to-world, source coordinates: where the camera stands, whatever is learned
        of the photograph's.
    row: of the photograph whose look it takes; None: of none.
    told: hears, piece by piece, which share is done; what it raises ends the rendering.
    """
    painter, sampling = ensemble.painter, scene.spec.sampling
    exchange = painter.exchange
    device = exchange.ranks.device
    placed = _uncorrected(ensemble, scene.world.poses(pose[None]), row)
    rays = camera_rays(camera, placed[0], device)
    found = rays.origins.new_empty(len(rays), Still.WIDTH)
    size = rays_at_once(scene.spec)
    pieces = math.ceil(len(rays) / size)
    for index in range(pieces):
        # From all over the picture: work for all ranks. But neighbours see the same tiles.
        piece = slice(index, None, pieces)
        if ensemble.pager is not None and ensemble.pager.crowded:
            piece = slice(index * size, (index + 1) * size)
        some = rays[piece]
        count = len(some)
        mine = exchange.mine(count)
        number = torch.arange(count, device=device)[mine]
        still = some.origins.new_full((len(number), 2), 0.5)
        view = None if row is None else torch.full_like(number, row)
        batch = Batch(some[mine], still, number, count, view=view)
        pixels = painter.still(batch, sampling.proposal.padding, sampling.render_samples)
        found[piece] = exchange.whole(pixels.columns(), count)
        if told is not None:
            told((index + 1) / pieces)
    shape = (camera.height, camera.width)
    seen = Still.from_columns(found.cpu())
    flat = (seen.depth / scene.world.scale, seen.opacity, seen.spread)
    colour = seen.colour.clamp(0, 1).reshape(*shape, 3)
    return Picture.of(colour, *(values.reshape(shape) for values in flat))


def _uncorrected(ensemble: Ensemble, poses: Array, row: int | None) -> Array:
    """The poses [N, 3, 4] that what is learned of a photograph's camera brings to these.

    A look is of colours, but the renderer moves a photograph's rays, too. NeRFs that are trained
    alone do so each by their own idea of the camera, and are left to it.
    """
    member = ensemble.members[0]
    learned = None if member.alone else member.model.shared.views.pose
    if row is None or learned is None:
        return poses
    back = -learned[row].detach().double().cpu().numpy()
    return corrected(poses, np.repeat(back[None], len(poses), axis=0))


def turns(count: int, ranks: Ranks) -> Iterator[range]:
    """Places of pictures, as many at a time as there are ranks: each rank then stores one."""
    for first in range(0, count, ranks.size):
        yield range(first, min(first + ranks.size, count))


def depth_steps(scene: RunScene) -> float:
    """Of 16 bits, in a source unit, where depth is stored as far as `DEPTH_REACH`."""
    return 65535 * scene.world.scale / DEPTH_REACH


def rays_at_once(spec: SceneSpec) -> int:
    """How many rays are rendered together: as many as keep memory below that of training."""
    sampling = spec.sampling
    if sampling.method == "proposal":
        bins = max(sampling.render_samples, sampling.proposal.samples)
    else:
        bins = sampling.occupancy.samples
    return max(1, min(CHUNK, UNTRAINED * sampling.budget // bins))


def surface(made: Picture, camera: Camera, pose: Array) -> Array:
    """Where the light of each pixel ends, source coordinates: [H, W, 3]; NaN where nothing is seen.

    pose: [3, 4], camera-to-world.
    """
    away = made.depth.numpy()[..., None]
    return np.asarray((camera.directions() * away) @ pose[:, :3].T + pose[:, 3])


def normals(made: Picture, camera: Camera, pose: Array) -> Array:
    """Unit normals of the surface that depth describes, towards the camera: [H, W, 3].

    Source axes; from the differences between a pixel's neighbours, n = down x right. NaN where a
    neighbour sees nothing, and in pictures of less than two pixels a side.
    """
    points = surface(made, camera, pose)
    ends = np.pad(points, ((1, 1), (1, 1), (0, 0)), mode="edge")
    right, down = ends[1:-1, 2:] - ends[1:-1, :-2], ends[2:, 1:-1] - ends[:-2, 1:-1]
    across = np.cross(down, right)
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 0, across / length, np.nan)


def tile_index(made: Picture, camera: Camera, pose: Array, scene: RunScene) -> NDArray[np.int64]:
    """In which tile the light of each pixel ends: [H, W]; -1 where nothing is seen."""
    points = scene.world.points(surface(made, camera, pose))
    known = np.isfinite(points).all(-1)
    found = np.full(known.shape, -1)
    found[known] = scene.plan.tile_of(torch.from_numpy(points[known]).float()).numpy()
    return found
