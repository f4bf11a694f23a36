"""What this machine can do at best: the rates from which floors are computed.

A floor is the time that the memory traffic, or the arithmetic, of an operation takes at the rate
that a loop of nothing else reaches on the same machine in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from nerfxl_kernels import simd
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

_READS = 2**21  # a thread
_AHEAD = 48  # lines
_STREAM = 64 * 2**20  # bytes an array: far larger than any cache


@dataclass(frozen=True)
class Rates:
    """What all threads reach together, a second.

    stream: bytes read and written. flops: of float32 matrix products. random_lines: cache lines of
    64 bytes (sectors of 32 on a GPU) read at random places, by the size in bytes of what they are
    spread over.
    """

    stream: float
    flops: float
    random_lines: dict[int, float]

    def reads(self, working_set: int) -> float:
        """Random reads a second over a working set, from the next larger one measured."""
        sizes = sorted(self.random_lines)
        return self.random_lines[next((s for s in sizes if s >= working_set), sizes[-1])]

    def told(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def cpu_rates() -> Rates:
    """Rates of the CPU with the threads that numba and torch have now."""
    array = np.zeros(_STREAM // 4, np.float32)
    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    sizes = [2**k for k in range(15, 28, 2)]
    return Rates(
        stream=2 * _STREAM / _best(lambda: _increase(array)),
        flops=2 * 1024**3 / _best(lambda: a @ b),
        random_lines={size: _random_rate(size) for size in sizes},
    )


def gpu_rates(device: torch.device) -> Rates:
    """Rates of a GPU: its memory's, its TF32 matrix products', and gathers of a kernel of ours."""
    source = torch.ones(2**28, device=device)
    target = torch.zeros_like(source)
    a = torch.ones(8192, 8192, device=device)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    flops = 2 * 8192**3 / _best(lambda: _finished(a @ a))
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return Rates(
        stream=2 * 4 * 2**28 / _best(lambda: _finished(target.copy_(source))),
        flops=flops,
        random_lines={size: _gather_rate(size, device) for size in (2**18, 2**22, 2**25, 2**28)},
    )


def _gather_rate(size: int, device: torch.device) -> float:
    """Each of many threads reads 64 rows at places that do not depend on what it read."""
    from bench.wander import wander

    rows = torch.ones(size // 8, 2, device=device)
    sums = torch.zeros(2**20, device=device)
    return 64 * len(sums) / _best(lambda: _finished(wander(rows, sums, 64)))


def _finished(_: object) -> None:
    torch.cuda.synchronize()


def _random_rate(size: int) -> float:
    threads = get_num_threads()
    lines = np.ones((size // 64, 16), np.float32)
    sums = np.zeros((threads, 16), np.float32)
    places = np.random.default_rng(0).integers(0, len(lines), 2**16, dtype=np.uint32)
    best: float = threads * _READS / _best(lambda: _wander(lines, places, sums, _READS))
    return best


def _best(run: Callable[[], Any]) -> float:
    """Least of several times, seconds."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@njit(parallel=True, cache=True)
def _increase(array: NDArray[np.float32]) -> None:
    """In place: a line that is written without having been read is read nevertheless."""
    for i in prange(array.shape[0]):
        array[i] += np.float32(1)


@njit(parallel=True, cache=True, fastmath=True)
def _wander(
    lines: NDArray[np.float32], places: NDArray[np.uint32], sums: NDArray[np.float32], reads: int
) -> None:
    """Read cache lines at random places, each asked for ahead of its turn."""
    mask = np.uint32(lines.shape[0] - 1)
    for thread in prange(sums.shape[0]):
        total = np.float32(0)
        for block in range(reads // places.shape[0]):
            turn = np.uint32((block + 1) * (thread + 1) * 40503)  # other lines in every block
            for i in range(places.shape[0] - _AHEAD):
                soon = (places[i + _AHEAD] ^ turn) & mask
                simd.prefetch(lines, np.intp(soon) * 16)
                total += lines[(places[i] ^ turn) & mask, 0]
        sums[thread, 0] = total
