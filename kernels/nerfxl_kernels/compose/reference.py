"""The Segment product in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def compose(values: Tensor, order: Tensor) -> Tensor:
    """See `nerfxl_kernels.compose.op.compose`."""
    along = values.gather(0, order.T[..., None].expand(-1, -1, 6))  # [K, N, 6] front to back
    total = torch.zeros_like(along[0]) if len(along) else values.new_zeros(values.shape[1], 6)
    for tile in along:
        total = product(total, tile)
    return total


def product(front: Tensor, behind: Tensor) -> Tensor:
    """Front o behind: [..., 6] each."""
    tau_x, moment_x, distortion_x, colour_x = torch.split(front, [1, 1, 1, 3], dim=-1)
    tau_y, moment_y, distortion_y, colour_y = torch.split(behind, [1, 1, 1, 3], dim=-1)
    t = torch.exp(-tau_x)
    opacity_x, opacity_y = -torch.expm1(-tau_x), -torch.expm1(-tau_y)
    cross = 2 * t * (moment_y * opacity_x - opacity_y * moment_x)
    return torch.cat(
        [
            tau_x + tau_y,
            moment_x + t * moment_y,
            distortion_x + t * t * distortion_y + cross,
            colour_x + t * colour_y,
        ],
        dim=-1,
    )
