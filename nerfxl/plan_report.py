"""What a plan will cost, before anything starts: tiles, traffic, memory, and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.partition import Plan
from nerfxl.rays import SEGMENT_WIDTH, Rays

BYTES_A_FLOAT = 4
COPIES = 4  # of a parameter in training: its weight, its gradient and Adam's two moments
RAYS_AT_ONCE = 4096
LINES_SHOWN = 32
GROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
GROUP_V2 = ("memory.max", "memory.current", "inactive_file")


@dataclass(frozen=True)
class TileReport:
    """One tile. size: edges of its core, source units. ray_share: of the rays that meet it."""

    size: tuple[float, float, float]
    points: int
    ray_share: float


@dataclass(frozen=True)
class Memory:
    """An estimate in bytes, of one rank in training."""

    parameters: int
    images: int
    samples: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.parameters + self.images + self.samples + self.libraries


@dataclass(frozen=True)
class PlanReport:
    """What a plan will cost.

    tiles_per_ray_mean, tiles_per_ray_max: over the rays that were tried.
    exchange_bytes_per_ray: received by the rank with the fewest tiles (`gather`).
    memory_per_rank: of the rank with the most tiles.
    """

    open: bool
    ranks: int
    tiles: tuple[TileReport, ...]
    tiles_per_ray_mean: float
    tiles_per_ray_max: int
    exchange_bytes_per_ray: int
    parameters_per_tile: int
    shared_parameters: int
    parameters_total: int
    memory_per_rank: Memory

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        memory = {**asdict(self.memory_per_rank), "total": self.memory_per_rank.total}
        return {**asdict(self), "memory_per_rank": memory}


def report(
    plan: Plan,
    points: Tensor,
    rays: Rays,
    *,
    near: float | Tensor,
    far: float,
    scale: float,
    parameters_per_tile: int,
    shared_parameters: int,
    image_bytes: int,
    sample_budget: int,
    bytes_per_sample: int,
    ranks: int,
    library_bytes: int = 0,
) -> PlanReport:
    """Count what a plan will cost.

    Parameters
    ----------
    plan, points, rays:
        The plan; points [P, 3] and a sample of training rays [N], N > 0, in scene coordinates.
    near, far:
        As for `Plan.intervals`.
    scale:
        Scene units in a source unit (that of the world transform).
    parameters_per_tile, shared_parameters:
        Numbers of one tile's parameters, and of those that every rank holds.
    image_bytes:
        Of the training images as bytes; every rank holds them.
    sample_budget, bytes_per_sample:
        Samples a rank has in flight in one step, and what one takes, forward and backward.
    ranks:
        R of 1 .. K.
    library_bytes:
        What a process takes before it holds any of the above.

    """
    K = len(plan)
    met = torch.cat(list(_met(plan, rays, near, far)), dim=1)  # [K, N]
    inside = points[points.isfinite().all(dim=1)]
    held = plan.tile_of(inside).bincount(minlength=K)
    tiles = tuple(
        TileReport((x / scale, y / scale, z / scale), int(held[tile]), float(share))
        for tile, ((x, y, z), share) in enumerate(
            zip((core.size for core in plan.cores), met.double().mean(dim=1), strict=True)
        )
    )
    fewest, most = K // ranks, -(-K // ranks)
    return PlanReport(
        open=plan.open,
        ranks=ranks,
        tiles=tiles,
        tiles_per_ray_mean=float(met.sum(dim=0).double().mean()),
        tiles_per_ray_max=int(met.sum(dim=0).max()),
        exchange_bytes_per_ray=SEGMENT_WIDTH * BYTES_A_FLOAT * (K - fewest),
        parameters_per_tile=parameters_per_tile,
        shared_parameters=shared_parameters,
        parameters_total=K * parameters_per_tile + shared_parameters,
        memory_per_rank=Memory(
            parameters=(most * parameters_per_tile + shared_parameters) * BYTES_A_FLOAT * COPIES,
            images=image_bytes,
            samples=sample_budget * bytes_per_sample,
            libraries=library_bytes,
        ),
    )


def check_fit(found: PlanReport, available: int, where: str, ranks_here: int = 1) -> None:
    """Raise a UserError unless the ranks that share a memory fit into it.

    Parameters
    ----------
    found:
        The report.
    available:
        Bytes that are free, see `available_memory`.
    where:
        Name of the device, for the message.
    ranks_here:
        Ranks that share this memory: one on a GPU, all those of a machine on its CPU.

    """
    one = found.memory_per_rank
    if ranks_here * one.total <= available:
        return
    parts = {
        "parameters": (one.parameters, "lower field.log2_table"),
        "images": (one.images, "raise capture.downscale"),
        "samples": (one.samples, "lower train.rays or sampling.budget"),
    }
    said = ", ".join(f"{name} {as_bytes(size)}" for name, (size, _) in parts.items())
    largest = max(parts.values())[1]
    if ranks_here > 1:
        largest += ", or pass a smaller --nproc"
    elif found.ranks < len(found.tiles) and one.parameters == max(parts.values())[0]:
        largest += ", or pass a larger --nproc"
    times = f"{ranks_here} processes of {as_bytes(one.total)}" if ranks_here > 1 else "a process"
    raise UserError(
        f"Training needs about {as_bytes(ranks_here * one.total)} of memory on {where} for {times} "
        f"({said}), but {as_bytes(available)} are free: {largest}."
    )


def available_memory(device: torch.device | str, root: Path = Path("/")) -> int:
    """Bytes that a process can still take on a device.

    On the CPU this is the least of what the kernel calls available and what each control group
    above the process leaves of its limit, files it can drop included: a container sees the
    machine's memory, not its own limit. `root` is the file system, for tests.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, min([_machine_memory(root), *_group_memory(root)]))


def as_bytes(size: int) -> str:
    """Say a number of bytes for people: 1536 -> '1.5 KiB'."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def show(found: PlanReport, console: Console) -> None:
    """Print the report: a line a tile (the first 32), then the totals."""
    K, memory = len(found.tiles), found.memory_per_rank
    title = f"{K} {'tile' if K == 1 else 'tiles'}, {'open' if found.open else 'closed'}"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in ("tile", "size (source units)", "points", "rays that meet it"):
        table.add_column(heading, justify="right")
    for index, tile in enumerate(found.tiles[:LINES_SHOWN]):
        size = " × ".join(f"{edge:.4g}" for edge in tile.size)
        table.add_row(str(index), size, f"{tile.points:,}", f"{tile.ray_share:.1%}")
    console.print(table)
    if K > LINES_SHOWN:
        console.print(f"  and {K - LINES_SHOWN} more")
    totals = Table.grid(padding=(0, 2))
    totals.add_column(style="dim")
    totals.add_column()
    totals.add_row(
        "tiles on a ray",
        f"{found.tiles_per_ray_mean:.2f} on average, {found.tiles_per_ray_max} at most",
    )
    totals.add_row(
        "parameters",
        f"{found.parameters_total:,}: {found.parameters_per_tile:,} a tile, "
        f"{found.shared_parameters:,} shared",
    )
    totals.add_row("processes", f"{found.ranks}")
    totals.add_row("exchange", f"{found.exchange_bytes_per_ray:,} bytes a ray, received")
    totals.add_row(
        "memory of a process",
        f"{as_bytes(memory.total)}: parameters {as_bytes(memory.parameters)}, "
        f"images {as_bytes(memory.images)}, samples {as_bytes(memory.samples)}, "
        f"libraries {as_bytes(memory.libraries)}",
    )
    console.print(totals)


def _met(plan: Plan, rays: Rays, near: float | Tensor, far: float) -> Iterator[Tensor]:
    """Whether each ray meets each tile, a chunk [K, n] at a time."""
    start = torch.as_tensor(near).to(rays.origins).expand(len(rays))
    for first in range(0, len(rays), RAYS_AT_ONCE):
        some = slice(first, first + RAYS_AT_ONCE)
        ends = plan.intervals(rays[some], start[some], far)
        yield ends[..., 0] < ends[..., 1]


def _machine_memory(root: Path) -> int:
    """Bytes that are free on the machine."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux: all its memory is the best bound there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024


def _group_memory(root: Path) -> Iterator[int]:
    """Bytes left in each memory control group above the process, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", GROUP_V2
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", GROUP_V1
        else:
            continue
        # In a container the path may be that of the host, and only the top exists.
        parts = path.strip("/").split("/")
        for depth in range(len(parts) + 1):
            left = _left_in_group(top.joinpath(*parts[:depth]), *names)
            if left is not None:
                yield left


def _left_in_group(group: Path, limit: str, used: str, droppable: str) -> int | None:
    """Bytes left of one group's limit; None where there is no group or no limit ("max")."""
    try:
        most, taken = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return most - taken + int(dict(zip(stat[::2], stat[1::2], strict=True)).get(droppable, 0))
