"""What the fits of a study have found: figures read from their run folders, a row a cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from nerfxl import history
from nerfxl.provenance import here
from nerfxl.runs import RunFolder
from nerfxl.study import cells, poses, seams
from nerfxl.study.book import Book, Entry
from nerfxl.study.grid import Cell

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


def _row(book: Book, entry: Entry) -> Row:
    run = cells.run_of(book.path, entry.cell.label)
    state = cells.told(run, entry)
    if run is None or not cells.is_complete(run):
        return Row(entry, run, state)
    scores = json.loads((cells.scored(run) / cells.SCORES).read_text())
    lines = history.settled(history.read(run.metrics).lines)
    facts = {name: scores[name] for name in ("capture_note", "images", "appearance")}
    facts["capture"] = here(Path(scores["capture"]))
    found = _scored(scores) | history.rates(lines)
    if entry.cell.ranks == 1:
        found |= ALONE
    return Row(entry, run, state, found, facts, history.messages(lines))


def _scored(scores: dict[str, Any]) -> dict[str, float]:
    names = ("psnr", "ssim", "render_seconds", "train_seconds", "parameters")
    found = {name: float(scores[name]) for name in names if scores.get(name) is not None}
    return found | {"memory": max(scores["peak_memory_per_rank"]) / 2**30}


def _add(rows: Iterable[Row], found: dict[Cell, dict[str, float]]) -> None:
    for row in rows:
        row.figures.update(found.get(row.cell, {}))
