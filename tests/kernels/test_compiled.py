"""What compilers for three GPUs make of the Triton kernels, against the table that is kept.

Register counts change with the compiler; that nothing is spilled, and that memory is reached by
wide instructions, must not.
"""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("triton")

import triton
from bench.cases import CASES, launches
from bench.compiled import RESULTS, compile_launch, name, table

TABLE = json.loads(RESULTS.read_text())
KEPT = TABLE["kernels"]


def test_the_table_has_all_cases() -> None:
    assert set(KEPT) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_nothing_more_is_spilled(case: str) -> None:
    found = table(case)
    assert set(found) == set(KEPT[case])
    for kernel, targets in found.items():
        for target, (_, spilled, _) in targets.items():
            if triton.__version__ != TABLE["triton"]:
                continue  # another compiler: that it takes all kernels is what can be asked of it
            assert spilled <= KEPT[case][kernel][target][1], f"{kernel} on {target}"


@pytest.mark.parametrize(
    ("case", "kernel", "target", "instruction", "times"),
    [
        ("hash_encoding F=2", "forward", "sm_90", "ld.global.v2.b32", 16),  # 8 vertices, 2 points
        ("hash_encoding F=4", "forward", "sm_80", "ld.global.v4.b32", 16),
        ("hash_encoding F=2 float16", "forward", "sm_90", "ld.global.b32", 16),  # 2 halves a load
        (
            "hash_encoding F=2",
            "backward",
            "sm_90",
            r"(red|atom)\.global\.[\w.]*add\.[\w.]*v2\.f32",
            16,
        ),
        (
            "hash_encoding F=4",
            "backward",
            "sm_90",
            r"(red|atom)\.global\.[\w.]*add\.[\w.]*v4\.f32",
            16,
        ),
        ("mlp 32-64-16", "forward", "sm_80", "mma.sync", 1),
        ("mlp 32-64-16", "forward", "sm_90", "wgmma.mma_async", 1),
        ("mlp 32-64-16", "backward", "sm_80", "mma.sync", 1),
        ("encoded_mlp 32-64-16 float16", "forward", "sm_80", "mma.sync", 1),
        ("adam", "adam", "sm_90", "ld.global.v4.b32", 4),
        ("adam", "adam", "gfx942", "global_load_dwordx4", 4),
    ],
    ids=str,
)
def test_memory_and_matrices_are_reached_by_wide_instructions(
    case: str, kernel: str, target: str, instruction: str, times: int
) -> None:
    operation = case.partition(" ")[0]
    launch = next(one for one in launches(case) if name(one) == f"{operation}.{kernel}")
    assert len(re.findall(instruction, compile_launch(launch, target).assembly)) >= times
