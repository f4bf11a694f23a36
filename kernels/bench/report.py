"""Tables of what was measured: printed after a race, and kept in kernels/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"


def lines(rows: Iterable[dict[str, Any]], times: bool = False) -> list[str]:
    """A Markdown table; milliseconds only if asked, since they are one machine's on one day."""
    head = ["operation", "who", "time, nerfxl = 1", "share of the floor", "peak memory, MiB"]
    head += ["ms", "processor ms"] if times else []
    found = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for (operation, workload), group in groupby(
        rows, key=lambda row: (row["operation"], row["workload"])
    ):
        told = f"**{operation}**, {workload}"
        for row in group:
            middle, least, most = row["ratio_to_ours"]
            ratio = (
                "1" if middle == least == most == 1 else f"{middle:.2f} ({least:.2f}-{most:.2f})"
            )
            cells = [told, row["contender"], ratio, f"{row['share_of_floor']:.0%}"]
            cells.append(f"{row['peak_mib']:.0f}")
            cells += [f"{row['wall_ms']:.1f}", f"{row['processor_ms']:.1f}"] if times else []
            found.append(f"| {' | '.join(cells)} |")
            told = ""
    return found


def compiled_lines() -> list[str]:
    """The table of what compilers make of the Triton kernels."""
    kept = json.loads((RESULTS / "compiled.json").read_text())
    found = ["| case | kernel | sm_80 | sm_90 | gfx942 |", "|---|---|---|---|---|"]
    for case, kernels in kept["kernels"].items():
        told = case
        for kernel, targets in kernels.items():
            cells = [f"{registers} / {spilled}" for registers, spilled, _ in targets.values()]
            found.append(f"| {told} | {kernel.partition('.')[2]} | {' | '.join(cells)} |")
            told = ""
    return found


def figures() -> str:
    """What kernels/README.md says of speed, from the files in results/."""
    parts = []
    for path in sorted(RESULTS.glob("*-????-??.json")):
        record = json.loads(path.read_text())
        versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items() if v)
        where = f"{record['device']}, {record['threads']} threads, {record['date']}, {versions}"
        parts += [f"{where}; medians of interleaved rounds (least-greatest):", ""]
        parts += [*lines(record["rows"]), ""]
    kept = json.loads((RESULTS / "compiled.json").read_text())
    told = f"Triton {kept['triton']}, ahead of time: registers a thread / bytes spilled"
    return "\n".join([*parts, f"{told}:", "", *compiled_lines()])


def main() -> None:
    """Write the tables into kernels/README.md, between its two marks."""
    text = README.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    README.write_text(f"{before}{_BEGIN}\n{figures()}\n{_END}{after}")


if __name__ == "__main__":
    main()
