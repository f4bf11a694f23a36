"""How the ranks of a run become a group: device, threads and collectives of this process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from nerfxl.errors import UserError
from nerfxl.processes import places, rendezvous
from nerfxl.processes.places import Place
from nerfxl.processes.ranks import PeerLostError, Ranks

LAUNCHER = "NERFXL_LAUNCHER"  # process id of the launcher, so that a late worker sees it is gone

TIMEOUT_SECONDS = 120.0

# How long a rank that has lost a collective waits for the others to say that they are alive.
_ROLL_CALL_SECONDS = 3.0


@contextmanager
def joined(
    device: str = "auto", timeout: float = TIMEOUT_SECONDS, store: Store | None = None
) -> Iterator[Ranks]:
    """Join the processes that nerfxl, torchrun or srun started; alone without them.

    Parameters
    ----------
    device
        "auto" (a GPU if there is one), "cpu" or "cuda"; rank r of a node takes its r-th GPU.
    timeout
        Seconds that a collective waits for the slowest rank before it raises.
    store
        Of `meet`, where this process has met the others already.

    Raises
    ------
    UserError
        If the variables of torchrun are incomplete or the device is not there.
    PeerLostError
        If another rank is gone; names it.

    """
    here = places.here()
    among = (0, 1) if here.own_gpus else (here.local_rank, here.local_size)
    place = choose_device(device, *among)
    if here.size == 1:
        yield alone(device)
        return
    threads = _use_threads(here.local_size)
    die_with_parent()
    store = meet(here) if store is None else store
    _join(here, store, place, timeout)
    try:
        nodes = -(-here.size // here.local_size)
        yield Ranks(here.rank, here.size, place, threads, nodes=nodes)
    except PeerLostError as error:
        raise PeerLostError(_who_is_lost(here, store, timeout, error)) from error
    # Only after a clean run: after an error the peers may be gone, and waiting for them hides
    # the cause. The operating system closes the sockets, which is how the peers learn of it.
    dist.destroy_process_group()


def alone(device: str = "auto") -> Ranks:
    """Be one process with nobody else, on all cores or one GPU.

    Raises
    ------
    UserError
        If the device is unknown or not there.

    """
    return Ranks(device=choose_device(device), threads=_use_threads(1))


def meet(place: Place) -> Store:
    """The store of all ranks: their launcher keeps it, or rank 0 does, on the address given.

    Raises
    ------
    UserError
        If rank 0 cannot keep it, or the others cannot reach it.

    """
    if place.rank or place.hosted:
        store = rendezvous.join(place.address, place.port)
    else:
        if not place.one_machine:
            rendezvous.check_reachable(place.address)
        try:
            store = rendezvous.host(place.address, place.port)
        except OSError as error:
            raise UserError(
                f"rank 0 cannot listen on {place.address}:{place.port}, where the ranks meet: "
                f"{error.strerror}; set MASTER_ADDR and MASTER_PORT for all of them."
            ) from error
    return PrefixStore(f"nerfxl/{place.restarts}", store)


def device_kind(device: str) -> Literal["cpu", "cuda"]:
    """Turn "auto", "cpu" or "cuda" into what is there; touches no GPU.

    Raises
    ------
    UserError
        If the device is unknown or absent.

    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is '{device}': choose auto, cpu or cuda.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(
            f"device 'cuda' was asked for, but torch {torch.__version__} sees no GPU: "
            "use --device cpu, or install a torch build for your GPU."
        )
    return "cuda"


def choose_device(device: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into the device of one local rank.

    Raises
    ------
    UserError
        If the device is unknown, absent, or there are fewer GPUs than processes.

    """
    if device_kind(device) == "cpu":
        return torch.device("cpu")
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


@contextmanager
def limited_to(count: int) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, to so many cores at most.

    Systems other than Linux have no such limit, and none is set.
    """
    if sys.platform != "linux":
        yield
        return
    had = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(had)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, had)


def die_with_parent() -> None:
    """Leave no orphans: the kernel kills this process when its launcher dies, however it dies."""
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid()):
        raise SystemExit("the launcher of this process is gone")


def _use_threads(local_size: int) -> int:
    """Share the cores among the processes of this node: too many threads are slower than one."""
    import numba

    threads = max(1, cores() // local_size)
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return threads


def _join(place: Place, store: Store, device: torch.device, timeout: float) -> None:
    # Starting (imports from a slow disk) may take longer than a step may: meet here first.
    store.set(f"here/{place.rank}", "1")
    late = rendezvous.missing(store, "here", range(place.size), rendezvous.START_SECONDS)
    if late:
        raise PeerLostError(f"{_named(late)} did not start within {rendezvous.START_SECONDS:g} s")
    _stay_on_the_way_to(place)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=timedelta(seconds=timeout),
        device_id=device if device.type == "cuda" else None,
    )


def _stay_on_the_way_to(place: Place) -> None:
    """Let gloo listen where the other ranks come from, the loopback if all are here.

    Left to itself it takes the address of the host's name, which may not resolve or lead elsewhere.
    """
    interface = rendezvous.interface_towards("127.0.0.1" if place.one_machine else place.address)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if interface and place.one_machine:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def _who_is_lost(place: Place, store: Store, timeout: float, error: PeerLostError) -> str:
    """Call the roll: whoever is alive has lost the same collective and says so."""

    def call() -> list[int]:
        store.set(f"alive/{place.rank}", "1")
        return rendezvous.missing(store, "alive", range(place.size), _ROLL_CALL_SECONDS)

    try:
        silent = rendezvous.answer(call, 2 * _ROLL_CALL_SECONDS)
    except rendezvous.StoreLostError:
        if place.hosted:
            return f"the launcher, which keeps the store of the ranks, is gone ({error})"
        silent = [0]
    if not silent:
        return str(error)
    timed_out = "imed out" in str(error) or "imeout" in str(error)
    how = f"did not answer within {timeout:g} s" if timed_out else "ended, or cannot be reached"
    return f"{_named(silent)} {how}"


def _named(ranks: Sequence[int]) -> str:
    """Ranks in words.

    >>> _named([1]), _named([0, 2])
    ('rank 1', 'ranks 0, 2')
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
