"""How processes find each other: rank, device and threads of this one, and the group of all."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from nerfxl.errors import UserError
from nerfxl.ranks import PeerLostError, Ranks

LAUNCHER = "NERFXL_LAUNCHER"  # process id of the launcher, so that a late worker sees it is gone

STEP_TIMEOUT = timedelta(seconds=120)
START_TIMEOUT = timedelta(seconds=600)


@contextmanager
def joined(device: str = "auto", timeout: timedelta = STEP_TIMEOUT) -> Iterator[Ranks]:
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
        yield Ranks(0, 1, place, threads)
        return
    _die_with_parent()
    _join(rank, size, place, timeout)
    try:
        yield Ranks(rank, size, place, threads, dist.group.WORLD)
    except PeerLostError as error:
        # A victim, not the cause: the launcher knows it by the exit code, no traceback needed.
        sys.stderr.write(f"rank {rank}: {error}\n")
        raise SystemExit(os.EX_UNAVAILABLE) from error
    # Only after a clean run: after an error the peers may be gone, and waiting for them hides
    # the cause. The operating system closes the sockets, which is how the peers learn of it.
    dist.destroy_process_group()


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
