"""The verb study: fits its cells one after the other, and reports what is there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfxl.crew import units_of
from nerfxl.errors import UserError
from nerfxl.processes import places
from nerfxl.processes.cluster import cores, device_kind, limited_to
from nerfxl.processes.launch import RankFailedError
from nerfxl.progress import Speaker, spoken
from nerfxl.provenance import session
from nerfxl.runs import RunFolder, make_folder
from nerfxl.scene.file import Device, load_scene
from nerfxl.study import cells, plots, report
from nerfxl.study.book import Book, Entry
from nerfxl.study.grid import (
    LARGEST_SEED,
    MOST_TILES,
    Cell,
    Kind,
    as_options,
    base,
    grid,
    own_keys,
    read_modes,
    read_numbers,
)
from nerfxl.worker import saved_step


@dataclass(frozen=True)
class Ask:
    """What the command line asks for; texts are as they were written, None takes what is usual.

    overrides: `key=value` for all cells. report: write the report again, and train nothing.
    command: the whole line.
    """

    kind: Kind
    scene: Path
    output_dir: Path
    tiles: str | None
    modes: str | None
    seeds: str | None
    overrides: Sequence[str]
    nproc: int | None
    device: str
    skip_missing: bool
    report: bool
    command: str


def conduct(ask: Ask, say: Speaker) -> dict[str, Any]:
    """Fit all cells that are not complete, and write the report; what report.json holds.

    Raises
    ------
    UserError: the question is not clear, or cells were fitted with other settings, before anything
    is trained; a cell failed: at once if it is the first, or else after all others.
    """
    if places.here().size > 1:
        raise UserError(
            f"study starts its processes itself, and {places.here().starter} has started "
            f"{places.here().size}: start it by its own name, once."
        )
    plots.check_installed()
    kind = device_kind(ask.device)
    shared = base(ask.kind, ask.overrides)
    spec = load_scene(ask.scene, device=kind, overrides=shared).spec
    folder = ask.output_dir / "studies" / f"{spec.name}-{ask.kind}"
    if ask.report:
        book = Book.load(folder)
        if book is None:
            raise UserError(f"{folder} holds no study: leave out --report to begin one.")
        return report.write(book, say)
    asked = grid(
        ask.kind,
        read_modes(ask.modes, ask.kind),
        read_numbers(ask.tiles, "--tiles", 1, MOST_TILES),
        read_numbers(ask.seeds, "--seeds", 0, LARGEST_SEED) or (spec.seed,),
        ask.nproc or units_of(kind),
        spec.partition.tiles,
    )
    _refuse_own_keys(ask, asked)
    for cell in asked:  # what the grammar refuses is refused before anything is trained
        load_scene(ask.scene, device=kind, overrides=[*shared, *cell.overrides])
    with _opened(folder, say):
        book = Book.load(folder) or Book(folder, ask.kind, str(ask.scene))
        before = dict(book.entries)
        book.ask(asked, shared, kind)
        _refuse_changes(book, before, ask.scene, shared, kind)
        book.save()
        todo = _told(book, asked, say)
        if shared:
            say(f"           all with {as_options(shared)}")
        failed = []
        if todo:
            book.sessions.append(session(ask.command, kind))
            book.save()
            failed = _fit(book, todo, ask, say)
        found = report.write(book, say)
    if failed:
        raise failed[0]
    return found


def _fit(book: Book, todo: Sequence[Entry], ask: Ask, say: Speaker) -> list[UserError]:
    """Fit cells; those that fail, but for a first one, are passed over, and their errors returned.

    An interruption leaves with the report of what is there.
    """
    failed: list[UserError] = []
    each = _cores_each(book)
    began = time.monotonic()
    for number, entry in enumerate(todo):
        label = entry.cell.label
        say(f"\nfit        {number + 1} of {len(todo)}: {label}")
        say(f"           {as_options(entry.cell.overrides)}")
        failure = ""
        try:
            with limited_to(each * entry.cell.ranks):
                cells.fit(book.path, entry, ask.scene, ask.skip_missing, say)
        except UserError as error:
            if not any(cells.is_complete(cells.run_of(book.path, one)) for one in book.entries):
                raise  # it is likely to be wrong with all of them
            failure = str(error)
            failed.append(_named(label, error))
            say(f"failed     {failure}")
        except (KeyboardInterrupt, SystemExit):
            book.note(label, "")
            report.write(book, say)
            say("stopped    the same command goes on")
            raise
        book.note(label, failure)
        left = len(todo) - number - 1
        if left:
            seconds = (time.monotonic() - began) / (number + 1) * left
            say(f"left       {_fits(left)}, about {spoken(seconds)}")
    return failed


def _cores_each(book: Book) -> int:
    """Cores of a process: as many in a fit of one process as in the one of most, to compare them.

    Where GPUs compute there is nothing to share out.
    """
    if any(entry.device == "cuda" for entry in book.entries.values()):
        return cores()
    return max(1, cores() // max(entry.cell.ranks for entry in book.entries.values()))


def _told(book: Book, asked: Sequence[Cell], say: Speaker) -> list[Entry]:
    """Say how many fits there are, and return those that are not complete."""
    runs = {cell.label: cells.run_of(book.path, cell.label) for cell in asked}
    todo = [label for label, run in runs.items() if not cells.is_complete(run)]
    begun = sum(1 for label in todo if (run := runs[label]) and saved_step(run) is not None)
    done = len(asked) - len(todo)
    say(f"study      {book.path}")
    say(f"           {_fits(len(asked))}: {done} complete, {begun} begun, {len(todo)} to fit")
    return [book.entries[label] for label in todo]


@contextmanager
def _opened(folder: Path, say: Speaker) -> Iterator[None]:
    """Keep a study's folder for this process; what is refused before its first step leaves none."""
    new = [one for one in (folder, folder.parent, folder.parent.parent) if not one.exists()]
    make_folder(folder)
    try:
        with RunFolder(folder).locked(say):
            yield
    except RankFailedError:
        raise
    except UserError:
        if folder in new and not any(folder.glob("*/*/status.json")):
            shutil.rmtree(folder)
            for above in new[1:]:
                with suppress(OSError):  # something else has begun in it meanwhile
                    above.rmdir()
        raise


def _refuse_own_keys(ask: Ask, asked: Sequence[Cell]) -> None:
    """Refuse to share among all cells what makes them differ."""
    own = own_keys(asked)
    for text in ask.overrides:
        key = text.partition("=")[0]
        if key in own or any(one.startswith(f"{key}.") for one in own):
            raise UserError(
                f"--set {text}: study {ask.kind} sets {key} itself, cell by cell; leave it out, "
                "and see --tiles, --modes and --seeds."
            )


def _refuse_changes(
    book: Book, before: Mapping[str, Entry], scene: Path, shared: Sequence[str], kind: Device
) -> None:
    """Refuse to mix cells that were fitted with other settings than they would be now."""
    for label, entry in book.entries.items():
        run = cells.run_of(book.path, label)
        if run is None or saved_step(run) is None:
            continue
        now = load_scene(scene, device=kind, overrides=[*shared, *entry.cell.overrides])
        changes = cells.differences(run, now)
        was = before.get(label, entry)
        if was.cell.ranks != entry.cell.ranks:
            changes.append(f"processes {was.cell.ranks}, now {entry.cell.ranks}")
        if was.device != kind:
            changes.append(f"device {was.device}, now {kind}")
        if changes:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise UserError(
                f"{run.path} was fitted with {'; '.join(changes[:3])}{more}: ask as before, or "
                "begin another study by another --output-dir."
            )


def _named(label: str, error: UserError) -> UserError:
    """An error that says which cell it is of."""
    if isinstance(error, RankFailedError):
        return RankFailedError(f"{label}: {error.brief}", error.log, error.exit_code)
    return UserError(f"{label}: {error}")


def _fits(count: int) -> str:
    return f"{count} fit{'s' if count != 1 else ''}"
