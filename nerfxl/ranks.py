"""Who am I among the processes of this run: rank, device, threads, collectives."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from nerfxl.errors import UserError

LAUNCHER = "NERFXL_LAUNCHER"  # process id of the launcher, so that a late worker sees it is gone

T = TypeVar("T")
STEP_TIMEOUT = timedelta(seconds=120)
START_TIMEOUT = timedelta(seconds=600)


class PeerLostError(RuntimeError):
    """A collective failed: another rank ended, or did not come within the timeout."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """One process among `size`; every method is a collective that all ranks must enter.

    With size 1 there is no process group and every collective is the identity. A rank whose tiles
    no ray meets still enters every collective, with empty or zero tensors.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    @contextmanager
    def from_environment(
        cls, device: str = "auto", timeout: timedelta = STEP_TIMEOUT
    ) -> Iterator[Ranks]:
        """Join the processes that torchrun (or `nerfxl.launch`) started; alone without them.

        Parameters
        ----------
        device
            "auto" (a GPU if there is one), "cpu" or "cuda"; rank r of a node takes its r-th GPU.
        timeout
            How long a collective waits for the slowest rank before it raises.

        Raises
        ------
        UserError
            If the variables of torchrun are incomplete or the device is not there.
        SystemExit
            With code EX_UNAVAILABLE, if the block ends because another rank is gone.

        """
        rank, size, local_rank, local_size = _places()
        place = choose_device(device, local_rank, local_size)
        threads = _use_threads(local_size)
        if size == 1:
            yield cls(0, 1, place, threads)
            return
        _die_with_parent()
        _join(rank, size, place, timeout)
        try:
            yield cls(rank, size, place, threads, dist.group.WORLD)
        except PeerLostError as error:
            # A victim, not the cause: the launcher knows it by the exit code, no traceback needed.
            sys.stderr.write(f"rank {rank}: {error}\n")
            raise SystemExit(os.EX_UNAVAILABLE) from error
        # Only after a clean run: after an error the peers may be gone, and waiting for them hides
        # the cause. The operating system closes the sockets, which is how the peers learn of it.
        dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the files and speaks to the user."""
        return self.rank == 0

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over ranks, in place, in one message.

        All ranks pass the same shapes in the same order. Mixed dtypes travel in their promoted one.
        """
        if self.size == 1 or not tensors:
            return
        buffer = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with _answered():
            dist.all_reduce(buffer, dist.ReduceOp.SUM, group=self.group)
        sums = torch.split(buffer, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, total in zip(tensors, sums, strict=True):
                tensor.copy_(total.view(tensor.shape))

    def all_gather(self, own: Tensor, counts: Sequence[int]) -> Tensor:
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
        with _answered():
            dist.all_gather(list(shares.unbind(0)), share, group=self.group)
        if min(counts) == longest:
            return shares.flatten(0, 1)
        return torch.cat([shares[r, :count] for r, count in enumerate(counts)])

    def gather_objects(self, own: T) -> list[T]:
        """What every rank holds, small Python objects that pickle, in rank order."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        with _answered():
            dist.all_gather_object(found, own, group=self.group)
        return cast("list[T]", found)

    def any(self, flag: bool) -> bool:
        """Whether any rank raised its flag: the same answer on all ranks (stop, non-finite)."""
        if self.size == 1:
            return flag
        raised = torch.tensor([int(flag)], device=self.device)
        with _answered():
            dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return bool(raised.item())

    def total(self, count: int) -> int:
        """The sum of a whole number over ranks: the same answer on all ranks."""
        if self.size == 1:
            return count
        counts = torch.tensor([count], device=self.device)
        with _answered():
            dist.all_reduce(counts, dist.ReduceOp.SUM, group=self.group)
        return int(counts.item())

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        # An agreed flag cannot be known before everybody spoke; unlike dist.barrier it needs no
        # guess of a device.
        self.any(False)


@contextmanager
def _answered() -> Iterator[None]:
    """Name the failure of a collective for what it is."""
    try:
        yield
    except RuntimeError as error:
        detail = str(error).partition(". ")[0]
        raise PeerLostError(f"another rank ended or did not answer ({detail})") from error


def choose_device(device: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into the device of one local rank.

    Raises
    ------
    UserError
        If the device is unknown, absent, or there are fewer GPUs than processes.

    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is '{device}': choose auto, cpu or cuda.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"device 'cuda' was asked for, but torch {torch.__version__} sees no GPU: "
            "use --device cpu, or install a torch build for your GPU."
        )
    if local_size > torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes need {local_size} GPUs and {torch.cuda.device_count()} found: "
            "pass a smaller --nproc (a process can own several tiles), or --device cpu."
        )
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _places() -> tuple[int, int, int, int]:
    """Rank, size, local rank and local size, from the variables of torchrun."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1, 0, 1
    rank, size = _integer("RANK"), _integer("WORLD_SIZE")
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} and WORLD_SIZE is {size}: start the run with torchrun.")
    if size == 1:
        return 0, 1, 0, 1
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set: "
            "start the run with torchrun, or unset RANK and WORLD_SIZE."
        )
    return rank, size, _integer("LOCAL_RANK", rank), _integer("LOCAL_WORLD_SIZE", size)


def _integer(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is '{text}': it must be a whole number.")
    return int(text)


def _use_threads(local_size: int) -> int:
    """Share the cores among the processes of this node: too many threads are slower than one."""
    import numba

    threads = max(1, cores() // local_size)
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return threads


def _join(rank: int, size: int, device: torch.device, timeout: timedelta) -> None:
    store, _, _ = next(rendezvous("env://", rank, size, timeout=START_TIMEOUT))
    # Starting (imports from a slow disk) may take longer than a step may: meet here first.
    store.set(f"nerfxl/here/{rank}", "1")
    store.wait([f"nerfxl/here/{other}" for other in range(size)], START_TIMEOUT)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )


def _die_with_parent() -> None:
    """Leave no orphans: the kernel kills this process when its launcher dies, however it dies."""
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid()):
        raise SystemExit("the launcher of this process is gone")
