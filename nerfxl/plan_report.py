"""What a plan will cost, told before anything starts: tiles, many ranks, memory, and its limits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nerfxl.cost import COPIES, FLOAT, SEGMENT_BYTES, Cost, Fabric, Load, Machine, Memory
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.partition import Plan

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
class PlanReport:
    """What a plan will cost.

    tiles_per_ray_mean, tiles_per_ray_max: over the rays that were tried.
    exchange_bytes_per_ray: Segments received by the rank that receives most, by `gather`; of 'ddp',
    gradients.
    memory_per_rank: of the rank with the most tiles. mode: of training.
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
    mode: str = "joint"

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        memory = {**asdict(self.memory_per_rank), "total": self.memory_per_rank.total}
        return {**asdict(self), "memory_per_rank": memory}


def report(
    plan: Plan,
    points: Tensor,
    load: Load,
    *,
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
    plan, points, load:
        The plan; points [P, 3], scene coordinates; what a sample of training rays asks of it.
    scale:
        Scene units in a source unit (that of the world transform).
    parameters_per_tile, shared_parameters:
        Numbers of one tile's parameters, and of those that every rank holds.
    image_bytes:
        Of the training images that a rank holds, as bytes.
    sample_budget, bytes_per_sample:
        Samples a rank has in flight in one step, and what one takes, forward and backward.
    ranks:
        R of 1 .. K.
    library_bytes:
        What a process takes before it holds any of the above.

    """
    K = len(plan)
    inside = points[points.isfinite().all(dim=1)]
    held = plan.tile_of(inside).bincount(minlength=K)
    tiles = tuple(
        TileReport((x / scale, y / scale, z / scale), int(held[tile]), float(share))
        for tile, ((x, y, z), share) in enumerate(
            zip((core.size for core in plan.cores), load.crossings / load.rays, strict=True)
        )
    )
    shares = deal(K, ranks)
    foreign = max(float(load.crossings.sum() - load.crossings[list(own)].sum()) for own in shares)
    most = max(map(len, shares))
    return PlanReport(
        open=plan.open,
        ranks=ranks,
        tiles=tiles,
        tiles_per_ray_mean=float(load.crossings.sum()) / load.rays,
        tiles_per_ray_max=load.most,
        exchange_bytes_per_ray=round(SEGMENT_BYTES * foreign / load.rays),
        parameters_per_tile=parameters_per_tile,
        shared_parameters=shared_parameters,
        parameters_total=K * parameters_per_tile + shared_parameters,
        memory_per_rank=Memory(
            parameters=(most * parameters_per_tile + shared_parameters) * FLOAT * COPIES,
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
    elif _can_be_shared(found) and one.parameters == max(parts.values())[0]:
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


def _can_be_shared(found: PlanReport) -> bool:
    """Whether more ranks would hold fewer tiles each."""
    return found.mode != "ddp" and found.ranks < len(found.tiles)


def recommended(costs: Sequence[Cost]) -> Cost:
    """Of several exchanges on as many ranks, the one whose step is shortest."""
    return min(costs, key=lambda cost: cost.seconds)


def forecast(
    costs: Sequence[Cost], rays: int, tiles: int, machine: Machine, fabric: Fabric
) -> dict[str, Any]:
    """Put the costs of several numbers of ranks and exchanges in plain values for JSON."""
    return {
        "tiles": tiles,
        "planning_rays": rays,
        "machine": asdict(machine),
        "fabric": asdict(fabric),
        "recommended": {found[0].ranks: recommended(found).exchange for found in _rungs(costs)},
        "costs": [
            {
                **asdict(cost),
                "computing": {**asdict(cost.computing), "total": cost.computing.total},
                "seconds": cost.seconds,
                "received": cost.received,
                "received_a_ray": cost.received_a_ray,
                "memory": {**asdict(cost.memory), "total": cost.memory.total},
            }
            for cost in costs
        ],
    }


def show_forecast(
    costs: Sequence[Cost], machine: Machine, fabric: Fabric, console: Console
) -> None:
    """Print what many ranks cost: first the work, then each exchange, a line a number of ranks."""
    title = "Work of a rank and step, with the exchange that is quickest"
    seconds_of = ("field", "optimiser", "rays", "step")
    work = _table(title, "ranks", "samples", "lambda", "exchange", *seconds_of)
    for found in _rungs(costs):
        best = recommended(found)
        parts, name = best.computing, best.exchange if best.ranks > 1 else "-"
        seconds = (parts.field, parts.optimiser, parts.rays, best.seconds)
        work.add_row(
            *(f"{best.ranks}", _count(best.samples), f"{best.imbalance:.2f}", name),
            *map(as_seconds, seconds),
        )
    console.print(work)
    for exchange in dict.fromkeys(cost.exchange for cost in costs):
        title = f"Exchange {exchange}: of a rank and step"
        headings = ("ranks", "rays", "a ray", "received", "messages", "computing", "exchanging")
        table = _table(title, *headings, "efficiency", "memory")
        for cost in costs:
            if cost.exchange == exchange:
                table.add_row(
                    *(f"{cost.ranks}", _count(cost.rays), _short(cost.received_a_ray)),
                    *(_short(cost.received), f"{len(cost.messages)}"),
                    *(as_seconds(cost.computing.total), as_seconds(cost.exchanging)),
                    *(f"{cost.efficiency:.0%}", _short(cost.memory.total)),
                )
        console.print(table)
    console.print(
        "  samples    the mean over ranks, spread evenly as at the start, or as --balance found\n"
        "             them; lambda: those of the busiest rank over the mean\n"
        "  rays       that a rank draws and takes through all tiles\n"
        "  a ray      bytes received for each of them; received: bytes in all\n"
        "  efficiency against one rank that does the same step alone\n"
        f"  computing  {machine.name}: {_count(machine.samples)} samples a second "
        f"({machine.source})\n"
        f"  exchanging {fabric.name} ({fabric.source})",
        markup=False,
    )
    last = recommended(_rungs(costs)[-1])
    if last.ranks > 1:
        console.print(f"recommended on {last.ranks} ranks: exchange {last.exchange}")


def as_seconds(seconds: float) -> str:
    """Say a time for people: 0.0123 -> '12.3 ms'."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _rungs(costs: Sequence[Cost]) -> list[list[Cost]]:
    """Costs of as many ranks, together."""
    ranks = dict.fromkeys(cost.ranks for cost in costs)
    return [[cost for cost in costs if cost.ranks == count] for count in ranks]


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", padding=(0, 0)
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _short(size: float) -> str:
    """Three digits of a number of bytes: 1234567 -> '1.18 M'."""
    return _digits(size, 1024, ("B", *"KMGT"))


def _count(number: float) -> str:
    """Three digits of a large number: 8388608 -> '8.39 M'."""
    return f"{number:,.0f}" if number < 1e6 else _digits(number, 1000, ("", *"KMGT"))


def _digits(amount: float, step: int, units: Sequence[str]) -> str:
    index = 0
    while amount >= 0.9995 * step and index < len(units) - 1:
        amount, index = amount / step, index + 1
    return f"{amount:.3g} {units[index]}"


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
