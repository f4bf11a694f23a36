"""What a study has found, on disk: report.md for people, report.json for programs, pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nerfxl.progress import Speaker
from nerfxl.provenance import here, now
from nerfxl.runs import write_atomic
from nerfxl.study import crops, plots
from nerfxl.study.book import Book
from nerfxl.study.claims import Finding, findings
from nerfxl.study.figures import Group, Row, grouped, read
from nerfxl.study.page import COLUMNS, markdown

MARKDOWN, JSON = "report.md", "report.json"


def write(book: Book, say: Speaker) -> dict[str, Any]:
    """Read all cells, write the report and its pictures, tell its claims; what report.json holds.

    Raises
    ------
    UserError: a run's files cannot be read, or the report cannot be written.
    """
    rows = read(book)
    groups = grouped(rows)
    claims = findings(book.kind, groups)
    pictures = plots.draw(book.kind, groups, book.path) if groups else []
    if book.kind == "overlap":
        pictures += crops.draw({row.cell: row.run for row in rows if row.run and row.figures}, book)
    content = as_json(book, rows, groups, claims, pictures)
    write_atomic(book.path / JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomic(book.path / MARKDOWN, markdown(book, rows, groups, claims, pictures))
    say("")
    for claim in claims:
        if claim.verdict != "not tested":
            say(f"{claim.verdict:<14} {claim.claim}: {claim.found}")
    say(f"report     {book.path / MARKDOWN}")
    return {**content, "report": str(book.path / MARKDOWN)}


def as_json(
    book: Book,
    rows: Sequence[Row],
    groups: Sequence[Group],
    claims: Sequence[Finding],
    pictures: Sequence[str],
) -> dict[str, Any]:
    """The report, for programs."""
    names = [name for columns in COLUMNS[book.kind] for name in columns]
    return {
        "format": "nerfxl-study-report",
        "version": 1,
        "kind": book.kind,
        "scene": book.scene,
        "written": now(),
        "sessions": [asdict(one) for one in book.sessions],
        "claims": [claim.as_json() for claim in claims],
        "table": [
            {
                "mode": one.mode,
                "tiles": one.tiles,
                "ranks": one.ranks,
                "refine": one.refine,
                "figures": {name: asdict(value) for name in names if (value := one[name])},
            }
            for one in groups
        ],
        "cells": [
            {
                **asdict(row.entry),
                "label": row.cell.label,
                "run": here(row.run.path) if row.run else None,
                "state": row.state,
                "figures": row.figures,
                "messages": row.messages,
                **row.facts,
            }
            for row in rows
        ],
        "pictures": list(pictures),
    }
