"""The perceptron in Triton: a block of points passes all layers without leaving the chip.

Backward recomputes the hidden layers. A program of it takes every so many blocks and sums the
gradients of the weights over them; torch adds up the programs. So there are no atomics, and on one
kind of GPU the result is the same to the last bit.

`tl.dot` cuts its operands to TF32 where the GPU has that: three bits more than bfloat16, and the
range of float32, so that small gradients do not vanish as they would in float16. Sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nerfxl_kernels.gpu import block, launch

_POINTS = 64  # a block of forward


def forward(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[M, D_0] -> [M, D_n]."""
    out = x.new_empty(len(x), weights[-1].shape[1])
    points = block(_POINTS)
    arguments = (x, pack(weights), out, len(x), *x.stride())
    launch(_forward, (triton.cdiv(len(x), points),), *arguments, **shape(weights), POINTS=points)
    return out


def backward(
    x: Tensor, weights: Sequence[Tensor], grad: Tensor, wants_input: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of x (or None) and of each weight from that of the output [M, D_n]."""
    grad_x = torch.empty_like(x) if wants_input else None  # with the strides of x
    packed, constants = pack(weights), shape(weights)
    points = block(128 // constants["warps"])  # with more, registers spill
    programs = min(triton.cdiv(len(x), points), _most_programs(x.device))
    sums = packed.new_empty(programs, len(packed))
    launch(
        _backward,
        (programs,),
        *(x, packed, grad, grad_x, sums),
        *(len(x), len(packed), programs),
        *(*x.stride(), *grad.stride(), *(x if grad_x is None else grad_x).stride()),
        **constants,
        POINTS=points,
    )
    parts = sums.sum(0).split([w.numel() for w in weights])
    return grad_x, *(part.view(w.shape) for part, w in zip(parts, weights, strict=True))


def pack(weights: Sequence[Tensor]) -> Tensor:
    """All weights, row by row, one after the other."""
    return torch.cat([w.detach().reshape(-1) for w in weights])


def shape(weights: Sequence[Tensor]) -> dict[str, Any]:
    """How to launch a kernel that calls `network`: WIDTHS, PADDED to what tl.dot takes, warps."""
    widths = (len(weights[0]), *(w.shape[1] for w in weights))
    padded = tuple(max(16, triton.next_power_of_2(width)) for width in widths)
    return {"WIDTHS": widths, "PADDED": padded, "warps": 4 if max(widths) <= 64 else 8}


def _most_programs(device: torch.device) -> int:
    """As many as a GPU holds at a time; few in the interpreter, so that each has several blocks."""
    if device.type != "cuda":
        return 2
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def load_rows(at, m, inside, stride_m, stride_c, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows m of a matrix, padded with zeros; all zero where not inside."""
    c = tl.arange(0, PADDED).to(tl.int64)[None, :]
    wanted = inside[:, None] & (c < WIDTH)
    return tl.load(at + m[:, None] * stride_m + c * stride_c, mask=wanted, other=0)


@triton.jit
def store_rows(at, value, m, inside, stride_m, stride_c, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The reverse of `load_rows`."""
    c = tl.arange(0, PADDED).to(tl.int64)[None, :]
    wanted = inside[:, None] & (c < WIDTH)
    tl.store(at + m[:, None] * stride_m + c * stride_c, value, mask=wanted)


@triton.jit
def weight(at, layer: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr):
    """The padded weights of a layer, which begin at `at`."""
    i = tl.arange(0, PADDED[layer])
    inside = i < WIDTHS[layer]
    return load_rows(at, i, inside, WIDTHS[layer + 1], 1, WIDTHS[layer + 1], PADDED[layer + 1])


@triton.jit
def _store_weight(at, value, layer: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr):
    i = tl.arange(0, PADDED[layer])
    inside = i < WIDTHS[layer]
    store_rows(at, value, i, inside, WIDTHS[layer + 1], 1, WIDTHS[layer + 1], PADDED[layer + 1])


@triton.jit
def _transposed(at, layer: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr):
    """The same, transposed.

    By another load: a transpose of the first would be one value with it, held in registers from
    the way forward until the way back.
    """
    j = tl.arange(0, PADDED[layer + 1])
    inside = j < WIDTHS[layer + 1]
    return load_rows(at, j, inside, 1, WIDTHS[layer + 1], WIDTHS[layer], PADDED[layer])


@triton.jit
def network(h, weights, WIDTHS: tl.constexpr, PADDED: tl.constexpr):
    """[POINTS, padded D_0] -> [POINTS, padded D_n]."""
    for layer in tl.static_range(len(WIDTHS) - 1):
        if layer > 0:
            h = tl.maximum(h, 0)
        h = tl.dot(h, weight(weights, layer, WIDTHS, PADDED))
        weights += WIDTHS[layer] * WIDTHS[layer + 1]
    return h


@triton.jit
def _forward(
    x,
    weights,
    out,
    count,
    stride_m,
    stride_c,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    m = tl.program_id(0) * POINTS + tl.arange(0, POINTS).to(tl.int64)
    inside = m < count
    h = load_rows(x, m, inside, stride_m, stride_c, WIDTHS[0], PADDED[0])
    h = network(h, weights, WIDTHS, PADDED)
    store_rows(out, h, m, inside, WIDTHS[-1], 1, WIDTHS[-1], PADDED[-1])


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), tl.float32)


@triton.jit
def _backward(
    x,
    weights,
    grad,
    grad_x,
    sums,
    count,
    size,
    programs,
    x_m,
    x_c,
    grad_m,
    grad_c,
    grad_x_m,
    grad_x_c,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    LAYERS: tl.constexpr = len(WIDTHS) - 1
    total = ()  # the last layer's gradient first, as they are found
    for layer in tl.static_range(LAYERS - 1, -1, -1):
        total += (_zeros(PADDED[layer], PADDED[layer + 1]),)  # type: ignore[assignment]
    # Weights hoisted out of the loop, or blocks loaded ahead, would spill registers.
    blocks = tl.cdiv(count, POINTS)
    for i in tl.range(tl.program_id(0), blocks, programs, num_stages=1, disable_licm=True):
        m = i * POINTS + tl.arange(0, POINTS).to(tl.int64)
        inside = m < count
        inputs = (load_rows(x, m, inside, x_m, x_c, WIDTHS[0], PADDED[0]),)  # by layer
        at = weights
        for layer in tl.static_range(LAYERS - 1):
            h = tl.dot(inputs[layer], weight(at, layer, WIDTHS, PADDED))
            inputs += (tl.maximum(h, 0),)  # type: ignore[assignment]
            at += WIDTHS[layer] * WIDTHS[layer + 1]
        g = load_rows(grad, m, inside, grad_m, grad_c, WIDTHS[-1], PADDED[-1])
        new = ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            above = g
            if layer > 0 or grad_x is not None:
                g = tl.dot(above, _transposed(at, layer, WIDTHS, PADDED))
            if layer > 0:
                g = tl.where(inputs[layer] > 0, g, 0)
                at -= WIDTHS[layer - 1] * WIDTHS[layer]
            new += (tl.dot(tl.trans(inputs[layer]), above, total[LAYERS - 1 - layer]),)  # type: ignore[assignment]
        total = new
        if grad_x is not None:
            store_rows(grad_x, g, m, inside, grad_x_m, grad_x_c, WIDTHS[0], PADDED[0])
    sums += tl.program_id(0).to(tl.int64) * size
    for layer in tl.static_range(LAYERS):
        _store_weight(sums, total[LAYERS - 1 - layer], layer, WIDTHS, PADDED)
        sums += WIDTHS[layer] * WIDTHS[layer + 1]
