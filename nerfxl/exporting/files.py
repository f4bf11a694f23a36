"""Where an export goes: the run's own folder unless told otherwise, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nerfxl.errors import UserError
from nerfxl.exporting.geometry import Geometry
from nerfxl.exporting.glb import glb
from nerfxl.exporting.ply import ply
from nerfxl.runs import RunFolder, make_folder, write_atomic

FOLDER = "exports"
WRITERS: dict[str, Callable[[Geometry], list[bytes]]] = {".ply": ply, ".glb": glb}


def target(run: RunFolder, name: str, to: Path | None, overwrite: bool) -> Path:
    """The file to write, whose suffix says the format; asked before anything is computed.

    name: what it is called inside the run's folder, where `to` does not say.

    Raises
    ------
    UserError: the suffix names no format that is written; the file is there already, and overwrite
    is not asked for; a folder is in its place.
    """
    path = run.path / FOLDER / name if to is None else to
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--to {path}: the suffix is the format, {' or '.join(WRITERS)}.")
    if path.is_dir():
        raise UserError(f"--to {path} is a folder: name a file in it, such as {path / name}.")
    if path.exists() and not overwrite:
        raise UserError(
            f"{path} is there already: replace it by --overwrite, or name another by --to."
        )
    return path


def store(shape: Geometry, path: Path) -> None:
    """Write points or a mesh, whole or not at all.

    Raises
    ------
    UserError: there is no room, or no permission.
    """
    make_folder(path.parent)
    write_atomic(path, WRITERS[path.suffix.lower()](shape))
