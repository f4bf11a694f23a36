"""TensorBoard's files hold what metrics.jsonl holds, whatever the run went through."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfxl import events, history
from nerfxl.errors import UserError
from nerfxl.runs import RunFolder
from tests.conftest import Here, WriteScene
from tests.report import made

Until = Callable[[Callable[[], bool]], None]
EXCHANGE = {"segments": {"bytes_per_ray": 50.5, "ms_per_step": 2.25}}


def read(run: RunFolder) -> Any:
    """What TensorBoard sees of a run."""
    package = "tensorboard.backend.event_processing.event_accumulator"
    library = pytest.importorskip(package, reason="tensorboard is not installed")
    seen = library.EventAccumulator(
        str(run.tensorboard), size_guidance=library.STORE_EVERYTHING_SIZE_GUIDANCE
    )
    seen.Reload()
    return seen


def told(seen: Any, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in seen.Scalars(tag)]


def same(run: RunFolder) -> None:
    """Every number of every line is there, in float32, and nothing else."""
    seen, lines = read(run), history.read(run.metrics).lines
    written: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                point = (line["step"], float(np.float32(value)))
                written.setdefault(f"train/{name}", []).append(point)
    trained = [tag for tag in seen.Tags()["scalars"] if tag.startswith("train/")]
    assert {tag: told(seen, tag) for tag in trained} == written


def append(run: RunFolder, *lines: dict[str, Any] | str) -> None:
    with run.metrics.open("a") as file:
        for one in lines:
            file.write(one if isinstance(one, str) else json.dumps(one) + "\n")


def test_all_that_was_told_is_there(tmp_path: Path) -> None:
    run = made.run(tmp_path, [made.line(5, exchange=EXCHANGE), made.line(10, waiting=0.5)])
    made.scored(run, 10, [made.view("a.png", 20.0), made.view("b.png", 22.0)])
    Image.new("RGB", (2000, 300), "red").save(run.eval / "step-000000010" / "sheet.png")
    events.rewrite(run)
    same(run)
    seen = read(run)
    assert told(seen, "exchange/segments/ms_per_step") == [(5, 2.25)]
    assert told(seen, "held_out/psnr") == [(10, 21.0)]
    (tag,) = seen.Tags()["images"]
    (sheet,) = seen.Images(tag)
    assert (sheet.step, sheet.width, sheet.height) == (10, 1600, 240)
    began = datetime.fromisoformat(run.status().started).timestamp()
    times = [one.wall_time - began for one in seen.Scalars("train/psnr")]
    assert times == pytest.approx([0.5, 1.0], abs=1e-3)  # 10 steps a second


def test_written_again_it_is_the_same(tmp_path: Path) -> None:
    run = made.run(tmp_path, [made.line(5), made.line(10)])
    for _ in range(2):
        events.rewrite(run)
    assert len(list(run.tensorboard.iterdir())) == 1
    same(run)


def test_what_comes_while_it_trains_is_written_and_what_is_done_again_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    run = made.run(tmp_path, [made.line(5), made.line(10)])
    with events.following(run):
        append(run, made.line(15, psnr=1.0), '{"step": 20, "ps', "\n", made.line(25))
        made.scored(run, 10, [made.view("a.png", 20.0)])
        until(lambda: len(told_so_far(run)) == 4)
        append(run, made.line(15, psnr=2.0))  # ranks were lost, and went on from step 10
    same(run)
    assert told(read(run), "train/psnr") == [(5, 5.0), (10, 10.0), (15, 2.0)]
    assert told(read(run), "held_out/psnr") == [(10, 20.0)]


def told_so_far(run: RunFolder) -> list[tuple[int, float]]:
    if not run.tensorboard.is_dir():
        return []
    seen = read(run)
    return told(seen, "train/psnr") if "train/psnr" in seen.Tags()["scalars"] else []


def test_a_run_with_nothing_to_tell(tmp_path: Path) -> None:
    run = made.run(tmp_path)
    events.rewrite(run)
    assert read(run).Tags()["scalars"] == []


def test_no_number_is_no_point(tmp_path: Path) -> None:
    run = made.run(tmp_path, [made.line(5, loss=None), made.line(10)])
    events.rewrite(run)
    assert [step for step, _ in told(read(run), "train/loss")] == [10]


def test_the_command_line_writes_them_too(
    scene_file: WriteScene, here: Here, tmp_path: Path
) -> None:
    out = ("--output-dir", tmp_path / "runs", "--nproc", 1)
    said = here("fit", scene_file(train={"log_every": 2}), *out, "--tensorboard", "--json")
    assert (said.code, said.err) == (0, "")
    run = RunFolder.open(Path(json.loads(said.out)["run"]))
    same(run)
    assert len(told(read(run), "train/loss")) == 5
    more = ("--set", "train.steps=14", "--tensorboard", "--json")
    assert here("resume", run.path, "--nproc", 1, *more).code == 0
    same(run)
    assert [step for step, _ in told(read(run), "held_out/psnr")] == [10, 14]
    for old in run.tensorboard.iterdir():
        old.unlink()
    again = here("report", run.path, "--tensorboard", "--json")
    assert json.loads(again.out)["tensorboard"] == str(run.tensorboard)
    same(run)


def test_without_the_package_nothing_begins(
    scene_file: WriteScene, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "find_spec", lambda _: None)
    said = here("fit", scene_file(), "--output-dir", tmp_path / "runs", "--tensorboard")
    assert said.code == 2
    assert said.err == (
        "nerfxl: --tensorboard needs the package tensorboard, which is not installed: "
        "pip install 'nerfxl[tensorboard]'.\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_stops_no_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = made.run(tmp_path, [made.line(5)])
    run.tensorboard.write_text("a file in its place")
    with events.following(run):
        append(run, made.line(10))
    assert capfd.readouterr().err.startswith(f"nerfxl: {run.tensorboard} could not be written: ")
    with pytest.raises(UserError, match="could not be made"):
        events.rewrite(run)
