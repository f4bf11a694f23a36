"""Segments in plain torch: rays padded to the longest, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def segment(
    density: Tensor,
    channels: Tensor,
    length: Tensor,
    middle: Tensor,
    width: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `nerfxl_kernels.segment.op.segment`."""
    counts = offsets.diff()
    column = torch.arange(int(counts.max()) if counts.numel() else 0, device=density.device)
    used = column < counts[:, None]  # [P, S]

    def pad(packed: Tensor) -> Tensor:
        dense = packed.new_zeros(*used.shape, *packed.shape[1:])
        return dense.masked_scatter(used.reshape(used.shape + (1,) * (packed.ndim - 1)), packed)

    tau = pad(density * length)  # [P, S]
    m, delta = pad(middle), pad(width)
    before = torch.nn.functional.pad(tau, (1, 0))[:, :-1].cumsum(-1)
    w = torch.exp(-before) * -torch.expm1(-tau)
    # m ascends, so |m_i - m_j| = m_i - m_j for the j in front of i; each pair counts twice.
    opacity, moment = w.cumsum(-1) - w, (w * m).cumsum(-1) - w * m
    pairs = 2 * (w * (m * opacity - moment)).sum(-1)
    distortion = pairs + (w * w * delta).sum(-1) / 3
    moments = torch.stack([tau.sum(-1), (w * m).sum(-1), distortion], dim=-1)
    values = torch.cat([moments, (w[..., None] * pad(channels)).sum(1)], dim=-1)
    return values, w[used].detach()
