"""Processes that die, stop, run out of memory or get in each other's way while a run trains."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nerfxl.errors import UserError
from nerfxl.runs import RunFolder
from nerfxl.storage.checkpoint import latest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Until = Callable[[Callable[[], bool]], None]
ENDLESS = {"steps": 1_000_000, "log_every": 5, "checkpoint_every": 5}


def newest(output: Path) -> RunFolder:
    return RunFolder.newest(output)


def saved(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("*/*/checkpoints/step-*[0-9]"))


def tensors(run: Path) -> dict[str, Any]:
    files = sorted(latest(run / "checkpoints").glob("*.safetensors"))
    return {f"{f.name}/{name}": t.tolist() for f in files for name, t in load_file(f).items()}


def test_a_killed_rank_costs_the_steps_since_the_checkpoint_and_nothing_else(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until
) -> None:
    scene = scene_file(train={"steps": 80, "log_every": 10, "checkpoint_every": 10})
    common = ("fit", scene, "--device", "cpu", "--nproc", 2)
    undisturbed = spawn(*common, "--output-dir", tmp_path / "calm")
    assert undisturbed.ended() == 0
    out = tmp_path / "runs"
    disturbed = spawn(*common, "--output-dir", out, "--max-restarts", 1)
    until(lambda: len(disturbed.workers()) == 2)
    victim = disturbed.workers()[1]
    until(lambda: len(saved(out)) > 0)
    os.kill(victim, signal.SIGKILL)
    assert disturbed.ended() == 0, disturbed.err.read_text()
    said = [line for line in disturbed.out.read_text().splitlines() if "restart" in line]
    assert len(said) == 1
    assert said[0].startswith("restart    1 of 1, from the checkpoint of step ")
    assert said[0].endswith(
        "rank 1 of 2 was killed by SIGKILL (often by the system, out of memory)"
    )
    run = newest(out)
    assert (run.status().state, run.status().step) == ("completed", 80)
    assert (run.logs / "rank-1.1.log").is_file()
    assert tensors(run.path) == tensors(newest(tmp_path / "calm").path)


@pytest.mark.long
def test_a_rank_that_is_killed_again_and_again_fails_the_run(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until
) -> None:
    out = tmp_path / "runs"
    scene = scene_file(train={**ENDLESS, "checkpoint_every": 0})
    program = spawn(
        "fit", scene, "--device", "cpu", "--nproc", 2, "--output-dir", out, "--max-restarts", 1
    )
    until(lambda: any(file.stat().st_size for file in out.glob("*/*/metrics.jsonl")))
    first = program.workers()
    os.kill(first[0], signal.SIGSEGV)
    until(lambda: bool(newest(out).status().reason))  # written before ranks start: none has a step
    status = newest(out).status()
    assert (status.state, status.step) == ("running", 0)
    assert status.reason == "restart 1 of 1: rank 0 of 2 was killed by SIGSEGV"
    until(lambda: program.workers().keys() == first.keys() and program.workers() != first)
    os.kill(program.workers()[1], signal.SIGKILL)
    assert program.ended() == 1
    sentence = (
        "after 1 restart: rank 1 of 2 was killed by SIGKILL (often by the system, out of memory); "
        f"the log is {newest(out).path.absolute() / 'logs' / 'rank-1.log'}."
    )
    assert program.err.read_text() == f"nerfxl: {sentence}\n"
    assert "from the start: rank 0 of 2 was killed by SIGSEGV" in program.out.read_text()
    assert (newest(out).status().state, newest(out).status().reason) == ("failed", sentence)


def test_a_run_keeps_to_the_loopback_keeps_others_out_and_ends_when_asked(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until
) -> None:
    out = tmp_path / "runs"
    scene = scene_file(train=ENDLESS)
    program = spawn("fit", scene, "--device", "cpu", "--nproc", 2, "--output-dir", out)
    until(lambda: len(saved(out)) > 0)

    assert len(program.workers()) == 2
    # The launcher's store, and gloo's socket of each rank.
    assert program.addresses() == ["127.0.0.1"] * 3

    run = newest(out)
    second = spawn("resume", run.path, "--nproc", 1, "--device", "cpu")
    assert second.ended() == 2
    assert second.err.read_text() == (
        f"nerfxl: {run.path} is being trained by process {program.process.pid} on "
        f"{socket.gethostname()}: wait for it, stop it, or start a new run.\n"
    )
    # To look at what it has learned so far is no disturbance.
    look = spawn("eval", run.path, "--nproc", 2, "--device", "cpu", "--json")
    assert look.ended() == 0, look.err.read_text()
    assert json.loads(look.out.read_text())["run"] == str(run.path)

    program.process.send_signal(signal.SIGTERM)
    assert program.ended() == 143, program.err.read_text()
    assert program.err.read_text() == ""
    status = run.status()
    assert (status.state, status.reason) == ("interrupted", "stopped by SIGTERM")
    assert latest(run.checkpoints).name == f"step-{status.step:09d}"
    with run.locked(print):  # it is free again
        pass


@pytest.mark.long
def test_a_rank_without_memory_fails_the_run_and_says_so(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until
) -> None:
    out = tmp_path / "runs"
    scene = scene_file(train=ENDLESS)
    keep = ("--timeout", 20, "--max-restarts", 0)
    program = spawn("fit", scene, "--device", "cpu", "--nproc", 2, "--output-dir", out, *keep)
    until(lambda: len(saved(out)) > 0)
    resource.prlimit(program.workers()[1], resource.RLIMIT_AS, (2**20, 2**20))
    assert program.ended() == 1
    status = newest(out).status()
    assert status.state == "failed"
    assert program.err.read_text().endswith(f"nerfxl: {status.reason}\n")
    # What fails first for want of memory differs: an exception, an abort, or a thread that hangs.
    assert status.reason.startswith("rank 1 ")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "garden")
    said: list[str] = []
    refused = pytest.raises(UserError, match=rf"trained by process {os.getpid()} on")
    with run.locked(said.append), refused, run.locked(said.append):
        pass
    with run.locked(said.append):
        pass
    assert said == []


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    run = RunFolder.create(tmp_path, "garden")
    said: list[str] = []
    with run.locked(said.append):
        pass
    assert said == [
        f"locks      none on the file system of {run.path} (Function not implemented): see that "
        "no other process trains in it"
    ]
