"""The collectives of the R processes of a run, and what each of them costs."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PeerLostError(RuntimeError):
    """A collective failed: another rank ended, or did not come within the timeout."""


@dataclass
class Traffic:
    """What one kind of collective has cost a rank so far.

    received: bytes from other ranks (of a sum over ranks, what a ring would bring).
    waited: seconds in which this rank did nothing else.
    """

    calls: int = 0
    received: int = 0
    waited: float = 0.0


@dataclass(frozen=True, eq=False)
class Ranks:
    """One process among `size`; every method that sends is a collective: all ranks must enter.

    With size 1 there is no process group and every collective is the identity. A rank whose tiles
    no ray meets still enters every collective, with empty or zero tensors. All that is sent passes
    through `_counted`, which keeps the books in `traffic`, by the `kind` that the caller names.
    group: None = all processes; torch alone then holds them, and can end their threads.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    group: dist.ProcessGroup | None = None
    nodes: int = 1
    traffic: dict[str, Traffic] = field(default_factory=dict)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the files and speaks to the user."""
        return self.rank == 0

    def all_gather(self, own: Tensor, counts: Sequence[int], kind: str = "other") -> Tensor:
        """Rows of all ranks in rank order: [n_own, ...] -> [sum(counts), ...], without gradient.

        counts: rows owned by each rank; they may differ and be 0. The other dimensions and the
        dtype agree on all ranks.
        """
        if len(counts) != self.size or counts[self.rank] != own.shape[0]:
            raise ValueError(f"rank {self.rank} has {own.shape[0]} rows, counts are {list(counts)}")
        own = own.detach()
        if self.size == 1:
            return own
        # Backends want equal shares: pad to the longest, and drop the padding afterwards.
        longest = max(counts)
        share = own.new_zeros((longest, *own.shape[1:]))
        share[: own.shape[0]] = own
        shares = own.new_empty((self.size, *share.shape))
        with self._counted(kind, shares.nbytes - share.nbytes):
            dist.all_gather(list(shares.unbind(0)), share, group=self.group)
        if min(counts) == longest:
            return shares.flatten(0, 1)
        return torch.cat([shares[r, :count] for r, count in enumerate(counts)])

    def swap(
        self, rows: Tensor, leaving: Sequence[int], coming: Sequence[int], kind: str = "other"
    ) -> Swap:
        """Start to send every rank its rows, and to receive this rank's from every other.

        rows: [sum(leaving), ...] in the order of the ranks that they go to, without gradient.
        leaving, coming: [R] rows to and from each rank; a rank's own pass through.
        """
        rows = rows.detach().contiguous()
        if self.size == 1:
            return Swap(self, rows, None, kind)
        out = rows.new_empty((sum(coming), *rows.shape[1:]))
        others = out.nbytes - out[: coming[self.rank]].nbytes
        with self._counted(kind, others):
            work = dist.all_to_all_single(
                out, rows, list(coming), list(leaving), group=self.group, async_op=True
            )
        return Swap(self, out, work, kind, rows)

    def gather_json(self, own: Any) -> list[Any]:
        """What every rank holds, as JSON can hold it, in rank order."""
        if self.size == 1:
            return [own]
        text = torch.tensor(list(json.dumps(own).encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(text)], device=self.device)
        lengths = self.all_gather(length, [1] * self.size).tolist()
        texts = bytes(self.all_gather(text, lengths).tolist())
        ends = torch.tensor(lengths).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        return [json.loads(texts[a:b]) for a, b in zip(starts, ends, strict=True)]

    def votes(self, *flags: bool) -> list[bool]:
        """Whether any rank raised each flag: the same answers on all ranks, in one message."""
        return [bool(flag) for flag in self._reduced(flags, dist.ReduceOp.MAX)]

    def any(self, flag: bool) -> bool:
        """Whether any rank raised its flag: the same answer on all ranks."""
        return self.votes(flag)[0]

    def sum(self, own: Tensor, kind: str = "other") -> Tensor:
        """The sum of a tensor over ranks, without gradient: the same bits on all ranks."""
        if self.size == 1:
            return own.detach()
        mine = own.detach().clone()
        with self._counted(kind, 2 * mine.nbytes * (self.size - 1) // self.size):
            dist.all_reduce(mine, group=self.group)
        return mine

    def total(self, *counts: int) -> list[int]:
        """The sums of whole numbers over ranks: the same answers on all ranks, in one message."""
        return self._reduced(counts, dist.ReduceOp.SUM)

    def most(self, count: int) -> int:
        """The largest of a whole number over ranks: the same answer on all ranks."""
        return self._reduced([count], dist.ReduceOp.MAX)[0]

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        # An agreed flag cannot be known before everybody spoke; unlike dist.barrier it needs no
        # guess of a device.
        self.any(False)

    def peak_memory(self) -> int:
        """The most memory this process has used so far, bytes: of the GPU, or resident."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _reduced(self, numbers: Sequence[int], how: Any) -> list[int]:
        if self.size == 1:
            return list(numbers)
        mine = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        with self._counted("flags", 2 * mine.nbytes * (self.size - 1) // self.size):
            dist.all_reduce(mine, how, group=self.group)
        found: list[int] = mine.tolist()
        return found

    @contextmanager
    def _counted(self, kind: str, received: int) -> Iterator[None]:
        """Count one collective, and name its failure for what it is."""
        books = self.traffic.setdefault(kind, Traffic())
        books.calls += 1
        books.received += received
        start = time.perf_counter()
        with _answered():
            yield
        books.waited += time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Swap:
    """Rows on their way between ranks."""

    ranks: Ranks
    out: Tensor
    work: dist.Work | None
    kind: str
    sent: Tensor | None = None  # kept until it has left

    def wait(self) -> Tensor:
        """Rows that came, in the order of the ranks that sent them: [sum(coming), ...]."""
        if self.work is not None:
            start = time.perf_counter()
            with _answered():
                self.work.wait()
            self.ranks.traffic[self.kind].waited += time.perf_counter() - start
        return self.out


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        detail = str(error).partition(". ")[0]
        raise PeerLostError(f"another rank ended or did not answer ({detail})") from error
