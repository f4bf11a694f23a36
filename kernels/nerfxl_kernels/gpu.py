"""What the Triton kernels share: how they are started, and arithmetic that Triton lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1: numpy, on the CPU


class Launch(NamedTuple):
    """A kernel and what it would be started with."""

    kernel: Any
    arguments: tuple[Any, ...]
    warps: int
    constants: dict[str, Any]


_recording: ContextVar[list[Launch] | None] = ContextVar("nerfxl_kernels_recording", default=None)


def block(size: int) -> int:
    """A block of `size` elements; far larger in the interpreter, which pays by the operation."""
    return max(size, 1024) if INTERPRETED else size


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any
) -> None:
    """Start a kernel on the device of its first argument; nothing where the grid is empty."""
    recording = _recording.get()
    if recording is not None:
        recording.append(Launch(kernel, arguments, warps, constants))
    elif all(grid):
        first: Tensor = arguments[0]
        with torch.cuda.device_of(first):
            kernel[grid](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside the block kernels are not started but listed, to be compiled without a GPU."""
    launches: list[Launch] = []
    token = _recording.set(launches)
    try:
        yield launches
    finally:
        _recording.reset(token)


@triton.jit
def opacity(tau):
    """1 - exp(-tau) for tau >= 0, to a few units in the last place.

    A difference would cancel where tau is small: there, its power series.
    """
    x = tl.minimum(tau, 0.5)
    series = 1 - x / 14
    for i in tl.static_range(12):
        series = 1 - x / (13 - i) * series
    return tl.where(tau < 0.5, x * series, 1 - tl.exp(-tau))
