"""A capture small enough to fit in a second: a checkered cube under a sky, seen from around it."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from nerfxl import cli
from nerfxl.cameras import Camera, look_at

# A law is not broken by a slow machine: the first example of some compiles a kernel.
settings.register_profile("nerfxl", deadline=None)
settings.load_profile("nerfxl")

# A shell in the background hands Ctrl-C down ignored, to all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

Array = NDArray[np.float64]
WriteScene = Callable[..., Path]
AsRanks = Callable[[str, Path, int], None]
Spawn = Callable[..., "Spawned"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
WIDTH, HEIGHT, FOCAL = 24, 18, 26.0
EYES = [
    (2.2, 0, 0.9),
    (0.9, 2.0, 1.4),
    (-1.6, 1.5, 0.7),
    (-1.8, -1.2, 1.6),
    (0, -2.3, 1),
    (1, -1.9, 2),
]

TINY: dict[str, Any] = {
    "seed": 7,
    "capture": {"split": {"every": 3}},
    "partition": {"tiles": 4},
    "field": {
        "levels": 4,
        "log2_table": 9,
        "base_resolution": 4,
        "max_resolution": 32,
        "density_hidden": 8,
        "geometry_features": 7,
        "colour_hidden": 8,
        "colour_layers": 1,
        "sh_degree": 2,
    },
    "sampling": {
        "samples": 8,
        "budget": 2048,
        "proposal": {
            "samples": 16,
            "levels": 2,
            "log2_table": 8,
            "max_resolution": 8,
            "warmup": 4,
        },
        "occupancy": {"samples": 64, "resolution": 8, "every": 2, "warmup": 4},
    },
    "train": {
        "steps": 10,
        "rays": 64,
        "warmup_steps": 2,
        "checkpoint_every": 5,
        "log_every": 5,
    },
}


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tests marked `gpu` on a GPU or in Triton's interpreter; skip them without either."""
    if request.node.get_closest_marker("gpu") is None or INTERPRETED:
        yield
    elif torch.cuda.is_available():
        with torch.device("cuda"):
            yield
    else:
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")


@pytest.fixture(scope="session")
def as_ranks() -> AsRanks:
    """Run a test file as R processes that find each other as torchrun's workers do.

    Each is handed a folder to write to; all must end well.
    """

    def run(script: str, folder: Path, size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = os.environ | {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        processes = [
            subprocess.Popen([sys.executable, script, str(folder)], env=shared | {"RANK": str(r)})
            for r in range(size)
        ]
        try:
            assert [process.wait(200) for process in processes] == [0] * size
        finally:
            for process in processes:
                process.kill()

    return run


class Spawned(NamedTuple):
    """The program at work: its process, and the files that hold what it says."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def ended(self, seconds: float = 120) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(seconds)

    def workers(self) -> dict[int, int]:
        """Process ids of the ranks that it has started, by rank."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            ranks = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
            if parent == self.process.pid and ranks:
                found[ranks[0]] = int(entry.name)
        return found

    def addresses(self) -> list[str]:
        """Where the program and its ranks listen."""
        return [
            found
            for pid in (self.process.pid, *self.workers().values())
            for found in listening(pid)
        ]


def listening(pid: int) -> Iterator[str]:
    """The addresses on which a process listens, as the kernel knows them."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            sockets.add(str(link.readlink()))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                # Words of 32 bits, each in the order of this machine's bytes.
                digits = fields[1].partition(":")[0]
                words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
                raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
                yield str(ipaddress.ip_address(raw))


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start `python -m nerfxl ...`, or another command before it; none outlives its test."""
    started: list[subprocess.Popen[bytes]] = []
    ours = ("RANK", "WORLD_SIZE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

    def start(
        *arguments: object, before: Sequence[str] = (sys.executable,), **variables: str
    ) -> Spawned:
        out, err = (tmp_path / f"said-{len(started)}.{kind}" for kind in ("out", "err"))
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [*before, "-m", "nerfxl", *map(str, arguments)],
                env=clean | one_thread | path | variables,
                stdout=to_out,
                stderr=to_err,
            )
        started.append(process)
        return Spawned(process, out, err)

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait until something has happened, with a bound."""
    return wait_for


def colours_along(origin: Array, directions: Array) -> Array:
    """What a ray sees: [..., 3] unit directions -> [..., 3] colours; the cube is [-1/2, 1/2]^3."""
    with np.errstate(divide="ignore"):
        sides = (np.array([[-0.5], [0.5]]) - origin)[:, None, None] / directions
    sides = np.sort(sides, axis=0)
    enter, leave = sides[0].max(-1), sides[1].min(-1)
    hit = (enter < leave) & (enter > 0)
    points = origin + np.where(hit, enter, 0)[..., None] * directions
    checker = np.floor(points * 4 + 1e-6).sum(-1) % 2
    cube = 0.2 + 0.5 * (points + 0.5) + 0.2 * checker[..., None]
    sky = 0.6 + 0.3 * directions[..., 2:] * np.array([1.0, 0.5, -0.5])
    return np.asarray(np.where(hit[..., None], cube, sky).clip(0, 1))


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of 24 x 18 pixels, a transforms.json and the cube's corners as points."""
    root = tmp_path_factory.mktemp("capture")
    return write_capture(root)


@pytest.fixture
def own_capture(tmp_path: Path) -> Path:
    """The same, for a test that changes it."""
    root = tmp_path / "own_capture"
    root.mkdir()
    return write_capture(root)


def write_capture(root: Path) -> Path:
    (root / "images").mkdir()
    camera = Camera("PINHOLE", WIDTH, HEIGHT, (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2))
    frames = []
    for index, eye in enumerate(EYES):
        pose = look_at(eye, (0, 0, 0))
        seen = colours_along(pose[:, 3], camera.directions().astype(np.float64) @ pose[:, :3].T)
        name = f"images/{index}.png"
        Image.fromarray((seen * 255).round().astype(np.uint8)).save(root / name)
        matrix = np.vstack([pose * [1, -1, -1, 1], [0, 0, 0, 1]])  # OpenGL's axes
        frames.append({"file_path": name, "transform_matrix": matrix.tolist()})
    document = {
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "ply_file_path": "points.ply",
    }
    (root / "transforms.json").write_text(json.dumps({**document, "frames": frames}))
    side = np.linspace(-0.5, 0.5, 5)
    points = np.stack(np.meshgrid(side, side, side), -1).reshape(-1, 3)
    points = points[np.abs(points).max(-1) == 0.5]
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    rows = "\n".join(" ".join(map(str, point)) for point in points.tolist())
    (root / "points.ply").write_text(f"{header}{rows}\n")
    return root


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with some values replaced."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out


@pytest.fixture
def scene_file(tmp_path: Path, capture: Path) -> WriteScene:
    """Write the tiny scene, `section={key: value}` over it, and return its file."""

    def write(name: str = "cube", folder: Path = capture, **changes: Any) -> Path:
        document = merged(TINY, changes)
        document["capture"] = {"path": str(folder), **document["capture"]}
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(document))  # YAML 1.2 holds JSON
        return path

    return write


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of one core: one thread, one process unless more are asked for."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    yield
    torch.set_num_threads(threads)


class Said(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Here = Callable[..., Said]


@pytest.fixture
def here(
    one_core: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Here:
    """Run the program in this process: no start to wait for."""
    del one_core

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["nerfxl", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
        return Said(code, *capfd.readouterr())

    return run
