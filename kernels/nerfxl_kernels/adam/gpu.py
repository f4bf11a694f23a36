"""Sparse Adam in Triton: reads the gradients, and the rest only where they are not zero."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch

_LINES = 256  # a program
_LINE = 4  # entries read and written together where one is touched: a wide load


def adam(
    parameter: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See `nerfxl_kernels.adam.op.adam`."""
    b1, b2 = betas
    size, lines = parameter.numel(), block(_LINES)
    launch(
        _adam,
        (triton.cdiv(size, lines * _LINE),),
        *(parameter.detach(), grad, first, second, size),
        *(b1, b2, 1 - b1, 1 - b2, rate / (1 - b1**step), 1 / math.sqrt(1 - b2**step), eps),
        LINES=lines,
        LINE=_LINE,
    )


@triton.jit
def _adam(
    parameter,
    grad,
    first,
    second,
    size,
    b1: tl.float64,  # unless told so, Triton rounds numbers to float32
    b2: tl.float64,
    rest1: tl.float64,
    rest2: tl.float64,
    rate: tl.float64,
    unbias: tl.float64,
    eps: tl.float64,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
):
    kind: tl.constexpr = parameter.dtype.element_ty
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[:, None]
    i = line * LINE + tl.arange(0, LINE)[None, :]
    g = tl.load(grad + i, mask=i < size, other=0)
    touched = g != 0
    # One answer a line, so that its entries are read and written together.
    met = (tl.max(touched.to(tl.int32), axis=1, keep_dims=True) > 0) & (i < size)
    old = tl.load(parameter + i, mask=met, other=0)
    old_m = tl.load(first + i, mask=met, other=0)
    old_v = tl.load(second + i, mask=met, other=0)
    m = tl.full((), b1, kind) * old_m + tl.full((), rest1, kind) * g
    v = tl.full((), b2, kind) * old_v + tl.full((), rest2, kind) * g * g
    root = tl.sqrt(v) * tl.full((), unbias, kind) + tl.full((), eps, kind)
    new = old - tl.full((), rate, kind) * m / root
    tl.store(parameter + i, tl.where(touched, new, old), mask=met)
    tl.store(first + i, tl.where(touched, m, old_m), mask=met)
    tl.store(second + i, tl.where(touched, v, old_v), mask=met)
    tl.store(grad + i, tl.zeros_like(g), mask=met)
