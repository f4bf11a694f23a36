"""The seam test: error in the pixels that see a surface near a tile's face, and in all others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nerfxl.captures import load_image
from nerfxl.field import background_colour
from nerfxl.metrics import LARGEST_PSNR
from nerfxl.partition import Plan
from nerfxl.pictures import DEPTHS, file_name, load_depth
from nerfxl.pixels import camera_rays, opaque
from nerfxl.prepare import photographs, read_back
from nerfxl.runs import RunFolder
from nerfxl.study.cells import scored
from nerfxl.study.grid import Cell

REACH = 0.02  # of the root box's longest edge: so near to a face is the band
OUTER = 0.001  # likewise: so near to the root box a closed plan's ray has left it


@dataclass(frozen=True, eq=False)
class Seen:
    """A held-out view: its photograph, and what of it is the band and what the rest.

    truth: [H, W, 3] bytes. band, rest: [H, W]; neither where no surface is seen.
    """

    name: str
    truth: NDArray[np.uint8]
    band: NDArray[np.bool_]
    rest: NDArray[np.bool_]


def measured(runs: Mapping[Cell, RunFolder]) -> dict[Cell, dict[str, float]]:
    """PSNR of band and rest, dB, each over the pixels of all held-out views; the band's share.

    Where surfaces are, the joint run of the same seed says: the pixels are the same for all.
    """
    found: dict[Cell, dict[str, float]] = {}
    for joint, reference in runs.items():
        if joint.mode != "joint" or joint.uncut:
            continue
        alike = {cell: run for cell, run in runs.items() if cell.seed == joint.seed}
        sums = {cell: np.zeros(2) for cell in alike}  # squared error of band and rest
        pixels = np.zeros(2)
        for seen in views(reference):
            parts = (seen.band, seen.rest)
            pixels += [part.sum() for part in parts]
            for cell, run in alike.items():
                squared = ((rendered(run, seen.name) - seen.truth / 255.0) ** 2).mean(-1)
                sums[cell] += [squared[part].sum() for part in parts]
        if pixels.all():
            for cell in alike:
                band, rest = (_psnr(value) for value in sums[cell] / pixels)
                share = float(pixels[0] / pixels.sum())
                found[cell] = {"band_psnr": band, "rest_psnr": rest, "band_share": share}
    return found


def views(reference: RunFolder) -> Iterator[Seen]:
    """The held-out views of a run, by the surfaces that it has found."""
    scene = read_back(reference)
    behind = background_colour(scene.spec.field)
    shots = {shot.name: shot for shot in scene.shots if shot.test}
    for view in photographs(reference, scene.spec, scene.shots).test:
        shot = shots[view.name]
        depth = load_depth(scored(reference) / DEPTHS / file_name(view.name))
        rays = camera_rays(shot.camera, scene.world.poses(shot.pose[None])[0], torch.device("cpu"))
        t = torch.from_numpy(depth.reshape(-1) * scene.world.scale).float()
        band, rest = parted(scene.plan, rays.at(t), t.isfinite())
        shape = depth.shape
        yield Seen(
            view.name,
            opaque(load_image(view), behind),
            band.numpy().reshape(shape),
            rest.numpy().reshape(shape),
        )


def parted(plan: Plan, points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Points on surfaces [N, 3], of which some are known [N] -> the band [N] and the rest [N].

    The band is what lies within REACH of a face between two tiles, faces that go on to infinity
    included: so near that either tile's samples, or a blend of both, make the pixel. A ray that
    changes tiles that little in front of its surface has its surface in the band. Of a closed plan,
    what lies on the root box is no surface: there the ray has left it.
    """
    edge = max(plan.root.size)
    low, high = (torch.tensor(side).to(points) for side in (plan.root.low, plan.root.high))
    if not plan.open:
        inner = torch.minimum(points - low, high - points).amin(1) > OUTER * edge
        known = known & inner
    # The faces of a tile that others share, and infinity in place of those of the root box.
    tiles = Plan(plan.root, True, plan.nodes).tiles
    faces = torch.tensor([[*tile.low, *tile.high] for tile in tiles]).to(points)
    own = faces[plan.tile_of(torch.where(known[:, None], points, 0))]  # [N, 6]
    distance = torch.minimum(points - own[:, :3], own[:, 3:] - points).amin(1)
    near = distance <= REACH * edge
    return known & near, known & ~near


def rendered(run: RunFolder, name: str) -> NDArray[np.float64]:
    """What a run has rendered of a held-out view: [H, W, 3] in [0, 1]."""
    with Image.open(scored(run) / file_name(name)) as picture:
        return np.asarray(picture.convert("RGB"), np.float64) / 255


def _psnr(squared: float) -> float:
    return min(-10 * math.log10(max(squared, 1e-30)), LARGEST_PSNR)
