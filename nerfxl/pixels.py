"""The training photographs as a pool of pixels, in parts, and random rays drawn from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate, pairwise, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.cameras import Camera
from nerfxl.captures import View
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Rays, Truth
from nerfxl.world import WorldTransform

RAYS_OF_STEP, JITTER_OF_STEP, SIGHTINGS_OF_STEP = 0, 1, 2
EMPTY = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Part:
    """What of a pool belongs to one tile's part.

    first: where its pixels start. pixels: how many they are. first_sighting, sightings: the same of
    the pixels that saw a point.
    """

    first: int
    pixels: int
    first_sighting: int = 0
    sightings: int = 0


def dealt(views: Sequence[View], parts: int, loads: Sequence[int]) -> list[tuple[int, View]]:
    """Deal photographs to parts, the i-th to part i modulo `parts`: those that are loaded here."""
    return [(part, view) for part in loads for view in views[part::parts]]


class PixelPool:
    """The pixels of the photographs that a rank loads, uint8, with what makes rays of them.

    Every batch draws from each part as many rays as its pixels are of all, and so does not depend
    on who loads what. Cameras that are alike share one map of directions. Pixels that a mask leaves
    out, or that the camera model cannot invert, are never drawn.

    Parameters
    ----------
    views: what is loaded, with the part each belongs to, part by part (see `dealt`).
    images, masks: theirs, in the same order; they may be read as they are asked for.
    world: places them. background: blended behind transparent pixels. device: where all lies.
    rows: of the views among all photographs of the run (see `Views`); their places here if None.
    depth_rays: the share of the rays that go through sightings; 0 = they are not read.
    skies: where the sky is seen, as the masks; None = not known anywhere.
    """

    def __init__(
        self,
        views: Sequence[tuple[int, View]],
        images: Iterable[NDArray[np.uint8]],
        masks: Iterable[NDArray[np.bool_] | None],
        world: WorldTransform,
        background: tuple[float, float, float] | None,
        device: torch.device,
        rows: Sequence[int] | None = None,
        depth_rays: float = 0.0,
        skies: Iterable[NDArray[np.bool_] | None] | None = None,
    ) -> None:
        self.device, self.depth_rays = device, depth_rays
        held_rows = range(len(views)) if rows is None else rows
        self.rows = torch.tensor(held_rows, dtype=torch.int64, device=device)
        self.parts: dict[int, Part] = {}
        self.maps: list[Tensor] = []  # [H W, 3] unit directions, camera axes
        index_of: dict[Camera, int] = {}
        colours, usable, starts, camera_of_view = [], [], [0], []
        sky, sightings = [], [torch.zeros(0, 2, dtype=torch.float64)]
        of_sky = repeat(None, len(views)) if skies is None else skies
        for (part, view), image, mask, above in zip(views, images, masks, of_sky, strict=True):
            key = view.camera
            if key not in index_of:
                index_of[key] = len(self.maps)
                self.maps.append(torch.from_numpy(key.directions().reshape(-1, 3)).to(device))
            camera_of_view.append(index_of[key])
            flat = opaque(image, background).reshape(-1, 3)
            good = torch.isfinite(self.maps[index_of[key]][:, 0]).cpu()
            if mask is not None:
                good &= _flat(mask)
            held = self.parts.get(part) or Part(len(self), 0, sum(map(len, sightings)))
            if depth_rays:
                sightings.append(_sightings(view, good, starts[-1], world.scale))
                held = replace(held, sightings=held.sightings + len(sightings[-1]))
            self.parts[part] = replace(held, pixels=held.pixels + int(good.sum()))
            if skies is not None:
                sky.append(torch.zeros_like(good) if above is None else _flat(above))
            usable.append(good)
            colours.append(torch.from_numpy(flat))
            starts.append(starts[-1] + len(flat))
        self.colours = torch.cat([torch.zeros(0, 3, dtype=torch.uint8), *colours]).to(device)
        every = torch.cat([torch.zeros(0, dtype=torch.bool), *usable])
        self.usable = None if bool(every.all()) else every.nonzero()[:, 0].to(device)
        self.sky = torch.cat(sky).to(device) if sky else None
        pixel, distance = torch.cat(sightings).unbind(1)
        self.sighted, self.distances = pixel.long().to(device), distance.float().to(device)
        self.starts = torch.tensor(starts, device=device)
        self.camera_of_view = torch.tensor(camera_of_view, dtype=torch.int64, device=device)
        poses = np.array([world.poses(view.pose[None])[0] for _, view in views]).reshape(-1, 3, 4)
        self.poses = torch.from_numpy(poses).to(device, torch.float32)  # [V, 3, 4]
        self.totals = self.held(1 + max(self.parts, default=0))

    def __len__(self) -> int:
        return sum(part.pixels for part in self.parts.values())

    def held(self, parts: int) -> list[int]:
        """Pixels of each part that are loaded here."""
        return [self.parts[k].pixels if k in self.parts else 0 for k in range(parts)]

    def agree(self, totals: Sequence[int]) -> None:
        """Learn how many pixels each part has, wherever it is loaded; a batch needs to know."""
        self.totals = list(totals)

    def batch(self, seed: int, step: int, count: int) -> tuple[Batch, Truth]:
        """Random rays over all photographs, of the parts loaded, and what they should find."""
        ends = [count * end // max(1, sum(self.totals)) for end in accumulate(self.totals)]
        starts = [0, *ends]
        number = torch.cat([torch.arange(starts[k], ends[k]) for k in self.parts] or [EMPTY])
        sizes = torch.tensor([ends[k] - starts[k] for k in self.parts], dtype=torch.int64)
        rows = torch.tensor([astuple(part) for part in self.parts.values()], dtype=torch.int64)
        first, pixels, first_sighting, sightings = rows.reshape(-1, 4).repeat_interleave(sizes, 0).T
        draw = torch.rand(count, generator=generator(seed, step, RAYS_OF_STEP), dtype=torch.float64)
        draw = draw[number]
        pixel = (first + (draw * pixels).long()).to(self.device)
        if self.usable is not None:
            pixel = self.usable[pixel]
        distance = self.poses.new_zeros(len(pixel))
        if self.depth_rays:
            aside = set_aside(seed, step, count, self.depth_rays)[number]
            aimed = (aside & (sightings > 0)).nonzero()[:, 0]
            chosen = (first_sighting + (draw * sightings).long())[aimed].to(self.device)
            aimed = aimed.to(self.device)
            pixel[aimed], distance[aimed] = self.sighted[chosen], self.distances[chosen]
        cuts = pairwise(accumulate(sizes.tolist(), initial=0))
        parts = zip(self.parts, (slice(*cut) for cut in cuts), strict=True)
        shift = jitter(seed, step, count, torch.device("cpu"))[number]
        everything = (shift.to(self.device), number.to(self.device), count, tuple(parts))
        sky = pixel.new_zeros(len(pixel), dtype=torch.bool) if self.sky is None else self.sky[pixel]
        truth = Truth(self.colours[pixel].float() / 255, distance, sky)
        rays, view = self._look(pixel)
        return Batch(rays, *everything, self.rows[view]), truth

    def _look(self, pixel: Tensor) -> tuple[Rays, Tensor]:
        """Rays of pixels [n] that are usable, and their views."""
        view = torch.searchsorted(self.starts, pixel, right=True) - 1
        inside = pixel - self.starts[view]
        camera = self.camera_of_view[view]
        local = self.poses.new_empty(len(pixel), 3)
        for index, directions in enumerate(self.maps):
            mine = slice(None) if len(self.maps) == 1 else camera == index
            local[mine] = directions[inside[mine]]
        rotation, origins = self.poses[view, :, :3], self.poses[view, :, 3]
        directions = (rotation @ local[..., None])[..., 0]
        return Rays(origins, directions), view


def jitter(seed: int, step: int, count: int, device: torch.device) -> Tensor:
    """[N, 2] in [0, 1), from (seed, step, ray) alone."""
    return torch.rand(count, 2, generator=generator(seed, step, JITTER_OF_STEP)).to(device)


def set_aside(seed: int, step: int, count: int, share: float) -> Tensor:
    """Which rays of a step go through sightings if they can: [N] bool, from (seed, step) alone.

    Evenly through the batch, so that each part has its share, from a random start, so that small
    parts take turns.
    """
    start = torch.rand((), generator=generator(seed, step, SIGHTINGS_OF_STEP), dtype=torch.float64)
    number = torch.arange(count + 1, dtype=torch.float64)
    return (start + share * number).floor().diff() > 0


def camera_rays(camera: Camera, pose: NDArray[np.float64], device: torch.device) -> Rays:
    """All rays of one picture, row by row; pose: camera-to-world in scene coordinates.

    Pixels that the camera model cannot invert look along the optical axis.
    """
    local = torch.from_numpy(camera.directions().reshape(-1, 3)).to(device)
    local = torch.where(torch.isfinite(local), local, local.new_tensor([0.0, 0.0, 1.0]))
    placed = torch.from_numpy(np.asarray(pose)).to(device, torch.float32)
    return Rays(placed[:, 3].expand(len(local), 3), local @ placed[:, :3].T)


def _sightings(view: View, good: Tensor, start: int, scale: float) -> Tensor:
    """The pixel, counted from `start`, and the distance, scene units, of each sighting: [S, 2].

    good: [H W], the pixels that are usable. scale: scene units of a source unit.
    """
    found = torch.from_numpy(view.sightings())
    column, row = found[:, :2].long().unbind(1)
    pixel = row * view.camera.width + column
    away = found[:, 2:] - torch.from_numpy(view.pose[:, 3])
    return torch.stack([start + pixel, scale * away.norm(dim=1)], 1)[good[pixel]]


def _flat(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask.reshape(-1))


def opaque(
    image: NDArray[np.uint8], background: tuple[float, float, float] | None
) -> NDArray[np.uint8]:
    """Blend an RGBA image over a constant background; RGB passes unchanged: uint8 [H, W, 3].

    With a learned background there is nothing to blend with: alpha is then dropped.
    """
    if image.shape[-1] == 3 or background is None:
        return np.ascontiguousarray(image[..., :3])
    alpha = image[..., 3:].astype(np.float32) / 255
    behind = np.asarray(background, np.float32) * 255
    blended = image[..., :3] * alpha + behind * (1 - alpha)
    return (blended + 0.5).astype(np.uint8)
