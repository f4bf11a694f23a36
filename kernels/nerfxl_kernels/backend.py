"""Which implementation runs: one decision, in one place, with an override for tests.

`reference` is plain torch on any device and in any dtype; `cpu` is numba, multi-threaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch

Backend = Literal["reference", "cpu"]

_forced: ContextVar[Backend | None] = ContextVar("nerfxl_kernels_backend", default=None)


def choose(tensor: torch.Tensor) -> Backend:
    """The backend for a tensor's device: numba on the CPU, plain torch everywhere else."""
    forced = _forced.get()
    if forced is not None:
        return forced
    return "cpu" if tensor.device.type == "cpu" else "reference"


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Force a backend inside the block.

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
