"""Saving: beside the training, and safe from full disks, limits, locks and kills."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from nerfxl import commands, runs
from nerfxl.crew import Launching
from nerfxl.errors import UserError
from nerfxl.inspection import inspected
from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import Ranks
from nerfxl.progress import Speaker
from nerfxl.runs import RunFolder
from nerfxl.storage import saver
from nerfxl.storage.checkpoint import Origin, latest, load, newest_first, read, step_of
from nerfxl.storage.saver import Saver, serialised

AsRanks = Callable[[str, Path, int], None]
WriteScene = Callable[..., Path]
Tiles = dict[int, dict[str, Tensor]]

ORIGIN = Origin("garden", "2026-01-31T12:00:00.000+00:00", "plan's hash")
KILLS = 20
NERFXL = f"""nerfxl() {{ "{sys.executable}" -c "import nerfxl.cli; nerfxl.cli.main()" "$@"; }}\n"""


def tiles(value: float, own: tuple[int, ...] = (0, 1)) -> Tiles:
    return {k: {"table": torch.full((50_000,), value)} for k in own}


def save(checkpoints: Path, step: int, ranks: Ranks, own: tuple[int, ...] = (0, 1)) -> None:
    writer = Saver(checkpoints, ORIGIN, ranks, keep_last=2)
    writer.start(step, tiles(step, own), {"w": torch.tensor(float(step))}, {})
    writer.finish()


def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that stores no shard before the event."""
    go = threading.Event()

    def write(path: Path, content: Any) -> None:
        if path.suffix == ".safetensors":
            assert go.wait(20)
        runs.write_atomic(path, content)

    monkeypatch.setattr(saver, "write_atomic", write)
    return go


def test_training_goes_on_while_shards_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = slow(monkeypatch)
    writer = Saver(tmp_path, ORIGIN, Ranks())
    learning = tiles(1.0)
    writer.start(1, learning, {}, {})
    learning[0]["table"].fill_(2.0)  # what is learned meanwhile is not what was saved
    assert writer.writing
    assert not newest_first(tmp_path)
    go.set()
    writer.finish()
    # The next one uses the same memory again, and waits for the one before.
    writer.start(2, learning, {}, {})
    writer.start(3, tiles(3.0), {}, {})
    assert [step_of(folder) for folder in newest_first(tmp_path)] == [2, 1]
    writer.finish()
    for step in (1, 2, 3):
        stored = read(tmp_path / f"step-00000000{step}", ORIGIN)
        assert bool((stored.tiles[0]["table"] == step).all())


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3)], ids=str)
def test_what_is_written_is_what_the_library_reads(shape: tuple[int, ...]) -> None:
    kinds = (*saver.DTYPES,)
    tensors = {f"{kind}": (10 * torch.rand(shape)).to(kind) for kind in kinds}
    read = safetensors.torch.load(b"".join(serialised(tensors)))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_a_kill_at_any_moment_loses_no_checkpoint(as_ranks: AsRanks, tmp_path: Path) -> None:
    (tmp_path / "kills").mkdir()
    as_ranks(__file__, tmp_path / "kills", 1)
    found = json.loads((tmp_path / "kills" / "found.json").read_text())
    assert found["kills"] == KILLS
    assert found["in the middle"] > 0  # else the kills have shown nothing
    assert found["saved"] > KILLS / 2


def kills(folder: Path) -> None:
    """Save without end in a process of its own, kill it, and look at what is left; 20 times."""
    torch.set_num_threads(1)
    chance = random.Random(7)  # noqa: S311
    checkpoints = folder / "checkpoints"
    middle = newest = 0
    for _ in range(KILLS):
        # A fork: no interpreter to wait for.
        child = os.fork()
        if not child:
            save_without_end(checkpoints, newest)
        time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        middle += any(checkpoints.glob("step-*.tmp"))
        if any(newest_first(checkpoints)):
            found = load(checkpoints, ORIGIN, [0, 1], Ranks())
            assert not found.passed_over
            assert found.step >= newest
            newest = found.step
            for tensor in (found.tiles[0]["table"], found.tiles[1]["table"], found.shared["w"]):
                assert bool((tensor == newest).all())
        else:
            assert newest == 0
    summary = {"kills": KILLS, "in the middle": middle, "saved": newest}
    (folder / "found.json").write_text(json.dumps(summary))


def save_without_end(checkpoints: Path, step: int) -> None:
    writer = Saver(checkpoints, ORIGIN, Ranks(), keep_last=2)
    while True:
        step += 1
        writer.start(step, tiles(step), {"w": torch.tensor(float(step))}, {})


def test_a_limit_of_one_rank_stops_both_and_keeps_the_older(
    as_ranks: AsRanks, tmp_path: Path
) -> None:
    (tmp_path / "limit").mkdir()
    as_ranks(__file__, tmp_path / "limit", 2)
    checkpoints = tmp_path / "limit" / "checkpoints"
    expected = (
        "the checkpoint of step 2 is not stored, older ones are kept: "
        f"{checkpoints / 'step-000000002.tmp' / 'tile-0001.safetensors'} could not be written: "
        "File too large."
    )
    said = [(tmp_path / "limit" / f"{rank}.txt").read_text() for rank in range(2)]
    assert said == [expected, expected]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-000000001"]
    assert load(checkpoints, ORIGIN, [0, 1], Ranks()).step == 1


def limit(folder: Path) -> None:
    """Two ranks save; then the files of the second one may not be as large as its shard."""
    with joined("cpu") as ranks:
        save(folder / "checkpoints", 1, ranks, (ranks.rank,))
        if not ranks.first:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            save(folder / "checkpoints", 2, ranks, (ranks.rank,))
        except UserError as error:
            (folder / f"{ranks.rank}.txt").write_text(str(error))


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    scene_file: WriteScene, tmp_path: Path
) -> None:
    """Two processes save every step; kill -9 of them all, three times; bit for bit the same."""
    scene = scene_file(train={"steps": 120, "checkpoint_every": 1})
    chance = random.Random(7)  # noqa: S311
    killed = tmp_path / "killed"
    verb: list[object] = ["fit", scene]
    for _ in range(3):
        process = nerfxl(*verb, "--output-dir", killed)
        before = steps_in(killed)
        try:
            wait_for(lambda: steps_in(killed) > before, process)  # noqa: B023
            time.sleep(chance.uniform(0, 0.5))
        finally:
            process.kill()
            process.wait(20)
        verb = ["resume"]
    assert 0 < steps_in(killed) < 120
    for words in (["resume", "--output-dir", killed], ["fit", scene, "--output-dir", tmp_path]):
        process = nerfxl(*words)
        assert process.wait(200) == 0
    runs_made = RunFolder.newest(killed), RunFolder.newest(tmp_path, "cube")
    one, other = (
        {
            file.name: safetensors.torch.load_file(file)
            for file in latest(run.checkpoints).glob("*.safetensors")
        }
        for run in runs_made
    )
    assert one.keys() == other.keys()
    for file, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(other[file][name], tensor), (file, name)


def nerfxl(*words: object) -> subprocess.Popen[bytes]:
    main = "import nerfxl.cli; nerfxl.cli.main()"
    options = ["--nproc", "2", "--device", "cpu", "--quiet"]
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", main, *map(str, words), *options],
        env=os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def steps_in(output: Path) -> int:
    """The highest step stored by any run."""
    return max((step_of(folder) for folder in output.glob("*/*/checkpoints/step-*")), default=0)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def in_a_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script where it may mount what nobody else sees; skip where it may not."""
    private = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*private, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here without being root: {error}")
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        [*private, "sh", "-c", f"set -e\n{NERFXL}{script}", "sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=200,
    )


FULL = """
mount -t tmpfs -o size=600k none "$2"
code=0; nerfxl fit "$1" --output-dir "$2/runs" --nproc 2 --device cpu --quiet || code=$?
cp -a "$2/runs" "$3"; exit $code
"""


def test_a_full_disk_ends_a_run_and_keeps_what_it_had(
    scene_file: WriteScene, tmp_path: Path
) -> None:
    """Two checkpoints have room, not a third beside them; two real processes."""
    scene = scene_file(train={"steps": 40, "checkpoint_every": 5})
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    done = in_a_namespace(FULL, scene, disk, kept)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    run = RunFolder.newest(kept)
    status = run.status()
    assert done.stderr == f"nerfxl: {status.reason}\n"
    assert status.state == "failed"
    assert status.reason.startswith(
        f"the checkpoint of step 15 is not stored, older ones are kept: {disk}"
    )
    assert status.reason.endswith("could not be written: No space left on device.")
    found = inspected(run)
    assert [(one.step, one.faults) for one in found.checkpoints] == [(10, []), (5, [])]
    assert not list(run.checkpoints.glob("*.tmp"))


LOCKED = """
mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
for verb in "inspect" "resume --nproc 1" "eval --nproc 1"; do
    code=0; nerfxl $verb --output-dir "$1" || code=$?; echo "code $code"
done
code=0; nerfxl fit "$2" --output-dir "$1" --nproc 1 || code=$?; echo "code $code"
"""


@pytest.mark.long
def test_a_run_that_cannot_be_written_to_is_left_as_it_is(
    scene_file: WriteScene,
    tmp_path: Path,
    one_core: None,
) -> None:
    del one_core
    scene, out = scene_file(), tmp_path / "runs"
    commands.fit(scene, out, "cpu", (), False, Speaker(quiet=True), Launching(1))
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = in_a_namespace(LOCKED, out, scene)
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == [
        "code 0",
        "code 2",
        "code 2",
        "code 2",
    ], done.stderr
    run = RunFolder.newest(out)
    lines = done.stderr.splitlines()
    assert lines[0] == f"nerfxl: {run.path / 'lock'} could not be written: Read-only file system."
    assert lines[1].startswith(f"nerfxl: {run.logs / 'evaluate'}")
    assert lines[1].endswith("could not be made: Read-only file system.")
    assert lines[2].endswith("could not be made: Read-only file system.")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


if __name__ == "__main__":
    place = Path(sys.argv[1])
    {"kills": kills, "limit": limit}[place.name](place)
