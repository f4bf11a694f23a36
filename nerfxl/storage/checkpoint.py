"""Checkpoints as they lie on disk: a safetensors shard a tile, a manifest of hashes; reading."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.partition import Plan
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import RunFolder

FORMAT = "nerfxl-checkpoint"
VERSION = 2
MANIFEST = "manifest.json"
SHARED = "shared.safetensors"
LATEST = "latest"

Scalar = str | int | float
Wanted = Callable[[str], bool]

_FOLDER = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True)
class Origin:
    """Whose a checkpoint is. started: when its run was, which no two runs share. plan: its hash."""

    scene: str
    started: str
    plan: str

    @classmethod
    def of(cls, run: RunFolder, scene: str, plan: Plan) -> Origin:
        """Origin of what a run writes."""
        digest = hashlib.sha256(plan.to_json().encode()).hexdigest()
        return cls(scene, run.status().started, digest)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says it holds; files: name -> (sha256, bytes)."""

    step: int
    origin: Origin
    tiles: int
    files: dict[str, tuple[str, int]]
    meta: dict[str, Scalar]

    def to_json(self) -> str:
        """Write the manifest, with a hash of its own."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "step": self.step,
            "origin": asdict(self.origin),
            "tiles": self.tiles,
            "files": {
                name: {"sha256": sha, "bytes": size} for name, (sha, size) in self.files.items()
            },
            "meta": self.meta,
        }
        return json.dumps({**content, "sha256": _digest_of(content)}, indent=2) + "\n"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A saved step: the tiles that were asked for, what all tiles share, and the scalars.

    Names of tensors ("field.table", "optimiser.table.m") are free of ranks, so that a run saved on
    any number of ranks is loaded on any other. passed_over: what is wrong with each newer one.
    """

    folder: Path
    step: int
    tiles: dict[int, dict[str, Tensor]]
    shared: dict[str, Tensor]
    meta: dict[str, Scalar]
    passed_over: tuple[str, ...] = ()


def everything(name: str) -> bool:
    """Want every tensor."""
    del name
    return True


def fields(name: str) -> bool:
    """Want what pictures are made of, and nothing that only training goes on with."""
    return not name.startswith("optimiser.")


def load(
    checkpoints: Path,
    origin: Origin,
    tiles: Iterable[int],
    ranks: Ranks,
    wanted: Wanted = everything,
) -> Checkpoint:
    """Read the newest checkpoint that all ranks find whole; a collective.

    Every rank reads its shards of the newest one. If any finds damage, all go to the one before
    it, and rank 0 says on stderr what was wrong with which file.

    Parameters
    ----------
    checkpoints
        The `checkpoints` folder of a run, seen by all ranks.
    origin
        The run that it must come from.
    tiles
        The tiles to read: those of this rank.
    ranks
        Who reads; the tensors go to their device.
    wanted
        Which tensors, by name; the files' hashes are verified all the same.

    Raises
    ------
    UserError
        On every rank, if none is left.

    """
    own = list(tiles)
    names = ranks.gather_json([folder.name for folder in newest_first(checkpoints)])[0]
    passed_over: list[str] = []
    for name in names:
        folder, fault, found = checkpoints / name, "", None
        try:
            found = read(folder, origin, own, ranks.device, wanted)
        except UserError as error:
            fault = str(error)
        faults = [other for other in ranks.gather_json(fault) if other]
        if found and not faults:
            return replace(found, passed_over=tuple(passed_over))
        passed_over.append(faults[0])
        if ranks.first:
            sys.stderr.write(f"nerfxl: {faults[0]} Trying the checkpoint before it.\n")
    raise none_left(checkpoints, passed_over)


def read(
    folder: Path,
    origin: Origin,
    tiles: Iterable[int] | None = None,
    device: torch.device | str = "cpu",
    wanted: Wanted = everything,
) -> Checkpoint:
    """Read one checkpoint and verify the hash of every file that is read; tiles: None is all.

    Raises
    ------
    UserError
        If it comes from another run, or a file is missing, truncated, damaged or not ours.

    """
    manifest = read_manifest(folder, origin)

    def tensors(name: str) -> dict[str, Tensor]:
        return _read(folder, name, manifest, device, wanted)

    return Checkpoint(
        folder=folder,
        step=manifest.step,
        tiles={k: tensors(shard(k)) for k in (range(manifest.tiles) if tiles is None else tiles)},
        shared=tensors(SHARED) if SHARED in manifest.files else {},
        meta=manifest.meta,
    )


def verify(folder: Path, name: str, manifest: Manifest) -> int:
    """Read one file of a checkpoint from disk, and count its tensors.

    Raises
    ------
    UserError
        If it is missing, truncated or damaged.

    """
    return len(_read(folder, name, manifest, "cpu", everything))


def newest_first(checkpoints: Path) -> list[Path]:
    """Folders of checkpoints, whole or not: the one written last, then by step."""
    folders = [folder for folder in checkpoints.glob("step-*") if step_of(folder) >= 0]
    folders.sort(key=step_of, reverse=True)
    with suppress(OSError, UnicodeDecodeError):
        last = checkpoints / (checkpoints / LATEST).read_text().strip()
        folders.sort(key=lambda folder: folder != last)
    return folders


def latest(checkpoints: Path, origin: Origin | None = None) -> Path:
    """Return the newest checkpoint with a valid manifest and all its files at their right size.

    Flipped bits inside a file are found when it is read.

    Raises
    ------
    UserError
        If there is none.

    """
    faults = []
    for folder in newest_first(checkpoints):
        try:
            manifest = read_manifest(folder, origin)
            for name, (_, size) in manifest.files.items():
                _check_size(folder / name, size)
            return folder
        except UserError as error:
            faults.append(str(error))
    raise none_left(checkpoints, faults)


def none_left(checkpoints: Path, faults: Iterable[str]) -> UserError:
    """Say that there is nothing to go on from, and why."""
    why = "".join(f"; {fault.removesuffix('.')}" for fault in faults)
    scene = checkpoints.parent / "scene.yaml"
    return UserError(
        f"{checkpoints} holds no whole checkpoint: start anew by 'nerfxl fit {scene}'{why}."
    )


def read_manifest(folder: Path, origin: Origin | None = None) -> Manifest:
    """Read what a checkpoint holds; with an origin, of that run only.

    Raises
    ------
    UserError
        If the manifest is missing, damaged, not ours, of another version or of another run.

    """
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a complete checkpoint: it holds no {MANIFEST}."
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: it is not JSON.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} is not the manifest of a nerfxl checkpoint.")
    if content.get("version") != VERSION:
        raise UserError(
            f"{file} has version {content.get('version')}, this nerfxl reads version {VERSION}: "
            "use the nerfxl that wrote it."
        )
    if content.pop("sha256", None) != _digest_of(content):
        raise UserError(f"{file} is damaged: it does not match its own hash.")
    try:
        manifest = _decoded(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: it does not say what it must.") from error
    if origin is not None:
        _check_origin(folder, manifest.origin, origin)
    return manifest


def shard(tile: int) -> str:
    """Name of a tile's file."""
    return f"tile-{tile:04d}.safetensors"


def folder_name(step: int) -> str:
    """Name of the folder of a step."""
    return f"step-{step:09d}"


def step_of(folder: Path) -> int:
    """Step of a checkpoint's folder; -1 where the name is no checkpoint's."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _decoded(content: Mapping[str, object]) -> Manifest:
    step, tiles, origin, files, meta = (
        content[key] for key in ("step", "tiles", "origin", "files", "meta")
    )
    if not (isinstance(step, int) and isinstance(tiles, int) and isinstance(files, dict)):
        raise TypeError
    if not (isinstance(origin, dict) and isinstance(meta, dict)):
        raise TypeError
    if set(files) - {SHARED} != {shard(tile) for tile in range(tiles)}:
        raise ValueError
    listed = {name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in files.items()}
    return Manifest(step, Origin(**origin), tiles, listed, meta)


def _check_origin(folder: Path, found: Origin, expected: Origin) -> None:
    if (found.scene, found.started) != (expected.scene, expected.started):
        raise UserError(
            f"{folder} comes from another run, of scene '{found.scene}', started {found.started}."
        )
    if found.plan != expected.plan:
        raise UserError(f"{folder} was written for another plan than the run's plan.json.")


def _check_size(file: Path, size: int) -> None:
    try:
        found = file.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing, though the manifest lists it.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    if found != size:
        raise UserError(f"{file} has {found} bytes instead of {size}.")


def _read(
    folder: Path, name: str, manifest: Manifest, device: torch.device | str, wanted: Wanted
) -> dict[str, Tensor]:
    sha, size = manifest.files[name]
    file = folder / name
    _check_size(file, size)
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    # safetensors has no checksum of its own: a flipped bit would load without a word.
    if found != sha:
        raise UserError(f"{file} is damaged: its sha256 is not the manifest's.")
    try:
        with safetensors.safe_open(file, "pt") as held:
            names = [one for one in held.keys() if wanted(one)]  # noqa: SIM118  it is no dict
            # Copies: a tensor that is a view of the file would die with the file.
            return {one: held.get_tensor(one).to(device, copy=True) for one in names}
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: it is no safetensors file.") from error


def _digest_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
