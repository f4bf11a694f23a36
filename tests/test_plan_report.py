"""The report counts what it says it counts, and refuses in time."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from nerfxl.cost import EXCHANGES, Load, Memory, Work, cost, count, cuda, fabric, ladder
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.partition import Node, Plan, plan
from nerfxl.plan_report import (
    PlanReport,
    as_bytes,
    as_seconds,
    available_memory,
    check_fit,
    forecast,
    recommended,
    report,
    show,
    show_forecast,
)
from nerfxl.rays import Box, Rays

GIB = 2**30
CUBE = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
# Two tiles, x < 0 and x >= 0.
HALVES = Plan(CUBE, False, (Node(0, 0.0, ~0, ~1),))
# Along x through both tiles, along y through the upper one, and past the box.
RAYS = Rays(
    torch.tensor([[-3.0, 0, 0], [0.5, -3, 0], [0.0, 0, 5], [0.5, 3, 0]]),
    torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]]),
)
POINTS = torch.tensor([[-0.5, 0, 0], [0.5, 0, 0], [0.25, 0, 0], [float("nan"), 0, 0]])


def of_halves(ranks: int = 2) -> PlanReport:
    return report(
        HALVES,
        POINTS,
        count(HALVES, RAYS, 0.0, 10.0, 0.1, 8),
        scale=0.01,
        parameters_per_tile=1000,
        shared_parameters=10,
        image_bytes=5000,
        sample_budget=100,
        bytes_per_sample=30,
        ranks=ranks,
    )


def test_two_tiles_counted_by_hand() -> None:
    found = of_halves()
    lower, upper = found.tiles
    # Edges 1 x 2 x 2 in the scene, 0.01 scene units a source unit.
    assert lower.size == pytest.approx((100, 200, 200))
    assert (lower.points, upper.points) == (1, 2)
    # Of 4 rays the lower tile is met by 1, the upper one by 3; the third meets none.
    assert (lower.ray_share, upper.ray_share) == (0.25, 0.75)
    assert (found.tiles_per_ray_mean, found.tiles_per_ray_max) == (1.0, 2)
    # The rank that owns the lower tile receives a Segment of 3 rays of 4.
    assert found.exchange_bytes_per_ray == 18
    assert found.parameters_total == 2010
    # A rank owns one tile: 1010 parameters of 4 bytes, four times.
    assert found.memory_per_rank == Memory(parameters=16160, images=5000, samples=3000)
    assert found.memory_per_rank.total == 24160


def test_one_process_exchanges_nothing_and_holds_all() -> None:
    found = of_halves(ranks=1)
    assert found.exchange_bytes_per_ray == 0
    assert found.memory_per_rank.parameters == 2010 * 16


def test_the_rank_with_most_tiles_counts_for_memory() -> None:
    # 5 tiles on 2 ranks: 2 and 3.
    made = plan(torch.empty(0, 3), CUBE, 5, True)
    numbers = {"parameters_per_tile": 1, "shared_parameters": 0, "image_bytes": 0}
    numbers |= {"sample_budget": 0, "bytes_per_sample": 0, "ranks": 2}
    load = count(made, RAYS, 0.0, 1.0, 0.1, 8)
    found = report(made, POINTS, load, scale=1.0, **numbers)
    assert found.memory_per_rank.parameters == 3 * 16


def test_the_report_is_plain_json() -> None:
    content = json.loads(json.dumps(of_halves().as_json(), allow_nan=False))
    assert content["tiles"][0]["points"] == 1
    assert content["memory_per_rank"]["total"] == 24160


def sized(parameters: float, images: float, samples: float) -> PlanReport:
    memory = Memory(int(parameters * GIB), int(images * GIB), int(samples * GIB))
    return replace(of_halves(ranks=1), memory_per_rank=memory)


def test_what_fits_passes() -> None:
    check_fit(sized(4, 2, 1), 7 * GIB, "cuda:0")
    with pytest.raises(UserError):
        check_fit(sized(4, 2, 1), 7 * GIB - 1, "cuda:0")


@pytest.mark.parametrize(
    ("parts", "ranks_here", "message"),
    [
        (
            (4, 2, 1),
            1,
            "Training needs about 7.0 GiB of memory on cuda:0 for a process (parameters 4.0 GiB, "
            "images 2.0 GiB, samples 1.0 GiB), but 3.0 GiB are free: lower field.log2_table, or "
            "pass a larger --nproc.",
        ),
        (
            (1, 4, 2),
            1,
            "Training needs about 7.0 GiB of memory on cuda:0 for a process (parameters 1.0 GiB, "
            "images 4.0 GiB, samples 2.0 GiB), but 3.0 GiB are free: raise capture.downscale.",
        ),
        (
            (0.5, 0.5, 1),
            2,
            "Training needs about 4.0 GiB of memory on cuda:0 for 2 processes of 2.0 GiB "
            "(parameters 512.0 MiB, images 512.0 MiB, samples 1.0 GiB), but 3.0 GiB are free: "
            "lower train.rays or sampling.budget, or pass a smaller --nproc.",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_numbers(
    parts: tuple[float, float, float], ranks_here: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_fit(sized(*parts), 3 * GIB, "cuda:0", ranks_here)
    assert str(caught.value) == message


def test_more_processes_are_not_advised_where_each_holds_all() -> None:
    with pytest.raises(UserError, match=r"lower field\.log2_table\.$"):
        check_fit(replace(sized(4, 2, 1), mode="ddp"), 3 * GIB, "cuda:0")


def test_bytes_for_people() -> None:
    said = [as_bytes(size) for size in (0, 1023, 1536, 3 * 2**20, 5000 * 2**40)]
    assert said == ["0 bytes", "1023 bytes", "1.5 KiB", "3.0 MiB", "5000.0 TiB"]


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write a file system with 8 GiB free and some more files."""
    for name, text in {
        "proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 8388608 kB\n",
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def test_a_machine_without_groups_has_what_the_kernel_says(tmp_path: Path) -> None:
    assert available_memory("cpu", machine(tmp_path, {})) == 8 * GIB


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    # The parent has 3 GiB of 4 in use, of which 1 can be dropped: 2 left. The child has no limit.
    parent = "sys/fs/cgroup/jobs"
    files = {
        "proc/self/cgroup": "0::/jobs/mine\n",
        f"{parent}/memory.max": str(4 * GIB),
        f"{parent}/memory.current": str(3 * GIB),
        f"{parent}/memory.stat": f"anon 7\ninactive_file {GIB}\n",
        f"{parent}/mine/memory.max": "max",
        f"{parent}/mine/memory.current": "5",
        f"{parent}/mine/memory.stat": "anon 5\n",
    }
    assert available_memory("cpu", machine(tmp_path, files)) == 2 * GIB


def test_groups_of_version_1_seen_from_inside_a_container(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.stat": "cache 3\n",
    }
    assert available_memory("cpu", machine(tmp_path, files)) == GIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "10",
        "sys/fs/cgroup/memory.current": "11",
        "sys/fs/cgroup/memory.stat": "",
    }
    assert available_memory("cpu", machine(tmp_path, files)) == 0


def test_without_proc_the_machine_has_its_memory(tmp_path: Path) -> None:
    expected = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory("cpu", tmp_path) == expected


def test_this_machine_has_memory() -> None:
    assert available_memory("cpu") > 0


def test_the_table_shows_tiles_and_totals() -> None:
    buffer = io.StringIO()
    show(of_halves(), Console(file=buffer, width=100))
    text = buffer.getvalue()
    assert "2 tiles, closed" in text
    assert "100 × 200 × 200" in text
    assert "75.0%" in text
    assert "1.00 on average, 2 at most" in text
    assert "2,010: 1,000 a tile, 10 shared" in text
    assert "23.6 KiB: parameters 15.8 KiB, images 4.9 KiB, samples 2.9 KiB" in text


def test_a_long_table_is_cut() -> None:
    buffer = io.StringIO()
    show(replace(of_halves(), tiles=of_halves().tiles * 20), Console(file=buffer, width=100))
    assert "and 8 more" in buffer.getvalue()


# 64 tiles of even work, 2 of them on a ray.
EVEN = Load(1000, torch.full((64,), 1000 * 2 / 64).double(), torch.full((64,), 500.0).double(), 2)
WORK = Work(10_000_000, 5000, 2**30, 1600, 2**28, True)


def test_a_forecast_is_shown_and_is_plain_json() -> None:
    machine, wires = cuda(), fabric("nvlink", 8)
    costs = [
        cost(exchange, deal(64, ranks), EVEN.of(8192 * ranks), WORK, machine, wires)
        for ranks in ladder(64)
        for exchange in EXCHANGES
    ]
    buffer = io.StringIO()
    show_forecast(costs, machine, wires, Console(file=buffer, width=80))
    text = buffer.getvalue()
    assert "…" not in text  # every figure fits a terminal of 80 columns
    for title in ("gather", "owner", "samples"):
        assert f"Exchange {title}: of a rank and step" in text
    assert "ASSUMED, untried" in text
    assert "recommended on 64 ranks: exchange owner" in text
    found = json.loads(json.dumps(forecast(costs, 1000, 64, machine, wires), allow_nan=False))
    assert len(found["costs"]) == 7 * 3
    last = found["costs"][-2]
    assert (last["exchange"], last["ranks"], last["rays"]) == ("owner", 64, 8192)
    assert last["seconds"] == pytest.approx(last["computing"]["total"] + last["exchanging"])
    assert found["recommended"]["64"] == recommended(costs[-3:]).exchange == "owner"


def test_times_for_people() -> None:
    assert [as_seconds(t) for t in (0, 12.34e-6, 0.0123, 1.5)] == [
        "0 us",
        "12.3 us",
        "12.3 ms",
        "1.5 s",
    ]
