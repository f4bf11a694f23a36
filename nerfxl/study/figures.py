"""What the fits of a study have found: figures read from their run folders, a row a cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nerfxl.runs import RunFolder
from nerfxl.study import cells, poses, seams
from nerfxl.study.book import Book, Entry
from nerfxl.study.grid import Cell
from nerfxl.study.provenance import here

ALONE = {"exchange_ms": 0.0, "waiting": 0.0, "bytes_per_ray": 0.0}  # what one process tells others


@dataclass(frozen=True)
class Row:
    """A cell, what has become of it, and its figures by name (see `page.NAMES`).

    facts: what was said beside the figures: the capture, its note. messages: of each kind of
    message, bytes a ray and milliseconds a step.
    """

    entry: Entry
    run: RunFolder | None
    state: str
    figures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """What was fitted."""
        return self.entry.cell


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    least: float
    greatest: float
    seeds: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        least, greatest = min(values), max(values)
        mean = min(max(fmean(values), least), greatest)  # equal values have a mean that is rounded
        return Spread(mean, least, greatest, len(values))

    def times(self, factor: float) -> Spread:
        """The same of every value times a positive factor."""
        return Spread(factor * self.mean, factor * self.least, factor * self.greatest, self.seeds)


@dataclass(frozen=True)
class Group:
    """The cells that differ in their seed alone."""

    mode: str
    tiles: int
    ranks: int
    refine: bool | None
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Spread | None:
        """A figure over the seeds that have it; None where none has."""
        values = [row.figures[name] for row in self.rows if name in row.figures]
        return Spread.of(values) if values else None


def read(book: Book) -> list[Row]:
    """All cells of a study, in the order of a table."""
    entries = sorted(book.entries.values(), key=lambda entry: entry.cell.place)
    rows = [_row(book, entry) for entry in entries]
    complete = [row for row in rows if row.run is not None and row.figures]
    if book.kind == "overlap":
        _add(complete, seams.measured({row.cell: row.run for row in complete if row.run}))
    if book.kind == "cameras":
        _add(complete, {row.cell: poses.measured(row.run) for row in complete if row.run})
    return rows


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Complete cells, those of one kind but for the seed together, in their order."""
    groups: dict[tuple[str, int, int, bool | None], list[Row]] = {}
    for row in rows:
        if row.figures:
            cell = row.cell
            groups.setdefault((cell.mode, cell.tiles, cell.ranks, cell.refine), []).append(row)
    return [Group(*key, tuple(found)) for key, found in groups.items()]


def curve(metrics: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl by step; of a step that was done twice the later, of a torn line none.

    A run that was killed repeats the steps since its checkpoint.
    """
    lines: dict[int, dict[str, Any]] = {}
    for text in metrics.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
            lines[line["step"]] = line
        except (ValueError, KeyError, TypeError):
            continue
    return [lines[step] for step in sorted(lines)]


def settled(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the second half of the steps: after warm-ups, and after kernels were compiled."""
    last = lines[-1]["step"]
    return [line for line in lines if 2 * line["step"] > last]


def _row(book: Book, entry: Entry) -> Row:
    run = cells.run_of(book.path, entry.cell.label)
    state = cells.told(run, entry)
    if run is None or not cells.is_complete(run):
        return Row(entry, run, state)
    scores = json.loads((cells.scored(run) / cells.SCORES).read_text())
    lines = settled(curve(run.metrics))
    facts = {name: scores[name] for name in ("capture_note", "images", "appearance")}
    facts["capture"] = here(Path(scores["capture"]))
    found = _scored(scores) | _timed(lines)
    if entry.cell.ranks == 1:
        found |= ALONE
    return Row(entry, run, state, found, facts, _messages(lines))


def _scored(scores: dict[str, Any]) -> dict[str, float]:
    names = ("psnr", "ssim", "render_seconds", "train_seconds", "parameters")
    found = {name: float(scores[name]) for name in names if scores.get(name) is not None}
    return found | {"memory": max(scores["peak_memory_per_rank"]) / 2**30}


def _timed(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Speeds: the median over lines, which other programs disturb least; the rest: the mean."""
    found = {
        "rays_per_second": median(line["rays_per_second"] for line in lines),
        "step_ms": median(1000 / line["steps_per_second"] for line in lines),
    }
    for name in ("waiting", "bytes_per_ray", "imbalance", "samples_per_ray", "outside"):
        values = [line[name] for line in lines if line.get(name) is not None]
        if values:
            found[name] = fmean(values)
    waited = [_waited(line["exchange"]) for line in lines if "exchange" in line]
    return found | ({"exchange_ms": median(waited)} if waited else {})


def _waited(exchange: dict[str, dict[str, float]]) -> float:
    return sum(kind["ms_per_step"] for kind in exchange.values())


def _messages(lines: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
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


def _add(rows: Iterable[Row], found: dict[Cell, dict[str, float]]) -> None:
    for row in rows:
        row.figures.update(found.get(row.cell, {}))
