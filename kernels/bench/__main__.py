"""`python -m bench`: race every operation against its peers and keep the figures as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numba
import torch

from bench.floors import cpu_rates, gpu_rates
from bench.measure import OURS, Race, race
from bench.races import races
from bench.report import lines

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "triton", "numba", "drjit", "nerfacc")


def main() -> None:
    """Measure, print, and write results/<device>-<year>-<month>.json."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("operations", nargs="*", help="only these, as hash_encoding; default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keep", action="store_true", help="write the JSON file")
    asked = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    numba.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    rates = cpu_rates() if device.type == "cpu" else gpu_rates(device)
    rows: list[dict[str, Any]] = []
    for make in races(rates, device):
        one = make()
        if asked.operations and one.operation not in asked.operations:
            continue
        found = _rows(one, asked.rounds, device)
        sys.stdout.write("\n".join(lines(found, times=True)) + "\n")
        sys.stdout.flush()
        rows += found
    if asked.keep:
        record = {**_circumstances(device, asked.threads), "rates": rates.told(), "rows": rows}
        name = f"{_slug(record['device'])}-{record['date'][:7]}.json"
        (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n")


def _rows(one: Race, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    times = race(one.contenders, rounds, device)
    rows = []
    for name, spent in times.items():
        middle, least, most = spent.ratio_to(times[OURS])
        rows.append(
            {
                "operation": one.operation,
                "workload": one.workload,
                "contender": name,
                "wall_ms": round(median(spent.wall), 3),
                "processor_ms": round(median(spent.processor), 3),
                "ratio_to_ours": [round(x, 3) for x in (middle, least, most)],
                "peak_mib": round(spent.peak_memory, 1),
                "floor_ms": round(one.floor * 1e3, 4),
                "share_of_floor": round(one.floor * 1e3 / median(spent.wall), 3),
                "floor_counts": one.counted,
            }
        )
    return rows


def _circumstances(device: torch.device, threads: int) -> dict[str, Any]:
    git = ["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": threads,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit,
        "command": " ".join(["python", "-m", "bench", *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _slug(device: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in device.lower()).split()
    return "-".join(word for word in words if word not in ("processor", "nvidia", "r", "tm"))


if __name__ == "__main__":
    main()
