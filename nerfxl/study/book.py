"""The book of a study: which cells it has, when and where they were trained; study.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nerfxl.errors import UserError
from nerfxl.provenance import Session
from nerfxl.runs import make_folder, write_atomic
from nerfxl.study.grid import Cell, Kind

FORMAT, VERSION = "nerfxl-study", 1
FILE = "study.json"


@dataclass(frozen=True)
class Entry:
    """A cell that was asked for.

    overrides: all that makes its scene, `key=value` each. device: "cpu" or "cuda". sessions: the
    numbers of those that trained it. failure: why the last one could not, or "".
    """

    cell: Cell
    overrides: tuple[str, ...]
    device: str
    sessions: tuple[int, ...] = ()
    failure: str = ""

    @property
    def shared(self) -> tuple[str, ...]:
        """Those of the overrides that are not the cell's own."""
        return self.overrides[: len(self.overrides) - len(self.cell.overrides)]


@dataclass
class Book:
    """What is known of a study. path: its folder. scene: its file, as it was named."""

    path: Path
    kind: Kind
    scene: str
    sessions: list[Session] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Book | None:
        """Read the book in a folder; None if there is none.

        Raises
        ------
        UserError: it is damaged.
        """
        file = path / FILE
        try:
            return _decode(path, json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} is not the book of a study that this nerfxl can read ({error}): give "
                "another --output-dir, or remove its folder."
            ) from error

    def save(self) -> None:
        """Write it, whole or not at all."""
        make_folder(self.path)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "scene": self.scene,
            "sessions": [asdict(session) for session in self.sessions],
            "cells": [asdict(entry) for entry in self.entries.values()],
        }
        write_atomic(self.path / FILE, json.dumps(content, indent=1) + "\n")

    def ask(self, cells: Sequence[Cell], shared: Sequence[str], device: str) -> None:
        """Enter what is asked for now; what was fitted before is kept."""
        asked = {cell.label for cell in cells}
        for label in [one for one in self.entries if one not in asked]:
            if not self.entries[label].sessions:
                del self.entries[label]
        for cell in cells:
            entry = self.entries.get(cell.label, Entry(cell, (), device))
            overrides = (*shared, *cell.overrides)
            self.entries[cell.label] = replace(entry, cell=cell, overrides=overrides, device=device)

    def note(self, label: str, failure: str) -> None:
        """Enter that the newest session has trained a cell, and why it failed, if it did."""
        entry = self.entries[label]
        sessions = tuple(dict.fromkeys([*entry.sessions, len(self.sessions) - 1]))
        self.entries[label] = replace(entry, sessions=sessions, failure=failure)
        self.save()


def _decode(path: Path, content: dict[str, Any]) -> Book:
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise ValueError(f"format {content['format']}, version {content['version']}")
    book = Book(path, content["kind"], content["scene"])
    book.sessions = [Session(**one) for one in content["sessions"]]
    for one in content["cells"]:
        cell = Cell(**one["cell"])
        lists = {"overrides": tuple(one["overrides"]), "sessions": tuple(one["sessions"])}
        book.entries[cell.label] = Entry(
            cell, device=one["device"], failure=one["failure"], **lists
        )
    return book
