"""All that a run's folder tells of the run, and a note of whatever is missing or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfxl import history
from nerfxl.captures import Capture
from nerfxl.errors import UserError
from nerfxl.history import History
from nerfxl.prepare import RunScene, photographs, read_back
from nerfxl.provenance import sessions
from nerfxl.runs import RunFolder, Status


@dataclass(frozen=True)
class Scores:
    """What one scoring wrote: its file's content, and the folder of its pictures."""

    folder: Path
    told: dict[str, Any]

    @property
    def step(self) -> int:
        """After how many steps."""
        return int(self.told["step"])

    @property
    def views(self) -> list[dict[str, Any]]:
        """Of each held-out image: name, psnr, ssim or None."""
        return list(self.told["per_image"])


@dataclass
class Facts:
    """A run as it is found.

    scene, capture: None where they cannot be read; notes say why. scores: the newest first.
    sessions: the lines of sessions.jsonl, one each time that the run was trained.
    """

    run: RunFolder
    status: Status
    scene: RunScene | None
    capture: Capture | None
    history: History
    scores: list[Scores]
    sessions: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def gather(run: RunFolder) -> Facts:
    """Read what there is.

    Raises
    ------
    UserError: status.json is damaged, or not there.
    """
    found = Facts(run, run.status(), None, None, history.read(run.metrics), [], sessions(run))
    try:
        found.scene = read_back(run)
    except UserError as error:
        found.notes.append(f"What the run was asked cannot be read: {error}")
    if found.scene is not None:
        try:
            found.capture = photographs(run, found.scene.spec, found.scene.shots)
        except UserError as error:
            found.notes.append(
                f"The photographs are not there: truth and error are not shown. {error}"
            )
    _read_scores(found)
    _note_gaps(found)
    return found


def _read_scores(found: Facts) -> None:
    for file in found.run.scored():
        try:
            told = json.loads(file.read_text())
            scores = Scores(file.parent, told)
            _check_scores(scores)
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.notes.append(f"{file} is damaged, and left out: {error!r}.")
        else:
            found.scores.append(scores)


def _check_scores(scores: Scores) -> None:
    """See that a page can be made of them; raises what Python raises where it cannot."""
    told = scores.told
    numbers = [scores.step, told["train_seconds"], *told["peak_memory_per_rank"]]
    numbers += [one["psnr"] for one in scores.views]
    optional = [told["psnr"], told["ssim"], *(one["ssim"] for one in scores.views)]
    for number in [*numbers, *(one for one in optional if one is not None)]:
        float(number)
    for one in scores.views:
        if not isinstance(one["name"], str):
            raise TypeError(f"a view is named {one['name']!r}")


def _note_gaps(found: Facts) -> None:
    """Say what a reader would else take for the whole truth."""
    capture, curves = found.capture, found.history
    if capture is not None and capture.skipped:
        some = ", ".join(capture.skipped[:3])
        more = f" and {len(capture.skipped) - 3} more" if len(capture.skipped) > 3 else ""
        found.notes.append(f"Photographs are missing by now, and not shown: {some}{more}.")
    if curves.damaged:
        one = curves.damaged == 1
        lines = "1 line" if one else f"{curves.damaged} lines"
        left = "is left out" if one else "are left out"
        found.notes.append(f"{lines} of metrics.jsonl cannot be read, and {left}.")
    if curves.returns:
        steps = ", ".join(f"{step:,}" for step in curves.returns)
        found.notes.append(
            f"Training went on anew from step {steps}: what was told of later steps before is "
            "replaced by what was told after."
        )
    if not found.scores:
        found.notes.append("No held-out image has been scored: there are no pictures yet.")
    note = found.scores[0].told.get("capture_note") if found.scores else capture and capture.note
    if note:
        found.notes.insert(0, f"Of the photographs: {note}.")
