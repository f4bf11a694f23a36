"""The verb list: all runs of a folder, the newest first; a damaged one says so and hides none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nerfxl.errors import UserError
from nerfxl.progress import Speaker, spoken
from nerfxl.runs import RunFolder

STUDIES = "studies"  # folder of studies, whose fits lie a level deeper
MISSING = "-"


@dataclass(frozen=True)
class Listed:
    """A run as it was found.

    state: that of status.json, or "damaged"; reason: why, where there is something to say. psnr:
    dB, of the newest scores. seconds: of training. bytes: of all its files. started: ISO 8601.
    """

    run: str
    scene: str
    state: str
    reason: str
    step: int | None
    steps: int | None
    psnr: float | None
    seconds: float | None
    bytes: int
    started: str | None
    study: str | None = None


def listed(output_dir: Path, studies: bool, say: Speaker) -> dict[str, Any]:
    """Print the runs under a folder, and return them as plain values.

    studies: the fits of studies, too.

    Raises
    ------
    UserError: there is no such folder.
    """
    if not output_dir.is_dir():
        raise UserError(
            f"{output_dir} is not there: start a run with 'nerfxl fit', or say where the runs are "
            "with --output-dir."
        )
    own = _newest_first(_run(path) for path in _folders(output_dir))
    fits = list(_fits(output_dir / STUDIES))
    shown = own + _newest_first(_run(path, name) for name, path in fits) if studies else own
    if shown:
        _show(shown, output_dir, say)
    elif not fits:
        say(f"{output_dir} holds no run: start one with 'nerfxl fit'.")
    if fits and not studies:
        count = len({name for name, _ in fits})
        named = "1 study" if count == 1 else f"{count} studies"
        say(f"and {len(fits)} fit{'s' if len(fits) > 1 else ''} of {named}: see --studies")
    return {"output_dir": str(output_dir), "runs": [asdict(one) for one in shown]}


def _folders(under: Path) -> Iterator[Path]:
    """Folders that hold a run, or what is left of one."""
    for path in sorted(under.glob("*/*")):
        if path.is_dir() and any((path / name).exists() for name in ("status.json", "checkpoints")):
            yield path


def _fits(under: Path) -> Iterator[tuple[str, Path]]:
    """Names of studies with the folders of their fits."""
    for study in sorted(under.glob("*")):
        for path in _folders(study):
            yield study.name, path


def _newest_first(found: Iterable[Listed]) -> list[Listed]:
    """By when they were started; by their name, which is that time, where they do not say."""
    return sorted(found, key=lambda one: (_began(one.started), one.run), reverse=True)


def _began(started: str | None) -> float:
    return datetime.fromisoformat(started).timestamp() if started else 0.0


def _run(path: Path, study: str | None = None) -> Listed:
    run = RunFolder(path)
    psnr, seconds, fault = _scores(run)
    found = Listed(
        run=str(path),
        scene=path.parent.name,
        state="damaged",
        reason="",
        step=None,
        steps=None,
        psnr=psnr,
        seconds=seconds,
        bytes=_size(path),
        started=None,
        study=study,
    )
    try:
        status = RunFolder.open(path).status()
        _began(status.started)
    except (UserError, ValueError, TypeError) as error:
        return replace(found, reason=str(error))
    return replace(
        found,
        state=status.state,
        reason=". ".join(filter(None, (status.reason.removesuffix("."), fault))),
        step=status.step,
        steps=status.steps,
        started=status.started,
    )


def _scores(run: RunFolder) -> tuple[float | None, float | None, str]:
    """PSNR and seconds of training of the newest scores, and what is wrong with their file."""
    for file in run.scored()[:1]:
        try:
            told = json.loads(file.read_text())
            psnr, seconds = told["psnr"], told["train_seconds"]
            return None if psnr is None else float(psnr), float(seconds), ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            return None, None, f"{file} is damaged: {error!r}"
    return None, None, ""


def _size(path: Path) -> int:
    """Bytes of all files; a run that goes on may remove some meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total


def _show(found: Sequence[Listed], output_dir: Path, say: Speaker) -> None:
    """Print a line a run, and below what there is to say; as wide as it must be, for scripts."""
    heads = ("state", "step", "PSNR", "trained", "size", "run")
    rows = [heads, *(_cells(one, output_dir) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        state, *figures, run = row
        padded = (text.rjust(width) for text, width in zip(figures, widths[1:-1], strict=True))
        say("  ".join((state.ljust(widths[0]), *padded, run)))
    for one in found:
        if one.reason:
            say(f"{one.run}: {one.reason.removesuffix('.')}.")


def _cells(one: Listed, output_dir: Path) -> tuple[str, ...]:
    return (
        one.state,
        MISSING if one.step is None else f"{one.step:,} of {one.steps:,}",
        MISSING if one.psnr is None else f"{one.psnr:.2f} dB",
        MISSING if one.seconds is None else spoken(one.seconds),
        f"{one.bytes / 2**20:,.1f} MiB",
        str(Path(one.run).relative_to(output_dir)),
    )
