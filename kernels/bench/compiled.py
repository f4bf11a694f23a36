"""Compile Triton kernels for GPUs that are not there, and read what they cost.

An operation runs on tensors on the CPU while its launches are recorded; each is compiled for every
target with the types and divisibility that those very arguments have. So the table follows the code
that starts the kernels. Nothing is executed. `python -m bench.compiled` writes the table anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from nerfxl_kernels.gpu import Launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.cases import CASES, launches

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
RESULTS = Path(__file__).parent / "results" / "compiled.json"
_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes of a GPU: 32-bit registers a thread, bytes spilled, bytes shared."""

    registers: int
    spilled: int
    shared: int
    assembly: str


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile a recorded launch for one of TARGETS."""
    source = _source(launch)
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    built = triton.compile(source, target=TARGETS[target], options=options)
    if "amdgcn" in built.asm:
        text = built.asm["amdgcn"]
        vector, spilled = (_number(text, rf"\.{key}:\s+(\d+)") for key in _AMD_KEYS)
        return Compiled(vector, spilled, built.metadata.shared, text)
    usage = _cuda_usage(built.asm["cubin"])
    # STACK counts what is spilled to local memory too; Triton's kernels keep nothing else there.
    registers, spilled = _number(usage, r"REG:(\d+)"), _number(usage, r"STACK:(\d+)")
    return Compiled(registers, spilled, built.metadata.shared, built.asm["ptx"])


_AMD_KEYS = ("vgpr_count", "vgpr_spill_count")


def _source(launch: Launch) -> ASTSource:
    names = launch.kernel.arg_names
    told = {parameter.name: parameter.annotation_type for parameter in launch.kernel.params}
    signature, constants, attributes = {}, dict(launch.constants), {}
    for i, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        if told[name]:
            signature[name] = told[name]
        elif value is None or (isinstance(value, int) and value == 1):  # as Triton specialises
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(i,)] = [["tt.divisibility", 16]]  # what torch allocates is aligned
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in names}
    return ASTSource(launch.kernel, ordered, constexprs=constants, attrs=attributes)


def _cuda_usage(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"{pattern!r} not found in what the compiler wrote")
    return int(found[1])


def name(launch: Launch) -> str:
    """`operation.kernel`."""
    module: str = launch.kernel.fn.__module__
    return f"{module.split('.')[-2]}.{launch.kernel.fn.__name__.lstrip('_')}"


def table(case: str) -> dict[str, dict[str, list[int]]]:
    """Registers, spilled and shared bytes of the kernels of a case, by kernel and target."""
    found: dict[str, dict[str, list[int]]] = {}
    for launch in launches(case):
        label, same = name(launch), 1
        while label in found:  # the same kernel with other constants
            same += 1
            label = f"{name(launch)} ({same})"
        built = {target: compile_launch(launch, target) for target in TARGETS}
        found[label] = {t: [b.registers, b.spilled, b.shared] for t, b in built.items()}
    return found


def main() -> None:
    """Write the table of all cases."""
    kernels = {case: table(case) for case in CASES}
    written = {"triton": triton.__version__, "kernels": kernels}
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
