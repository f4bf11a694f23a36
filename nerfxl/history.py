"""What metrics.jsonl tells of a run's training: all of it, or its lines as they come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

Line = dict[str, Any]


@dataclass
class History:
    """The training curves of a run as it stands.

    lines: with growing steps. seconds: of training until each, by the rates that they tell.
    returns: steps from which the run went on anew after a crash: what it had told of later ones is
    gone. damaged: lines that could not be read.
    """

    lines: list[Line] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    returns: list[int] = field(default_factory=list)
    damaged: int = 0

    def add(self, line: Line) -> None:
        """Take one more line; of a step that is done again, and of those after it, the later."""
        if self.lines and self.lines[-1]["step"] >= line["step"]:
            kept = sum(one["step"] < line["step"] for one in self.lines)
            del self.lines[kept:], self.seconds[kept:]
            self.returns.append(self.last)
        rate = line.get("steps_per_second")
        spent = (line["step"] - self.last) / rate if rate else 0.0
        self.seconds.append(spent + (self.seconds[-1] if self.seconds else 0.0))
        self.lines.append(line)

    @property
    def last(self) -> int:
        """The last step that is told of; 0 if none is."""
        return int(self.lines[-1]["step"]) if self.lines else 0


def read(metrics: Path) -> History:
    """Read a whole file; one that is missing is empty, and the last line may be half written."""
    found = History()
    text = metrics.read_bytes() if metrics.exists() else b""
    for raw in text.splitlines(keepends=True):
        line = parsed(raw)
        if line is not None:
            found.add(line)
        elif raw.strip() and raw.endswith(b"\n"):
            found.damaged += 1
    return found


def follow(metrics: Path, at: int, done: threading.Event, seconds: float) -> Iterator[Line]:
    """Whole lines of the file as they come, from byte `at` on; one look more when done.

    seconds: between two looks.
    """
    while True:
        last = done.wait(seconds)
        if metrics.exists():
            with metrics.open("rb") as file:
                file.seek(at)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            at += len(whole)
            for raw in whole.splitlines():
                line = parsed(raw)
                if line is not None:
                    yield line
        if last:
            return


def parsed(raw: bytes) -> Line | None:
    """One line; None where a crash has cut it short.

    >>> parsed(b'{"step": 5, "loss": null}'), parsed(b'{"step": 5, "lo')
    ({'step': 5, 'loss': None}, None)
    """
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def settled(lines: Sequence[Line]) -> list[Line]:
    """Those of the second half of the steps: after warm-ups, and after kernels were compiled."""
    return [line for line in lines if 2 * line["step"] > lines[-1]["step"]]


def rates(lines: Sequence[Line]) -> dict[str, float]:
    """Speeds: the median over lines, which other programs disturb least; the rest: the mean.

    What no line tells is left out.
    """
    told: dict[str, list[float]] = {
        "rays_per_second": _values(lines, "rays_per_second"),
        "step_ms": [1000 / rate for rate in _values(lines, "steps_per_second") if rate],
        "exchange_ms": [_waited(line["exchange"]) for line in lines if "exchange" in line],
    }
    found = {name: median(values) for name, values in told.items() if values}
    for name in ("waiting", "bytes_per_ray", "imbalance", "samples_per_ray", "outside"):
        if values := _values(lines, name):
            found[name] = fmean(values)
    return found


def messages(lines: Sequence[Line]) -> dict[str, tuple[float, float]]:
    """Of each kind of message, the mean bytes a ray and the median milliseconds a step."""
    told = [line["exchange"] for line in lines if "exchange" in line]
    kinds = dict.fromkeys(kind for one in told for kind in one)
    found = {}
    for kind in kinds:
        of_kind = [one[kind] for one in told if kind in one]
        found[kind] = (
            fmean(one["bytes_per_ray"] for one in of_kind),
            median(one["ms_per_step"] for one in of_kind),
        )
    return found


def _values(lines: Sequence[Line], name: str) -> list[float]:
    return [line[name] for line in lines if line.get(name) is not None]


def _waited(exchange: dict[str, dict[str, float]]) -> float:
    return sum(kind["ms_per_step"] for kind in exchange.values())
