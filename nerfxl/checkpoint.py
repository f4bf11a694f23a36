"""Checkpoints: one safetensors shard a tile, and a manifest of hashes that commits them all."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.ranks import Ranks
from nerfxl.runs import sync_folder, write_atomic

FORMAT = "nerfxl-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
SHARED = "shared.safetensors"
LATEST = "latest"

Scalar = str | int | float

_FOLDER = re.compile(r"step-\d{9,}")
_RECORD = struct.Struct("<qq32s")  # tile, bytes, sha256


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says it holds; files: name -> (sha256, bytes)."""

    step: int
    tiles: int
    files: dict[str, tuple[str, int]]
    meta: dict[str, Scalar]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A saved step: the tiles that were asked for, what all tiles share, and the scalars.

    Names of tensors ("field.table", "optimiser.table.m") are free of ranks, so that a run saved on
    any number of ranks is loaded on any other.
    """

    step: int
    tile_count: int
    tiles: dict[int, dict[str, Tensor]]
    shared: dict[str, Tensor]
    meta: dict[str, Scalar]


def save(
    folder: Path,
    step: int,
    tiles: Mapping[int, Mapping[str, Tensor]],
    shared: Mapping[str, Tensor] | None,
    meta: Mapping[str, Scalar],
    ranks: Ranks,
    keep_last: int | None = None,
) -> Path:
    """Write `folder/step-<step>/` and return it; a collective.

    Every rank writes its own tiles into a temporary folder. When all are on disk, rank 0 writes
    the manifest, renames the folder and points `folder/latest` at it. A crash at any moment leaves
    the older checkpoints as they were.

    Parameters
    ----------
    folder
        The `checkpoints` folder of a run, seen by all ranks.
    step
        Steps done.
    tiles
        This rank's tiles; all ranks together hold tiles 0 .. K-1, each once.
    shared
        What is the same on all ranks; rank 0's is written.
    meta
        Scalars; finite.
    ranks
        Who writes.
    keep_last
        How many checkpoints to keep, this one included; None keeps all.

    Raises
    ------
    UserError
        On every rank, if a file of any rank cannot be written.

    """
    scalars = json.loads(json.dumps(dict(meta), allow_nan=False))
    temporary = folder / f"{_name(step)}.tmp"
    with _agreed(ranks):
        if ranks.first:
            _prepare(folder, temporary)
    with _agreed(ranks):
        own = [(t, *_write(temporary / shard(t), tensors)) for t, tensors in tiles.items()]
    shards = _gather(own, ranks)
    with _agreed(ranks):
        if ranks.first:
            files = {shard(tile): (digest, size) for tile, size, digest in shards}
            if shared:
                size, digest = _write(temporary / SHARED, shared)
                files[SHARED] = digest, size
            manifest = Manifest(step, len(shards), files, scalars)
            _commit(folder, temporary, manifest)
            _prune(folder, step, keep_last)
    return folder / _name(step)


def load(
    path: Path,
    tiles: Iterable[int] | None = None,
    device: torch.device | str = "cpu",
    expect: int | None = None,
) -> Checkpoint:
    """Read a checkpoint and verify the hash of every file that is read.

    Parameters
    ----------
    path
        The folder of one step, or a `checkpoints` folder: then its latest complete one.
    tiles
        The tiles to read (those this rank owns); None reads all.
    device
        Where the tensors go.
    expect
        The number of tiles of the plan the checkpoint is read for, if it must match.

    Raises
    ------
    UserError
        If a file is missing, truncated, damaged or not ours, or the tiles are not those expected.

    """
    named = _FOLDER.fullmatch(path.name) or (path / MANIFEST).exists()
    folder = path if named else latest(path)
    manifest = read_manifest(folder)
    if expect is not None and expect != manifest.tiles:
        raise UserError(
            f"{folder} holds {manifest.tiles} tiles, but the plan has {expect}: "
            "use the plan.json of the run that wrote it."
        )
    wanted = range(manifest.tiles) if tiles is None else list(tiles)
    absent = [tile for tile in wanted if not 0 <= tile < manifest.tiles]
    if absent:
        raise UserError(
            f"{folder} holds tiles 0 to {manifest.tiles - 1}, but tile {absent[0]} was asked for."
        )
    return Checkpoint(
        step=manifest.step,
        tile_count=manifest.tiles,
        tiles={tile: _read(folder, shard(tile), manifest, device) for tile in wanted},
        shared=_read(folder, SHARED, manifest, device) if SHARED in manifest.files else {},
        meta=manifest.meta,
    )


def latest(checkpoints: Path) -> Path:
    """Return the checkpoint written last; if it is incomplete, the newest complete one.

    Complete: a valid manifest, and all its files there with the right size. Flipped bits inside a
    file are found when it is read.

    Raises
    ------
    UserError
        If there is none.

    """
    candidates = sorted(_folders(checkpoints), reverse=True)
    with suppress(OSError):
        name = (checkpoints / LATEST).read_text().strip()
        if _FOLDER.fullmatch(name):
            candidates.insert(0, checkpoints / name)
    for folder in candidates:
        if _complete(folder):
            return folder
    raise UserError(
        f"{checkpoints} holds no complete checkpoint: start the run anew, or name another folder."
    )


def read_manifest(folder: Path) -> Manifest:
    """Read what a checkpoint holds.

    Raises
    ------
    UserError
        If the manifest is missing, damaged, not ours, or of a newer version.

    """
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a complete checkpoint: it holds no {MANIFEST}. Name another one."
        ) from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: it is not JSON. {_remedy(folder)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} is not the manifest of a nerfxl checkpoint.")
    if content.get("version") != VERSION:
        raise UserError(
            f"{file} has version {content.get('version')}, this nerfxl reads version {VERSION}: "
            "use the nerfxl that wrote it."
        )
    if content.pop("sha256", None) != _digest_of(content):
        raise UserError(f"{file} is damaged: it does not match its own hash. {_remedy(folder)}")
    return Manifest(
        step=content["step"],
        tiles=content["tiles"],
        files={name: (entry["sha256"], entry["bytes"]) for name, entry in content["files"].items()},
        meta=content["meta"],
    )


def shard(tile: int) -> str:
    """Name of a tile's file."""
    return f"tile-{tile:04d}.safetensors"


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _folders(checkpoints: Path) -> list[Path]:
    return [folder for folder in checkpoints.glob("step-*") if _FOLDER.fullmatch(folder.name)]


def _remedy(folder: Path) -> str:
    return f"Delete {folder.name} to go on from an older checkpoint."


@contextmanager
def _agreed(ranks: Ranks) -> Iterator[None]:
    """All ranks get through, or all raise: none is left waiting in a collective."""
    try:
        yield
    except UserError:
        ranks.any(True)
        raise
    if ranks.any(False):
        raise UserError("another rank could not write its part of the checkpoint: see its log.")


def _prepare(folder: Path, temporary: Path) -> None:
    """Make the temporary folder, and clear away what crashed saves left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("step-*.tmp"):
            _discard(leftover)
        for pointer in folder.glob(f".{LATEST}.*.tmp"):
            pointer.unlink()
        temporary.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{temporary} could not be made: {error.strerror}.") from error


def _write(file: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write one shard; its size and hash, taken from memory so that the disk is checked too."""
    # A copy each: safetensors refuses tensors that share storage, as views of one buffer do.
    plain = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    data = safetensors.torch.save(plain)
    write_atomic(file, data)
    return len(data), hashlib.sha256(data).hexdigest()


def _gather(own: list[tuple[int, int, str]], ranks: Ranks) -> list[tuple[int, int, str]]:
    """(tile, bytes, sha256) of all ranks' shards, by tile; they must be tiles 0 .. K-1."""
    packed = b"".join(_RECORD.pack(tile, size, bytes.fromhex(sha)) for tile, size, sha in own)
    row = torch.tensor(list(packed), dtype=torch.uint8, device=ranks.device)
    count = torch.tensor([len(own)], device=ranks.device)
    counts = ranks.all_gather(count, [1] * ranks.size).tolist()
    rows = ranks.all_gather(row.reshape(len(own), _RECORD.size), counts)
    records = sorted(
        (tile, size, sha.hex())
        for tile, size, sha in _RECORD.iter_unpack(bytes(rows.flatten().tolist()))
    )
    if [tile for tile, _, _ in records] != list(range(len(records))):
        raise ValueError(f"tiles must be 0 .. K-1, each once: {[record[0] for record in records]}")
    return records


def _commit(folder: Path, temporary: Path, manifest: Manifest) -> None:
    """Make a complete checkpoint of the temporary folder."""
    content: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "step": manifest.step,
        "tiles": manifest.tiles,
        "files": {
            name: {"sha256": sha, "bytes": size} for name, (sha, size) in manifest.files.items()
        },
        "meta": manifest.meta,
    }
    content["sha256"] = _digest_of(content)
    write_atomic(temporary / MANIFEST, json.dumps(content, indent=2) + "\n")
    final = folder / _name(manifest.step)
    replaced = folder / f"{final.name}.old.tmp"
    try:
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        sync_folder(folder)
        write_atomic(folder / LATEST, final.name + "\n")
        if replaced.exists():
            _discard(replaced)
    except OSError as error:
        raise UserError(f"{final} could not be written: {error.strerror}.") from error


def _prune(folder: Path, step: int, keep_last: int | None) -> None:
    """Discard all but the checkpoint just written and the keep_last - 1 highest other steps."""
    if keep_last is None:
        return
    others = sorted(path for path in _folders(folder) if path.name != _name(step))
    for old in others[: max(0, len(others) - max(0, keep_last - 1))]:
        _discard(old)


def _discard(folder: Path) -> None:
    """Remove our files; the manifest first, so that no half checkpoint looks whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for pattern in ("*.safetensors", ".*.tmp"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # somebody keeps a file of their own in there
        folder.rmdir()


def _complete(folder: Path) -> bool:
    try:
        manifest = read_manifest(folder)
        return all(
            (folder / name).stat().st_size == size for name, (_, size) in manifest.files.items()
        )
    except (OSError, UserError):
        return False


def _read(
    folder: Path, name: str, manifest: Manifest, device: torch.device | str
) -> dict[str, Tensor]:
    sha, size = manifest.files[name]
    file = folder / name
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{file} is missing, though the manifest lists it. {_remedy(folder)}"
        ) from error
    if len(data) != size:
        raise UserError(f"{file} has {len(data)} bytes instead of {size}. {_remedy(folder)}")
    # safetensors has no checksum of its own: a flipped bit would load without a word.
    if hashlib.sha256(data).hexdigest() != sha:
        raise UserError(f"{file} is damaged: its sha256 is not the manifest's. {_remedy(folder)}")
    return {name: tensor.to(device) for name, tensor in safetensors.torch.load(data).items()}


def _digest_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
