"""What is truly there of a run: its state, and every byte of its checkpoints read and verified."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nerfxl.errors import UserError
from nerfxl.prepare import read_back
from nerfxl.progress import spoken
from nerfxl.runs import RunFolder, Status
from nerfxl.storage.checkpoint import (
    MANIFEST,
    Manifest,
    Origin,
    newest_first,
    none_left,
    read_manifest,
    step_of,
    verify,
)


@dataclass(frozen=True)
class Stored:
    """One checkpoint as it was found.

    age: seconds since it was committed, None without a manifest. ranks: how many wrote it, None
    where that is not known. tensors: how many each verified file holds.
    """

    name: str
    step: int
    bytes: int
    age: float | None
    ranks: int | None = None
    tensors: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """A run: what it says of itself, and its checkpoints, the one to go on from first."""

    run: Path
    status: Status
    scene: str
    tiles: int
    checkpoints: list[Stored]

    @property
    def fault(self) -> str:
        """What is wrong with the newest checkpoint, in a sentence; empty if it is whole."""
        if not self.checkpoints:
            return str(none_left(RunFolder(self.run).checkpoints, ()))
        faults = self.checkpoints[0].faults
        if not faults:
            return ""
        whole = next((one for one in self.checkpoints if not one.faults), None)
        if whole is None:
            return str(none_left(RunFolder(self.run).checkpoints, faults[:1]))
        return f"{faults[0].removesuffix('.')}; step {whole.step} is whole, and taken in its place."

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": str(self.run),
            "scene": self.scene,
            "tiles": self.tiles,
            "status": asdict(self.status),
            "checkpoints": [asdict(one) for one in self.checkpoints],
            "fault": self.fault,
        }


def inspected(run: RunFolder) -> Inspection:
    """Read all that a run has stored.

    Raises
    ------
    UserError: the run itself, its scene or plan, cannot be read.
    """
    scene = read_back(run)
    origin = Origin.of(run, scene.spec.name, scene.plan)
    found = [_stored(folder, origin) for folder in newest_first(run.checkpoints)]
    return Inspection(run.path, run.status(), scene.spec.name, len(scene.plan), found)


def show_run(found: Inspection, console: Console) -> None:
    """Print what was found, for people."""
    status = found.status
    why = f" ({status.reason})" if status.reason else ""
    console.print(f"state      {status.state}{why}", markup=False)
    console.print(f"step       {status.step:,} of {status.steps:,}", markup=False)
    console.print(f"scene      {found.scene}, {found.tiles} tiles", markup=False)
    table = Table("step", "written by", "size", "age", "files", "tensors", "state")
    for one in found.checkpoints:
        ranks = "?" if one.ranks is None else f"{one.ranks} process{'es' if one.ranks > 1 else ''}"
        table.add_row(
            f"{one.step:,}",
            ranks,
            f"{one.bytes / 2**20:,.1f} MiB",
            "?" if one.age is None else spoken(one.age),
            str(len(one.tensors)),
            str(sum(one.tensors.values())),
            "damaged" if one.faults else "whole",
        )
    if found.checkpoints:
        console.print(table)
    for one in found.checkpoints:
        for fault in one.faults:
            console.print(f"damaged    {fault}", markup=False)


def _stored(folder: Path, origin: Origin) -> Stored:
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    try:
        manifest = read_manifest(folder, origin)
    except UserError as error:
        return Stored(folder.name, step_of(folder), size, _age(folder), faults=[str(error)])
    tensors, faults = _verified(folder, manifest)
    ranks = manifest.meta.get("ranks")
    return Stored(
        name=folder.name,
        step=manifest.step,
        bytes=size,
        age=_age(folder),
        ranks=ranks if isinstance(ranks, int) else None,
        tensors=tensors,
        faults=faults,
    )


def _verified(folder: Path, manifest: Manifest) -> tuple[dict[str, int], list[str]]:
    """Tensors of each whole file, and what is wrong with the others."""
    tensors, faults = {}, []
    for name in sorted(manifest.files):
        try:
            tensors[name] = verify(folder, name, manifest)
        except UserError as error:
            faults.append(str(error))
    return tensors, faults


def _age(folder: Path) -> float | None:
    manifest = folder / MANIFEST
    return time.time() - manifest.stat().st_mtime if manifest.exists() else None
