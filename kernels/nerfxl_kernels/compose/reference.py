"""The Segment product in plain torch."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def compose(values: Tensor) -> Tensor:
    """See `nerfxl_kernels.compose.op.compose`."""
    return reduce(product, values, values[:0].sum(0))  # of none: zeros, the identity


def product(front: Tensor, behind: Tensor) -> Tensor:
    """Front o behind: [..., 3 + C] each."""
    parts = [1, 1, 1, front.shape[-1] - 3]
    tau_x, moment_x, distortion_x, channels_x = torch.split(front, parts, dim=-1)
    tau_y, moment_y, distortion_y, channels_y = torch.split(behind, parts, dim=-1)
    t = torch.exp(-tau_x)
    opacity_x, opacity_y = -torch.expm1(-tau_x), -torch.expm1(-tau_y)
    cross = 2 * t * (moment_y * opacity_x - opacity_y * moment_x)
    return torch.cat(
        [
            tau_x + tau_y,
            moment_x + t * moment_y,
            distortion_x + t * t * distortion_y + cross,
            channels_x + t * channels_y,
        ],
        dim=-1,
    )
