"""Times of several ways to do one thing, taken in turn in one process.

Rounds are interleaved, so that a machine that slows down slows all of them; ratios are taken
within a round. Nothing is timed before it has been checked.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

OURS = "nerfxl"
_PAUSE = 0.05  # seconds: threads of the one before spin for a while in wait for more work


@dataclass(frozen=True)
class Contender:
    """One way to do it. `check` raises AssertionError where the result is wrong.

    release: gives back memory that is kept for the next call, so that a call's can be seen.
    """

    name: str
    run: Callable[[], object]
    check: Callable[[], None]
    release: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Race:
    """Contenders, ours first; seconds of the floor; what the floor counts."""

    operation: str
    workload: str
    contenders: tuple[Contender, ...]
    floor: float
    counted: str


@dataclass(frozen=True)
class Times:
    """Of one contender: milliseconds of each round, and the memory of one call, MiB."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]
    peak_memory: float

    def ratio_to(self, other: Times) -> tuple[float, float, float]:
        """Median, least and greatest ratio of wall times, round by round."""
        ratios = [mine / theirs for mine, theirs in zip(self.wall, other.wall, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def race(contenders: Sequence[Contender], rounds: int, device: torch.device) -> dict[str, Times]:
    """Check every contender, warm it up, then time all of them in turn, `rounds` times."""
    memory = {}
    for contender in contenders:
        contender.check()
        contender.run()  # compiled, and its memory at its largest
        memory[contender.name] = _peak_memory(contender, device)
    wall: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    processor: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            spent, used = _timed(contender.run, device)
            wall[contender.name].append(spent)
            processor[contender.name].append(used)
    return {name: Times(tuple(wall[name]), tuple(processor[name]), memory[name]) for name in wall}


def _timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    _wait(device)
    time.sleep(_PAUSE)
    wall, used = time.perf_counter(), time.process_time()
    run()
    _wait(device)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - used) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(contender: Contender, device: torch.device) -> float:
    """MiB that one call takes above what was held before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        contender.run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    contender.release()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is no longer resident
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    contender.run()
    return max(0, _resident("VmHWM") - before) / 2**10


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
