"""Hash encoding in plain torch: any device, any dtype, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

_P1, _P2 = 2654435761, 805459861


def hash_encoding(
    points: Tensor, table: Tensor, cells: tuple[int, ...], accumulate_into: Tensor | None = None
) -> Tensor:
    """See `nerfxl_kernels.hash_encoding.op.hash_encoding`."""
    if accumulate_into is not None and table.requires_grad and torch.is_grad_enabled():
        table = table.detach().to(points.dtype).requires_grad_()
        buffer = accumulate_into
        table.register_hook(buffer.add_)  # type: ignore[no-untyped-call]
    table, rows = table.to(points.dtype), table.shape[1]
    return torch.cat([_level(points, table[i], n, rows) for i, n in enumerate(cells)], dim=-1)


def _level(points: Tensor, table: Tensor, n: int, rows: int) -> Tensor:
    position = points.clamp(0, 1) * n  # [M, 3]
    corner = position.detach().floor().clamp(max=n - 1)
    offset = position - corner
    corner = corner.long()
    out = points.new_zeros(points.shape[0], table.shape[-1])
    for bits in range(8):
        far = torch.tensor([bits & 1, bits >> 1 & 1, bits >> 2 & 1], device=points.device)
        weight = torch.where(far.bool(), offset, 1 - offset).prod(dim=-1, keepdim=True)
        out = out + weight * table[_row(corner + far, n, rows)]
    return out


def _row(vertex: Tensor, n: int, rows: int) -> Tensor:
    x, y, z = vertex.unbind(-1)
    if (n + 1) ** 3 <= rows:
        return x + (n + 1) * (y + (n + 1) * z)
    return (x ^ (y * _P1) ^ (z * _P2)) & (rows - 1)
