"""Run folders: atomic files, a status that tells the truth, curves that survive a crash."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nerfxl.errors import UserError
from nerfxl.runs import MetricsLog, RunFolder, recording, write_atomic


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path, "garden")
    run.update(state="running", steps=100)
    return run


def test_importing_needs_no_torch() -> None:
    code = "import sys, nerfxl.runs, nerfxl.processes.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_atomic(file, "é")
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plan.json"
    write_atomic(file, "old")

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(UserError) as caught:
        write_atomic(file, "new")
    assert str(caught.value) == f"{file} could not be written: No space left on device."
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_runs_in_one_second_do_not_share_a_folder(tmp_path: Path) -> None:
    runs = {RunFolder.create(tmp_path, "garden").path for _ in range(3)}
    assert len(runs) == 3
    assert all(path.parent == tmp_path / "garden" for path in runs)
    assert all((path / "checkpoints").is_dir() for path in runs)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b"])
def test_a_run_is_named_by_a_plain_folder_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot name a run: use a plain folder name"):
        RunFolder.create(tmp_path, name)


def test_the_newest_run_is_the_one_started_last(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, name) for name in ("z", "a", "z", "a")]
    for run, second in zip(runs, (1, 2, 4, 3), strict=True):
        run.update(state="running")
        status = json.loads(run.status_file.read_text())
        status["started"] = f"2026-01-01T00:00:0{second}+00:00"
        run.status_file.write_text(json.dumps(status))
    assert RunFolder.newest(tmp_path) == runs[2]
    assert RunFolder.newest(tmp_path, "a") == runs[3]


def test_no_run_is_said_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "garden" / "notes").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        RunFolder.newest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no run: start one with 'nerfxl fit', or say where the runs are with "
        "--output-dir."
    )
    with pytest.raises(UserError, match=r"is not a run folder: it holds no status\.json"):
        RunFolder.open(tmp_path)


def test_status_keeps_what_is_not_updated(run: RunFolder) -> None:
    run.update(step=7)
    status = run.update(state="failed", reason="no points")
    assert (status.state, status.step, status.steps) == ("failed", 7, 100)
    assert RunFolder.open(run.path).status() == status
    assert run.update(step=8).reason == "no points"
    assert run.update(state="running").reason == ""


def test_a_run_whose_process_is_gone_has_failed(run: RunFolder) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    content = json.loads(run.status_file.read_text())
    assert content["pid"] == os.getpid()
    assert run.status().state == "running"
    run.status_file.write_text(json.dumps(content | {"pid": gone.pid}))
    status = run.status()
    assert status.state == "failed"
    assert status.reason == f"process {gone.pid} ended without saying why"
    # Of another machine nothing is known, so its word is taken.
    run.status_file.write_text(json.dumps(content | {"pid": gone.pid, "host": "elsewhere"}))
    assert run.status().state == "running"


@pytest.mark.parametrize("content", ["", "[", "{}", '{"state": "running", "colour": 1}', "[1]"])
def test_a_damaged_status_is_named(content: str, run: RunFolder) -> None:
    run.status_file.write_text(content)
    with pytest.raises(UserError, match=r"status\.json is damaged"):
        run.status()


def test_a_block_that_reaches_the_last_step_is_completed(run: RunFolder) -> None:
    with recording(run):
        assert run.status().state == "running"
        run.update(step=100)
    assert (run.status().state, run.status().reason) == ("completed", "")


def test_a_block_that_ends_early_is_not_completed(run: RunFolder) -> None:
    with recording(run):
        run.update(step=60)
    assert run.status().state == "interrupted"
    assert run.status().reason == "stopped at step 60 of 100"


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("scene.yaml: no points."), "failed", "scene.yaml: no points."),
        (MemoryError("4 GiB"), "failed", "MemoryError: 4 GiB"),
        (KeyboardInterrupt(), "interrupted", "stopped by Ctrl-C"),
        (SystemExit(128 + signal.SIGINT), "interrupted", "stopped by Ctrl-C"),
        (SystemExit(128 + signal.SIGTERM), "interrupted", "stopped by SIGTERM"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (SystemExit(0), "completed", ""),
    ],
)
def test_an_error_is_recorded_and_goes_on(
    error: BaseException, state: str, reason: str, run: RunFolder
) -> None:
    run.update(step=100)
    with pytest.raises(type(error)), recording(run):
        raise error
    assert (run.status().state, run.status().reason) == (state, reason)


def test_metrics_are_json_lines_with_null_for_what_json_cannot_hold(run: RunFolder) -> None:
    with MetricsLog(run.metrics) as log:
        log.append(
            {"step": 1, "loss": math.nan, "tiles": [1.5, math.inf], "more": {"a": -math.inf}}
        )
        # On disk at once, not at the end.
        assert json.loads(run.metrics.read_text()) == {
            "step": 1,
            "loss": None,
            "tiles": [1.5, None],
            "more": {"a": None},
        }


def test_a_torn_line_does_not_swallow_the_next(run: RunFolder) -> None:
    run.metrics.write_text('{"step": 1}\n{"ste')
    with MetricsLog(run.metrics) as log:
        log.append({"step": 3})
    with MetricsLog(run.metrics) as log:
        log.append({"step": 4})
    assert run.metrics.read_text().split("\n") == [
        '{"step": 1}',
        '{"ste',
        '{"step": 3}',
        '{"step": 4}',
        "",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_line_for_which_there_is_no_room_is_said() -> None:
    with pytest.raises(UserError) as caught, MetricsLog(Path("/dev/full")) as log:
        log.append({"step": 1})
    assert str(caught.value) == "/dev/full could not be written: No space left on device."
