"""The books of training: what the steps since the last line have seen, and what ranks exchanged."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nerfxl import history
from nerfxl.processes.ranks import Ranks, Traffic
from nerfxl.rays import Batch


@dataclass(frozen=True)
class Seen:
    """What a step has seen: its loss, and of it for the books, the parts that this rank computed.

    squared: summed squared error. samples: of this rank's tiles.
    """

    loss: Tensor
    squared: Tensor
    proposal_loss: Tensor
    samples: int


@dataclass
class Tally:
    """Sums over the steps since it was made, on this rank."""

    ranks: Ranks
    apart: bool = False  # whether NeRFs are trained each alone, not one by all ranks
    steps: int = 0
    rays: int = 0  # of all ranks; of NeRFs apart, of those here
    loaded: int = 0  # of this rank
    samples: list[int] = field(default_factory=list)  # of each step
    squared: float = 0.0
    proposal_loss: float = 0.0  # of the last step
    asked: int = 0  # samples of the step that has not ended, and its proposals' loss
    proposing: float = 0.0
    started: float = field(default_factory=time.monotonic)
    before: dict[str, Traffic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = {kind: replace(books) for kind, books in self.ranks.traffic.items()}

    def add(self, seen: Seen, batch: Batch) -> None:
        """Count what a NeRF saw in a step."""
        self.rays += batch.count
        self.loaded += len(batch.rays)
        self.asked += seen.samples
        self.squared += float(seen.squared)
        self.proposing += float(seen.proposal_loss)

    def step(self) -> None:
        """End a step."""
        self.steps += 1
        self.samples.append(self.asked)
        self.proposal_loss = self.proposing
        self.asked, self.proposing = 0, 0.0

    def next(self) -> Tally:
        """A new one."""
        return Tally(self.ranks, self.apart)

    def line(self, outside: Sequence[tuple[int, int] | None] = ()) -> dict[str, Any]:
        """What all ranks together have seen: a line of metrics.jsonl; a collective.

        loss: mean squared error of the colours. imbalance: lambda, the most samples of a rank over
        their mean, of each step: for that rank the others wait. waiting: share of the time that
        ranks wait for each other, their mean. bytes_per_ray: received by all ranks together; in
        exchange the same by what it was, and the milliseconds of a step that a rank waits for it.
        outside: what each NeRF here knows of its samples (see `Learner.outside`); told as the share
        of all that lie outside the tile of the NeRF that was asked.
        """
        ranks, seconds = self.ranks, time.monotonic() - self.started
        mine = {
            "loaded": self.loaded,
            "rays": self.rays,
            "outside": [pair for pair in outside if pair is not None],
            "samples": self.samples,
            "squared": self.squared,
            "proposal_loss": self.proposal_loss,
            "memory": ranks.peak_memory(),
            "seconds": seconds,
            "waited": {kind: books.waited for kind, books in self._traffic().items()},
            "received": {kind: books.received for kind, books in self._traffic().items()},
        }
        every = ranks.gather_json(mine)
        samples = list(zip(*(one["samples"] for one in every), strict=True))  # [steps][R]
        total = sum(map(sum, samples))
        rays = sum(one["rays"] for one in every) if self.apart else self.rays
        mse = sum(one["squared"] for one in every) / (3 * sum(one["loaded"] for one in every))
        line = {
            "loss": mse,
            "psnr": -10 * math.log10(max(mse, 1e-10)),
            "proposal_loss": sum(one["proposal_loss"] for one in every),
            "rays_per_second": rays / seconds,
            "steps_per_second": self.steps / seconds,
            "samples_per_ray": total / rays,
            "peak_memory": max(one["memory"] for one in every),
        }
        if pairs := [pair for one in every for pair in one["outside"]]:
            line["outside"] = sum(out for out, _ in pairs) / max(1, sum(of for _, of in pairs))
        if ranks.size > 1:
            received = _sums([one["received"] for one in every])
            waited = _sums([one["waited"] for one in every])
            line["imbalance"] = sum(map(max, samples)) * ranks.size / max(1, total)
            line["waiting"] = sum(waited.values()) / sum(one["seconds"] for one in every)
            line["bytes_per_ray"] = sum(received.values()) / rays
            line["exchange"] = {
                kind: {
                    "bytes_per_ray": received[kind] / rays,
                    "ms_per_step": 1000 * waited[kind] / (ranks.size * self.steps),
                }
                for kind in received
            }
        return line

    def _traffic(self) -> dict[str, Traffic]:
        """What was exchanged since the start of this tally."""
        found = {}
        for kind, now in self.ranks.traffic.items():
            was = self.before.get(kind, Traffic())
            since = (now.calls - was.calls, now.received - was.received, now.waited - was.waited)
            found[kind] = Traffic(*since)
        return found


def _sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = sorted({kind for row in rows for kind in row})
    return {kind: sum(row.get(kind, 0) for row in rows) for kind in kinds}


def exchanged(metrics: Path) -> str | None:
    """In words, what the ranks of a run exchanged, the mean of its lines; None if it was alone."""
    lines = [line for line in history.read(metrics).lines if "waiting" in line]
    if not lines:
        return None
    received, waiting, imbalance = (
        sum(line[name] for line in lines) / len(lines)
        for name in ("bytes_per_ray", "waiting", "imbalance")
    )
    return (
        f"{received:.0f} bytes a ray received by all processes, {100 * waiting:.0f} % of the time "
        f"waiting, the busiest has {imbalance:.2f} times the mean of samples"
    )
