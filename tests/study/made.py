"""Studies made by hand, of known numbers: books, run folders, rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nerfxl.provenance import Session
from nerfxl.runs import RunFolder
from nerfxl.study.book import Book, Entry
from nerfxl.study.figures import Group, Row, grouped
from nerfxl.study.grid import Cell, Kind

STEPS = 40
SESSION = Session("2026-01-31T12:00:00+01:00", "nerfxl study x", "nerfxl 1", "a machine", 2, 1.5)
SCORES: dict[str, Any] = {
    "step": STEPS,
    "images": 2,
    "psnr": 20.0,
    "ssim": 0.5,
    "train_seconds": 10.0,
    "peak_memory_per_rank": [2**30, 2**29],
    "parameters": 1000,
    "capture": "/photographs",
    "capture_note": "made up",
    "appearance": "off",
}


def line(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {"step": step, "rays_per_second": 1000.0, "steps_per_second": 10.0, **changes}


def run(
    study: Path, cell: Cell, lines: Iterable[dict[str, Any]] | None = None, **scores: Any
) -> RunFolder:
    """A run that is complete, as fit leaves it: its status, curves and scores."""
    made = RunFolder.create(study, cell.label)
    made.update(state="running", step=STEPS, steps=STEPS)
    made.update(state="completed")
    told = [line(20), line(STEPS)] if lines is None else lines
    made.metrics.write_text("".join(json.dumps(one) + "\n" for one in told))
    folder = made.eval / f"step-{STEPS:09d}"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({**SCORES, **scores}))
    return made


def book(study: Path, kind: Kind, cells: Iterable[Cell]) -> Book:
    """The book of such runs, all of one session."""
    found = Book(study, kind, "scenes/x.yaml", [SESSION])
    for cell in cells:
        overrides = ("train.steps=40", *cell.overrides)
        found.entries[cell.label] = Entry(cell, overrides, "cpu", (0,))
    found.save()
    return found


def row(cell: Cell, **figures: float) -> Row:
    """A complete cell with these figures."""
    return Row(Entry(cell, (), "cpu"), None, "complete", figures)


def groups(*rows: Row) -> list[Group]:
    """What the claims are asked of."""
    return grouped(rows)
