"""The training photographs as one pool of pixels, and random rays drawn from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfxl.cameras import Camera
from nerfxl.captures import View
from nerfxl.randomness import generator
from nerfxl.rays import Rays
from nerfxl.world import WorldTransform

RAYS_OF_STEP, JITTER_OF_STEP = 0, 1


class PixelPool:
    """All pixels of V photographs, uint8, with what makes rays of them.

    Cameras that are alike share one map of directions. Pixels that a mask leaves out, or that the
    camera model cannot invert, are never drawn.
    """

    def __init__(
        self,
        views: Sequence[View],
        images: Sequence[NDArray[np.uint8]],
        masks: Sequence[NDArray[np.bool_] | None],
        world: WorldTransform,
        background: tuple[float, float, float] | None,
        device: torch.device,
    ) -> None:
        self.device = device
        colours, usable, starts = [], [], [0]
        self.maps: list[Tensor] = []  # [H W, 3] unit directions, camera axes
        index_of: dict[Camera, int] = {}
        camera_of_view = []
        for view, image, mask in zip(views, images, masks, strict=True):
            key = view.camera
            if key not in index_of:
                index_of[key] = len(self.maps)
                self.maps.append(torch.from_numpy(key.directions().reshape(-1, 3)).to(device))
            camera_of_view.append(index_of[key])
            flat = opaque(image, background).reshape(-1, 3)
            good = torch.isfinite(self.maps[index_of[key]][:, 0]).cpu()
            if mask is not None:
                good &= torch.from_numpy(mask.reshape(-1))
            usable.append(good)
            colours.append(torch.from_numpy(flat))
            starts.append(starts[-1] + len(flat))
        self.colours = torch.cat(colours).to(device)  # [S, 3] uint8
        every = torch.cat(usable)
        self.usable = None if bool(every.all()) else every.nonzero()[:, 0].to(device)
        self.starts = torch.tensor(starts, device=device)
        self.camera_of_view = torch.tensor(camera_of_view, device=device)
        poses = np.stack([world.poses(view.pose[None])[0] for view in views])
        self.poses = torch.from_numpy(poses).to(device, torch.float32)  # [V, 3, 4]

    def __len__(self) -> int:
        return len(self.colours) if self.usable is None else len(self.usable)

    def batch(self, seed: int, step: int, count: int) -> tuple[Rays, Tensor]:
        """Random rays over all photographs, the same on every rank, and their colours [N, 3]."""
        draw = generator(seed, step, RAYS_OF_STEP)
        pixel = torch.randint(len(self), (count,), generator=draw).to(self.device)
        if self.usable is not None:
            pixel = self.usable[pixel]
        view = torch.searchsorted(self.starts, pixel, right=True) - 1
        inside = pixel - self.starts[view]
        camera = self.camera_of_view[view]
        local = self.maps[0].new_empty(count, 3)
        for index, directions in enumerate(self.maps):
            mine = slice(None) if len(self.maps) == 1 else camera == index
            local[mine] = directions[inside[mine]]
        rotation, origins = self.poses[view, :, :3], self.poses[view, :, 3]
        directions = (rotation @ local[..., None])[..., 0]
        return Rays(origins, directions), self.colours[pixel].float() / 255


def jitter(seed: int, step: int, count: int, device: torch.device) -> Tensor:
    """[N, 2] in [0, 1), from (seed, step, ray) alone."""
    return torch.rand(count, 2, generator=generator(seed, step, JITTER_OF_STEP)).to(device)


def camera_rays(camera: Camera, pose: NDArray[np.float64], device: torch.device) -> Rays:
    """All rays of one picture, row by row; pose: camera-to-world in scene coordinates.

    Pixels that the camera model cannot invert look along the optical axis.
    """
    local = torch.from_numpy(camera.directions().reshape(-1, 3)).to(device)
    local = torch.where(torch.isfinite(local), local, local.new_tensor([0.0, 0.0, 1.0]))
    placed = torch.from_numpy(np.asarray(pose)).to(device, torch.float32)
    return Rays(placed[:, 3].expand(len(local), 3), local @ placed[:, :3].T)


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
