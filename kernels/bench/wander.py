"""A kernel that does nothing but read rows at random: the floor under hash encoding on a GPU."""

from __future__ import annotations

import triton
import triton.language as tl
from nerfxl_kernels.gpu import block, launch
from torch import Tensor


def wander(rows: Tensor, sums: Tensor, reads: int) -> Tensor:
    """Read `reads` rows [T, 2] a sum [N], T a power of two, and add them up into the sums."""
    grid = (triton.cdiv(len(sums), block(256)),)
    launch(_wander, grid, rows, sums, len(rows) - 1, reads, len(sums), THREADS=block(256))
    return sums


@triton.jit
def _wander(rows, sums, mask, reads, count, THREADS: tl.constexpr):
    i = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    inside = i < count
    place = i.to(tl.uint32) * 747796405 + 2891336453
    pair = tl.arange(0, 2)[None, :]
    total = tl.zeros((THREADS, 2), tl.float32)
    for _ in range(reads):
        place = place * 1664525 + 1013904223
        row = ((place ^ (place >> 16)) & mask.to(tl.uint32)).to(tl.int64)
        total += tl.load(rows + row[:, None] * 2 + pair, mask=inside[:, None], other=0)
    tl.store(sums + i, tl.sum(total, axis=1), mask=inside)
