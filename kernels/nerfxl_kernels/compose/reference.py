"""The Segment product in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def compose(values: Tensor, order: Tensor, own: tuple[int, ...]) -> Tensor:
    """See `nerfxl_kernels.compose.op.compose`."""
    mine = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
    mine[list(own)] = True
    values = torch.where(mine[:, None, None], values, values.detach())
    width = values.shape[2]
    along = values.gather(0, order.T[..., None].expand(-1, -1, width))  # [K, N, 3 + C] by place
    total = torch.zeros_like(along[0]) if len(along) else values.new_zeros(values.shape[1], width)
    for tile in along:
        total = product(total, tile)
    return total


def transmittance(tau: Tensor, order: Tensor) -> Tensor:
    """See `nerfxl_kernels.compose.op.transmittance`."""
    along = tau.gather(0, order.T)  # [K, N] by place
    in_front = torch.nn.functional.pad(along, (0, 0, 1, 0))[:-1].cumsum(0)
    return torch.zeros_like(tau).scatter(0, order.T, torch.exp(-in_front))


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
