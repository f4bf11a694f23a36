"""Which implementation runs: one decision, in one place, with an override for tests.

`reference` is plain torch on any device and in any dtype; `cpu` is numba, multi-threaded; `gpu` is
Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Literal, get_args

import torch

Backend = Literal["reference", "cpu", "gpu"]

_forced: ContextVar[Backend | None] = ContextVar("nerfxl_kernels_backend", default=None)


def choose(tensor: torch.Tensor) -> Backend:
    """The backend for a tensor's device: numba on the CPU, Triton on CUDA and ROCm, else torch."""
    forced = _forced.get()
    if forced is not None:
        return forced
    kinds: dict[str, Backend] = {"cpu": "cpu", "cuda": "gpu"}  # ROCm's devices are named cuda too
    return kinds.get(tensor.device.type, "reference")


def load(operation: str, tensor: torch.Tensor) -> Any:
    """The module that does an operation for this tensor: `<operation>.reference`, `.cpu`, `.gpu`.

    Imported when first asked for: Triton has wheels for Linux only, and numba takes a while.
    """
    return import_module(f"nerfxl_kernels.{operation}.{choose(tensor)}")


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Force a backend inside the block.

    `gpu` takes tensors on the CPU where Triton's interpreter runs (TRITON_INTERPRET=1).

    Raises
    ------
    ValueError
        If the name is not a backend.

    Examples
    --------
    >>> with use("reference"):
    ...     choose(torch.zeros(1))
    'reference'
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend: found {backend!r}, expected one of {get_args(Backend)}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)
