"""The kernels at the sizes they are used with: what is compiled where no GPU is at hand.

Each case calls public operations, forward and backward, on tensors on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from nerfxl_kernels import backend
from nerfxl_kernels.adam import adam
from nerfxl_kernels.compose import compose
from nerfxl_kernels.encoded_mlp import encoded_mlp
from nerfxl_kernels.gpu import Launch, recorded
from nerfxl_kernels.hash_encoding import hash_encoding, resolutions
from nerfxl_kernels.march import Domain, Path, march, place
from nerfxl_kernels.mlp import mlp
from nerfxl_kernels.resample import interlevel, resample
from nerfxl_kernels.segment import segment
from torch import Tensor

_RAYS, _BINS, _TILES = 1024, 64, 8
_CELLS = resolutions(16, 16, 2048)


def launches(case: str) -> list[Launch]:
    """What a case would start on a GPU, each kernel once."""
    with backend.use("gpu"), recorded() as found:
        CASES[case]()
    return list({(launch.kernel, str(launch.constants)): launch for launch in found}.values())


def _encode(features: int, dtype: torch.dtype) -> None:
    table = torch.zeros(len(_CELLS), 2**12, features, dtype=dtype, requires_grad=True)
    out = hash_encoding(_leaf(_RAYS * 16, 3), table, _CELLS)
    out.sum().backward()  # type: ignore[no-untyped-call]


def _perceptron(*widths: int) -> None:
    weights = [_leaf(a, b) for a, b in pairwise(widths)]
    mlp(_leaf(_RAYS * 16, widths[0]), weights).sum().backward()  # type: ignore[no-untyped-call]


def _fused() -> None:
    table = torch.zeros(len(_CELLS), 2**12, 2, dtype=torch.float16)
    weights = [torch.zeros(32, 64), torch.zeros(64, 16)]
    encoded_mlp(torch.zeros(_RAYS * 16, 3), table, _CELLS, weights)


def _march() -> None:
    start = torch.zeros(_RAYS)
    path = Path(torch.zeros(_RAYS, 3), torch.zeros(_RAYS, 3), start, start + 1, 0.1)
    domain = Domain((0.0, 0.0, 0.0), 1.0, True)
    occupied = torch.ones(128, 128, 128, dtype=torch.bool)
    march(start, start + 1, start, _BINS)
    march(start, start + 1, start, _BINS, (path, domain, occupied))
    place(*_ends(_BINS), _offsets(_BINS), path, domain)


def _resample() -> None:
    m0, m1 = _ends(_BINS)
    rays = torch.zeros(_RAYS)
    stretch = torch.zeros(_RAYS, 2)
    resample(m0, m1, m0, _offsets(_BINS), rays, stretch, rays, 32, 0.01)
    s0, s1 = _ends(32)
    depth = torch.zeros_like(m0, requires_grad=True)
    bins, samples = (m0, m1, _offsets(_BINS)), (s0, s0, s1, _offsets(32))
    loss = interlevel(depth, *bins, *samples, rays, rays)
    loss.backward()  # type: ignore[no-untyped-call]


def _segment() -> None:
    flat = torch.zeros(_RAYS * 32)
    channels = torch.zeros(len(flat), 3, requires_grad=True)
    density = torch.zeros_like(flat, requires_grad=True)
    values, _ = segment(density, channels, flat, flat, flat, _offsets(32))
    values.sum().backward()  # type: ignore[no-untyped-call]


def _compose() -> None:
    compose(_leaf(_TILES, _RAYS, 6)).sum().backward()  # type: ignore[no-untyped-call]


def _adam() -> None:
    parameter, grad, first, second = torch.zeros(4, 2**16)
    adam(parameter, grad, first, second, 1, 0.01)


def _leaf(*shape: int) -> Tensor:
    return torch.zeros(*shape, requires_grad=True)


def _offsets(each: int) -> Tensor:
    return torch.arange(_RAYS + 1) * each


def _ends(each: int) -> tuple[Tensor, Tensor]:
    m = torch.arange(each + 1) / each
    return m[:-1].repeat(_RAYS), m[1:].repeat(_RAYS)


CASES: dict[str, Callable[[], None]] = {
    "hash_encoding F=2": lambda: _encode(2, torch.float32),
    "hash_encoding F=4": lambda: _encode(4, torch.float32),
    "hash_encoding F=8": lambda: _encode(8, torch.float32),
    "hash_encoding F=2 float16": lambda: _encode(2, torch.float16),
    "mlp 32-64-16": lambda: _perceptron(32, 64, 16),
    "mlp 31-64-64-3": lambda: _perceptron(31, 64, 64, 3),
    "encoded_mlp 32-64-16 float16": _fused,
    "march": _march,
    "resample": _resample,
    "segment": _segment,
    "compose": _compose,
    "adam": _adam,
}
