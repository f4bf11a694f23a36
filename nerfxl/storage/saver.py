"""Writes checkpoints beside the training: tensors are copied at once, and stored by a thread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import sync_folder, write_atomic
from nerfxl.storage.checkpoint import (
    LATEST,
    MANIFEST,
    SHARED,
    Manifest,
    Origin,
    Scalar,
    folder_name,
    newest_first,
    read_manifest,
    shard,
    step_of,
)

POLL_SECONDS = 0.5  # between the questions whether all have written; far below any timeout

DTYPES = {  # safetensors' names
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_Tensors = dict[str, Tensor]
_Record = tuple[str, str, int]  # file, sha256, bytes


@dataclass(frozen=True)
class _Pending:
    step: int
    meta: dict[str, Scalar]
    temporary: Path
    written: Future[list[_Record]]


class Saver:
    """Writes the checkpoints of a run, one at a time.

    `start` copies tensors and returns; a thread of every rank serialises, hashes and writes its
    shards into a temporary folder. `finish` makes a checkpoint of them: when all are on disk,
    rank 0 writes the manifest, renames the folder and points `folder/latest` at it. A crash at any
    moment leaves the older checkpoints as they were. Threads enter no collective.

    Parameters
    ----------
    folder
        The `checkpoints` folder of a run, seen by all ranks.
    origin
        The run.
    ranks
        Who writes.
    keep_last
        How many checkpoints to keep; None keeps all.

    """

    def __init__(
        self, folder: Path, origin: Origin, ranks: Ranks, keep_last: int | None = None
    ) -> None:
        self.folder, self.origin, self.ranks, self.keep_last = folder, origin, ranks, keep_last
        self._thread = ThreadPoolExecutor(1, "nerfxl-saver")
        # Kept from one checkpoint to the next: fresh memory costs far more than the copying.
        self._copies: dict[str, _Tensors] = {}
        self._pending: _Pending | None = None

    @property
    def writing(self) -> bool:
        """Whether this rank's thread is at work."""
        return self._pending is not None and not self._pending.written.done()

    def start(
        self,
        step: int,
        tiles: Mapping[int, Mapping[str, Tensor]],
        shared: Mapping[str, Tensor],
        meta: Mapping[str, Scalar],
    ) -> None:
        """Begin a checkpoint, after the one before is finished; a collective.

        Parameters
        ----------
        step
            Steps done.
        tiles
            This rank's tiles; all ranks together hold tiles 0 .. K-1, each once.
        shared
            What is the same on all ranks; rank 0's is written.
        meta
            Scalars; finite.

        Raises
        ------
        UserError
            On every rank, if the folder cannot be made or the checkpoint before cannot be written.

        """
        scalars = json.loads(json.dumps(dict(meta), allow_nan=False))
        self.finish()
        temporary = self.folder / f"{folder_name(step)}.tmp"
        self._agree(step, _fault(self._prepare, temporary) if self.ranks.first else "")
        files = {shard(tile): tensors for tile, tensors in tiles.items()}
        if shared and self.ranks.first:
            files[SHARED] = shared
        for name, tensors in files.items():
            _copy(tensors, self._copies.setdefault(name, {}))
        written = self._thread.submit(_write_all, temporary, self._copies)
        self._pending = _Pending(step, scalars, temporary, written)

    def finish(self) -> None:
        """Wait until all ranks have written, and commit; does nothing if nothing is pending.

        A collective.

        Raises
        ------
        UserError
            On every rank, if a file of any rank cannot be written; what was written is removed.

        """
        if self._pending is None:
            return
        # Asked over and over: a collective must not wait for a disk longer than its timeout.
        while self.ranks.any(self.writing):
            wait([self._pending.written], POLL_SECONDS)
        pending, self._pending = self._pending, None
        records: list[_Record] = []
        fault = ""
        try:
            records = pending.written.result()
        except UserError as error:
            fault = str(error)
        self._agree(pending.step, fault)
        found = [record for own in self.ranks.gather_json(records) for record in own]
        files = {name: (sha, size) for name, sha, size in found}
        tiles = len(found) - (SHARED in files)
        if set(files) - {SHARED} != {shard(tile) for tile in range(tiles)}:
            raise ValueError(f"tiles must be 0 .. K-1, each once: {[name for name, *_ in found]}")
        if self.ranks.first:
            fault = _fault(self._commit, pending, tiles, files)
        self._agree(pending.step, fault)

    def _agree(self, step: int, fault: str) -> None:
        """All ranks get through, or all raise the same: none is left waiting in a collective."""
        faults = [other for other in self.ranks.gather_json(fault) if other]
        if not faults:
            return
        if self.ranks.first:
            with suppress(OSError):  # room for what is still to be written: status.json, logs
                discard(self.folder / f"{folder_name(step)}.tmp")
        raise UserError(
            f"the checkpoint of step {step} is not stored, older ones are kept: {faults[0]}"
        )

    def _prepare(self, temporary: Path) -> None:
        """Make the temporary folder, and clear away what crashed saves left."""
        for leftover in self.folder.glob("step-*.tmp"):
            discard(leftover)
        for pointer in self.folder.glob(f".{LATEST}.*.tmp"):
            pointer.unlink()
        temporary.mkdir(parents=True)

    def _commit(self, pending: _Pending, tiles: int, files: dict[str, tuple[str, int]]) -> None:
        """Make a complete checkpoint of the temporary folder, and prune."""
        manifest = Manifest(pending.step, self.origin, tiles, files, pending.meta)
        write_atomic(pending.temporary / MANIFEST, manifest.to_json())
        final = self.folder / folder_name(pending.step)
        replaced = self.folder / f"{final.name}.old.tmp"
        if final.exists():
            final.rename(replaced)
        pending.temporary.rename(final)
        sync_folder(self.folder)
        write_atomic(self.folder / LATEST, final.name + "\n")
        if replaced.exists():
            discard(replaced)
        for old in superseded(self.folder, pending.step, self.keep_last):
            if not self._is_foreign(old):
                discard(old)

    def _is_foreign(self, folder: Path) -> bool:
        """Whether another run wrote a checkpoint: somebody put it there, and may want it back."""
        try:
            found = read_manifest(folder).origin
        except UserError:
            return False
        return (found.scene, found.started) != (self.origin.scene, self.origin.started)


def superseded(checkpoints: Path, step: int, keep_last: int | None) -> list[Path]:
    """Checkpoints to be removed once that of `step` is written.

    Those above it are of a run that went back and took another way; of those below it, the
    keep_last - 1 newest stay.
    """
    if keep_last is None:
        return []
    folders = sorted(newest_first(checkpoints), key=step_of)
    older = [folder for folder in folders if step_of(folder) < step]
    abandoned = [folder for folder in folders if step_of(folder) > step]
    return older[: max(0, len(older) - max(0, keep_last - 1))] + abandoned


def discard(folder: Path) -> None:
    """Remove our files; the manifest first, so that no half checkpoint looks whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for pattern in ("*.safetensors", ".*.tmp"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # somebody keeps a file of their own in there
        folder.rmdir()


def _copy(tensors: Mapping[str, Tensor], copies: _Tensors) -> None:
    """Bring copies on the CPU, which training does not change, up to date."""
    for name, tensor in tensors.items():
        if name not in copies:
            plain = torch.contiguous_format
            copies[name] = torch.empty_like(tensor, device="cpu", memory_format=plain)
        copies[name].copy_(tensor.detach())


def _write_all(folder: Path, files: Mapping[str, _Tensors]) -> list[_Record]:
    """Write files, one by one: the thread's whole work."""
    records = []
    for name, tensors in files.items():
        pieces = serialised(tensors)
        write_atomic(folder / name, pieces)
        digest = hashlib.sha256()  # of what is in memory, so that the disk is checked too
        for piece in pieces:
            digest.update(piece)
        records.append((name, digest.hexdigest(), sum(len(piece) for piece in pieces)))
    return records


def serialised(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Make a safetensors file, in pieces that are views of tensors (contiguous, on the CPU).

    The library's own writer copies everything twice, and lets no other thread run meanwhile.
    """
    header: dict[str, object] = {}
    pieces: list[bytes | memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda one: (-one[1].element_size(), one[0])):
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        pieces.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    return [len(text).to_bytes(8, "little") + text, *pieces]


def _fault(act: Callable[..., None], *arguments: Any) -> str:
    """Do something with files; what went wrong, or nothing."""
    try:
        act(*arguments)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} could not be written: {error.strerror}."
    return ""
