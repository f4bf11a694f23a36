"""What is learned of each photograph: where it was taken from, how it looks, how it was exposed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nerfxl.rays import Rays
from nerfxl.scene.training import AppearanceSpec, CamerasSpec


class Views(nn.Module):
    """Rows of what is learned of V photographs, and one more, V, of none: a view nobody took.

    pose: [V + 1, 6], a rotation vector (radians) and a translation (scene units), both along the
    scene's axes; the camera turns about its own centre. appearance: [V + 1, E]. gain, offset:
    [V + 1, 3], of each channel of the composed pixel. All are zero at the start, and what is off
    has no rows.
    """

    pose: nn.Parameter | None
    appearance: nn.Parameter | None
    gain: nn.Parameter | None
    offset: nn.Parameter | None

    def __init__(self, cameras: CamerasSpec, appearance: AppearanceSpec, count: int) -> None:
        super().__init__()
        self.count, self.translates_only = count, cameras.refine == "translation"
        widths = {
            "pose": 6 * (cameras.refine != "off"),
            "appearance": appearance.size * (appearance.embedding == "on"),
            "gain": 3 * (appearance.exposure == "on"),
            "offset": 3 * (appearance.exposure == "on"),
        }
        for name, width in widths.items():
            rows = nn.Parameter(torch.zeros(count + 1, width)) if width else None
            self.register_parameter(name, rows)

    @property
    def learns(self) -> bool:
        """Whether it matters which photograph a ray is of."""
        return any(True for _ in self.parameters())

    def rows(self, view: Tensor | None, like: Tensor) -> Tensor:
        """The rows of N rays; those of no photograph where none is given."""
        if view is None:
            return torch.full((len(like),), self.count, device=like.device)
        return view

    def placed(self, rays: Rays, view: Tensor) -> Rays:
        """Rays [N] of photographs [N], from where the photographs were taken."""
        if self.pose is None:
            return rays
        turn, shift = torch.split(_of(self.pose, view), 3, 1)
        directions = rays.directions
        if not self.translates_only:
            rotation = roma.rotvec_to_rotmat(turn)
            directions = (rotation @ directions[..., None])[..., 0]
        return Rays(rays.origins + shift, directions)

    def looks(self, view: Tensor) -> Tensor | None:
        """Appearance [N, E] of photographs [N]; None if there is none."""
        return None if self.appearance is None else _of(self.appearance, view)

    def exposed(self, colour: Tensor, view: Tensor, own: bool = True) -> Tensor:
        """Pixels [N, 3] as photographs [N] show them: exp(gain) * colour + offset.

        own: whether what is learned here takes a gradient; the colour always does.
        """
        if self.gain is None or self.offset is None:
            return colour
        gain, offset = _of(self.gain, view), _of(self.offset, view)
        if not own:
            gain, offset = gain.detach(), offset.detach()
        return torch.exp(gain) * colour + offset

    @torch.no_grad()
    def settle(self, seen: Sequence[int], how: str) -> None:
        """Give views that nobody took, and those that no step has seen, a look.

        seen: rows of the training photographs. how: 'zero', or else the mean of theirs.
        """
        rest = torch.ones(self.count + 1, dtype=torch.bool)
        rest[list(seen)] = False
        for rows in (self.appearance, self.gain, self.offset):
            if rows is not None:
                rows[rest.to(rows.device)] = 0 if how == "zero" else rows[list(seen)].mean(0)


def corrected(poses: NDArray[np.float64], correction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses [V, 3, 4] turned by rotation vectors and moved, both along the world's axes: [V, 6]."""
    axes = rotation(correction[:, :3]) @ poses[:, :, :3]
    return np.concatenate([axes, (poses[:, :, 3] + correction[:, 3:])[..., None]], axis=-1)


def rotation(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices [V, 3, 3] of rotation vectors [V, 3]."""
    turned: NDArray[np.float64] = roma.rotvec_to_rotmat(torch.from_numpy(vectors)).numpy()
    return turned


def penalise(pose: Tensor, weight: float, count: int) -> None:
    """Add to its gradient that of weight * the mean over `count` photographs of |pose|^2."""
    assert pose.grad is not None
    pose.grad.add_(pose.detach(), alpha=2 * weight / max(1, count))


def _of(rows: Tensor, view: Tensor) -> Tensor:
    # Indexing would add up gradients in an order that depends on threads.
    return rows.index_select(0, view)
