"""A cell of a study: what has become of it, whether it is still the same, and fitting it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nerfxl import commands
from nerfxl.crew import Launching
from nerfxl.progress import Speaker
from nerfxl.runs import RunFolder
from nerfxl.scene.file import Scene, choose_candidate, load_scene
from nerfxl.study.book import Entry
from nerfxl.worker import saved_step

MAX_RESTARTS = 3
SCORES = "metrics.json"


def run_of(study: Path, label: str) -> RunFolder | None:
    """Where a cell was fitted, or began to be: its newest run."""
    if not any((study / label).glob("*/status.json")):
        return None
    return RunFolder.newest(study, label)


def is_complete(run: RunFolder | None) -> bool:
    """Whether a cell was trained to its last step, and scored."""
    return (
        run is not None and run.status().state == "completed" and (scored(run) / SCORES).is_file()
    )


def scored(run: RunFolder) -> Path:
    """Where the scores and pictures of a run's last step are."""
    return run.eval / f"step-{run.status().steps:09d}"


def told(run: RunFolder | None, entry: Entry) -> str:
    """In words, what has become of a cell."""
    if is_complete(run):
        return "complete"
    if entry.failure:
        return f"failed: {entry.failure.removesuffix('.')}"
    if run is None:
        return "to do"
    status = run.status()
    return f"{status.state} at step {status.step:,} of {status.steps:,}"


def differences(run: RunFolder, scene: Scene) -> list[str]:
    """What a run was fitted with and this scene says otherwise: 'train.steps 300, now 500'."""
    before = _settings(load_scene(run.scene, device="cpu"))
    now = _settings(scene)
    now["capture.path"] = str(choose_candidate(scene)[0])
    return [
        f"{key} {before.get(key)}, now {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def fit(
    study: Path,
    entry: Entry,
    scene: Path,
    skip_missing: bool,
    say: Speaker,
) -> None:
    """Fit a cell, or go on with it from its newest checkpoint.

    Raises
    ------
    UserError: as fit and resume do.
    """
    launching = Launching(entry.cell.ranks, max_restarts=MAX_RESTARTS)
    run = run_of(study, entry.cell.label)
    if run is not None and saved_step(run) is not None:
        commands.resume(run.path, study, entry.device, [], say, launching)
    else:
        commands.fit(scene, study, entry.device, entry.overrides, skip_missing, say, launching)


def _settings(scene: Scene) -> dict[str, Any]:
    """Every key of a resolved scene by its dotted name."""
    document = scene.spec.model_dump(mode="json", exclude={"profiles"})
    document["capture"]["path"] = document["capture"]["path"][0]["path"]
    if scene.spec.partition.plan != "auto":
        document["partition"]["plan"] = "given"  # a run keeps it as its own plan.json
    return dict(_flat(document, ""))


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
