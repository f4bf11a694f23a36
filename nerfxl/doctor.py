"""The verb doctor: whether a fit would work on this machine, and what is missing for what."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from nerfxl.errors import UserError
from nerfxl.progress import Speaker

State = Literal["ok", "note", "missing", "fault"]

PYTHONS = ((3, 11), (3, 13))  # from, to
REQUIRED = {  # the package's name, and that of its module
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "nerfacc": "nerfacc",
    "roma": "roma",
    "pydantic": "pydantic",
    "ruamel.yaml": "ruamel.yaml",
    "typer": "typer",
    "rich": "rich",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "pycolmap": "pycolmap",
    "torchmetrics": "torchmetrics",
}
EXTRAS = {  # what each is for, and the packages that it brings
    "view": ("nerfxl view, fit --view", ("viser",)),
    "video": ("films, frames of a film as photographs", ("av",)),
    "export": ("meshes of nerfxl export", ("scikit-image",)),
    "tensorboard": ("--tensorboard", ("tensorboard",)),
    "study": ("plots of nerfxl study", ("matplotlib",)),
    "synthetic": ("captures rendered by scenes/university4/make.py", ("mitsuba",)),
}
LEAST_MEMORY = 2**30  # bytes: a small scene on one process
LEAST_DISK = 2**28  # of a small scene's two checkpoints
AMPLE_DISK = 4 * 2**30
NCCL_SHARED = 2**28  # bytes of /dev/shm that NCCL is comfortable with
SHARED_MEMORY = Path("/dev") / "shm"
NO_LPIPS = "scores hold PSNR and SSIM: its weights are part of no package, and none is downloaded"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    state: ok; note: worth knowing; missing: something else than fit lacks it; fault: fit would not
    work. remedy: what to do, where there is something to do.
    """

    about: str
    name: str
    state: State
    found: str
    remedy: str = ""


def examine(output_dir: Path, say: Speaker) -> dict[str, Any]:
    """Look at everything, print it, and return it; `fault` is what keeps fit from working."""
    checks: list[Check] = []
    for about, look in LOOKS.items():
        try:
            found = [Check(about, *one) for one in look(output_dir)]
        except Exception as error:  # whatever a broken installation raises
            words = f"{type(error).__name__}: {error}".splitlines()[0]
            found = [Check(about, about, "fault", words, "see the other lines; reinstall nerfxl")]
        say(f"\n{about}" if checks else about)
        for one in found:
            _tell(one, say)
        checks += found
    faults = [one for one in checks if one.state == "fault"]
    say("\nA fit would not work here." if faults else "\nA fit would work here.")
    return {"fault": _sentence(faults), "checks": [asdict(one) for one in checks]}


Looked = tuple[str, State, str] | tuple[str, State, str, str]


def _versions(_: Path) -> Iterator[Looked]:
    """Python, nerfxl, and every package that it cannot do without, imported."""
    version = platform.python_version()
    least, most = (".".join(map(str, one)) for one in PYTHONS)
    if sys.version_info[:2] < PYTHONS[0]:
        yield "Python", "fault", version, f"make an environment with Python {least} to {most}"
    elif sys.version_info[:2] > PYTHONS[1]:
        yield "Python", "note", f"{version}: newer than {most}, and untried"
    else:
        yield "Python", "ok", version
    yield "nerfxl", "ok", f"{metadata.version('nerfxl')}, in {Path(__file__).parent}"
    for package, module in REQUIRED.items():
        try:
            import_module(module)
            yield package, "ok", metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "ok", "there, of a version that it does not say"
        except ImportError as error:
            yield package, "fault", f"cannot be imported: {error}", f"pip install '{package}'"


def _devices(_: Path) -> Iterator[Looked]:
    """Cores, memory, and GPUs with what they need."""
    import torch

    from nerfxl.plan_report import as_bytes, available_memory
    from nerfxl.processes.cluster import cores

    yield "cores", "ok", f"{cores()}: fit starts a process on each, unless --nproc says otherwise"
    free = available_memory("cpu")
    if free < LEAST_MEMORY:
        advice = "end other programs, or use a machine with more"
        yield "memory", "fault", f"{as_bytes(free)} free, {as_bytes(LEAST_MEMORY)} needed", advice
    else:
        yield "memory", "ok", f"{as_bytes(free)} free"
    yield from _gpus()
    yield from _triton(torch.cuda.is_available())


def _gpus() -> Iterator[Looked]:
    import torch

    from nerfxl.plan_report import as_bytes

    build = f"torch {torch.__version__}"
    driver = _driver()
    if not torch.cuda.is_available():
        if driver and torch.version.cuda is None and torch.version.hip is None:
            found = f"there is a driver ({driver}), and {build} is a build without GPUs"
            yield "GPU", "note", found, "install the build of torch for your CUDA (pytorch.org)"
        elif driver:
            found = f"there is a driver ({driver}), and {build} sees no GPU"
            yield "GPU", "note", found, "see nvidia-smi: the driver may be too old for this torch"
        else:
            yield "GPU", "note", f"none seen by {build}: fit uses the CPU"
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        words = f"{about.name}, {as_bytes(free)} of {as_bytes(total)} free"
        kind = f"sm_{about.major}{about.minor}, driver {driver or 'unknown'}"
        yield f"GPU {index}", "ok", f"{words}, {kind}"
    nccl = torch.distributed.is_nccl_available()
    if torch.cuda.device_count() > 1:
        lacks = "not in this build of torch: several GPUs cannot work together"
        yield "NCCL", "ok" if nccl else "note", "there" if nccl else lacks


def _driver() -> str:
    """The version of NVIDIA's driver, where there is one."""
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text(errors="replace").split() if file.exists() else []
    numbers = [word for word in words if word[:1].isdigit() and "." in word]
    return numbers[0] if numbers else ""


def _triton(gpu: bool) -> Iterator[Looked]:
    """The compiler of the GPU's kernels."""
    untried = "the kernels are tested in its interpreter, and untried on a GPU"
    try:
        import triton

        version = tuple(int(part) for part in triton.__version__.split(".")[:2])
        if version >= (3, 5):
            yield "Triton", "note" if gpu else "ok", f"{triton.__version__}: {untried}"
            return
        lacks = f"{triton.__version__}: 3.5 or later is needed on a GPU"
    except ImportError as error:
        lacks = f"cannot be imported ({error}): needed on a GPU alone"
    yield "Triton", "note", lacks, "install torch 2.9 or later, which brings it"


def _kernels(_: Path) -> Iterator[Looked]:
    """A kernel for the CPU, compiled and run; and where compiled kernels are kept."""
    import torch
    from nerfxl_kernels import backend
    from nerfxl_kernels.compose import compose

    values = torch.zeros(2, 1, 4)
    values[:, 0, 3] = torch.tensor([0.5, 0.25])
    start = time.monotonic()
    kernels: Any = backend.load("compose", values)
    right = float(compose(values)[0, 3]) == 0.75
    seconds = time.monotonic() - start
    if not right:
        yield "numba", "fault", "a kernel computes what is wrong", "reinstall numba"
        return
    yield "numba", "ok", f"a kernel was compiled, or found compiled, and run in {seconds:.1f} s"
    where = Path(kernels._forward.stats.cache_path)
    yield "kept in", "ok", f"{where}; NUMBA_CACHE_DIR chooses another place"


def _ranks(_: Path) -> Iterator[Looked]:
    """Whether processes of this machine could find each other."""
    import torch

    from nerfxl.plan_report import as_bytes
    from nerfxl.processes import rendezvous

    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        lacks = "not in this build of torch: a fit runs on one process alone"
        yield "gloo", "note", lacks, "install a build of torch with distributed"
    try:
        store = rendezvous.host("127.0.0.1")
        guest = rendezvous.join("127.0.0.1", store.port, seconds=10)
        guest.set("said", "heard")
        heard = store.get("said") == b"heard"
    except (OSError, RuntimeError, UserError) as error:
        words = f"processes cannot reach each other: {error}".splitlines()[0]
        yield "loopback", "fault", words, "bring it up (ip link set lo up), or pass --nproc 1"
    else:
        through = rendezvous.interface_towards("127.0.0.1") or "an interface without a name"
        words = f"processes reach each other, by {through}" if heard else "messages are lost"
        yield "loopback", "ok" if heard else "fault", words
    shared = SHARED_MEMORY
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        gpus = torch.cuda.device_count()
        small = gpus > 1 and size < NCCL_SHARED
        advice = ("start the container with --shm-size=1g",) if small else ()
        use = "NCCL uses it between GPUs" if gpus > 1 else "not used on one device, nor by gloo"
        yield str(shared), "note" if small else "ok", f"{as_bytes(size)}: {use}", *advice


def _folders(output_dir: Path) -> Iterator[Looked]:
    """Whether runs can be written, and how much."""
    from nerfxl.plan_report import as_bytes

    where = output_dir.absolute()
    there = next(one for one in (where, *where.parents) if one.exists())
    name = str(output_dir)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".nerfxl-"):
            pass
    except OSError as error:
        yield name, "fault", f"{there} cannot be written to: {error.strerror}", "pass --output-dir"
        return
    yield name, "ok", "can be written" if there == where else f"can be made in {there}"
    free = shutil.disk_usage(there).free
    if free < LEAST_DISK:
        words = f"{as_bytes(free)} free, {as_bytes(LEAST_DISK)} needed for a small scene"
        yield "disk", "fault", words, "make room, or pass --output-dir"
    elif free < AMPLE_DISK:
        yield "disk", "note", f"{as_bytes(free)} free: two checkpoints of a large scene need more"
    else:
        yield "disk", "ok", f"{as_bytes(free)} free"


def _features(_: Path) -> Iterator[Looked]:
    """What needs more than a plain installation."""
    for extra, (purpose, packages) in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if not version]
        if missing:
            lacks = f"{purpose}: {' and '.join(missing)} not installed"
            yield extra, "missing", lacks, f"pip install 'nerfxl[{extra}]'"
        else:
            told = ", ".join(f"{package} {version}" for package, version in versions.items())
            yield extra, "ok", f"{purpose}: {told}"
    yield "LPIPS", "missing", NO_LPIPS


LOOKS: dict[str, Callable[[Path], Iterator[Looked]]] = {
    "versions": _versions,
    "devices": _devices,
    "kernels": _kernels,
    "processes": _ranks,
    "folders": _folders,
    "features": _features,
}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _tell(one: Check, say: Speaker) -> None:
    mark = {"ok": "  ", "note": "- ", "missing": "- ", "fault": "! "}[one.state]
    remedy = f"; {one.remedy}" if one.remedy else ""
    say(f"{mark}{one.name:<14} {one.found}{remedy}")


def _sentence(faults: list[Check]) -> str:
    if not faults:
        return ""
    first = faults[0]
    more = f" ({len(faults) - 1} more above)" if len(faults) > 1 else ""
    remedy = f": {first.remedy}" if first.remedy else ""
    return f"fit would not work here, {first.name}: {first.found}{remedy}{more}."
