"""Tiles larger than memory: hash tables that are read when samples are asked for, and put back."""

from __future__ import annotations

import json
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.field import Tile
from nerfxl.rays import Box
from nerfxl.scene.spec import FieldSpec, SamplingSpec

TABLE = "table"  # name of the tensor that pages in: nearly all that a tile holds


class Paged(Tile):
    """A tile whose hash table is in memory while it is asked, and as long as there is room."""

    def __init__(
        self, index: int, box: Box, core: Box, field: FieldSpec, sampling: SamplingSpec, seed: int
    ) -> None:
        least = field.model_copy(update={"log2_table": 0})
        super().__init__(index, box, core, least, sampling, seed)
        del self.table  # no parameter: it is not loaded with the others
        self.bring: Callable[[], Tensor] | None = None

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As `Tile` has it; without gradient."""
        assert self.bring is not None, "a paged tile is told where its table lies"
        if not len(points):  # nobody asks: nothing is read
            features = self.density_layers[-1].shape[1] - 1
            return points.new_zeros(0), points.new_zeros(0, features)
        self.table = self.bring()
        try:
            return super().forward(points)
        finally:
            del self.table  # the pager holds it


class Pager:
    """Keeps the tables that were asked last, as many as there is room for; one at least.

    Files stay open, so that a checkpoint which is removed meanwhile can still be read.

    Parameters
    ----------
    room: bytes. device: where tables go.
    """

    def __init__(self, room: float, device: torch.device) -> None:
        self.room, self.device = room, device
        self.reads = 0
        self._files: dict[int, _Stored] = {}
        self._held: OrderedDict[int, Tensor] = OrderedDict()

    def add(self, number: int, tile: Paged, file: Path) -> None:
        """Let a tile, of this number in the run, have its table from a shard."""
        self._files[number] = _Stored(file, TABLE)
        tile.bring = lambda: self._brought(number)

    @property
    def total(self) -> int:
        """Bytes of all tables."""
        return sum(stored.size for stored in self._files.values())

    @property
    def crowded(self) -> bool:
        """Whether there is not room for all tables."""
        return self.total > self.room

    @property
    def held(self) -> int:
        """Bytes of the tables in memory."""
        return sum(table.nbytes for table in self._held.values())

    def _brought(self, number: int) -> Tensor:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        coming = self._files[number].size
        while self._held and coming + self.held > self.room:
            self._held.popitem(last=False)
        self.reads += 1
        self._held[number] = self._files[number].read().to(self.device)
        return self._held[number]


class _Stored:
    """One float32 tensor inside a safetensors file, read without its neighbours.

    A file is 8 bytes, the length N of the header; N bytes of JSON; and the tensors' bytes. Mapping
    it into memory would count all that was ever read as this process's own.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            length = int.from_bytes(os.pread(self._file, 8, 0), "little")
            entry = json.loads(os.pread(self._file, length, 8))[name]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        if entry["dtype"] != "F32":
            raise UserError(f"{path} is damaged: its {name} is {entry['dtype']}, not F32.")
        self.shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        self.start, self.size = 8 + length + start, end - start

    def read(self) -> Tensor:
        found = torch.empty(self.shape, dtype=torch.float32)
        room, at = found.view(-1).view(torch.uint8).numpy().data, 0
        while at < self.size:
            count = os.preadv(self._file, [room[at:]], self.start + at)
            if count == 0:
                raise UserError(f"{self.path} ends too early: it was cut short meanwhile.")
            at += count
        return found
