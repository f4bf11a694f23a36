"""The verb study at the real command line: it goes on, it refuses, it tells the truth."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from nerfxl.errors import UserError
from nerfxl.processes.cluster import cores
from nerfxl.processes.launch import RankFailedError
from nerfxl.runs import RunFolder
from nerfxl.storage.checkpoint import MANIFEST, SHARED, latest, read_manifest, shard
from nerfxl.study import cells, poses
from nerfxl.study.book import Book, Entry
from nerfxl.study.seams import views
from tests.conftest import Here, Said, Spawn, WriteScene
from tests.study.made import STEPS, run

Until = Callable[[Callable[[], bool]], None]

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def refused(said: Said, *words: str) -> None:
    """One sentence on stderr, and exit code 2."""
    assert said.code == 2, said
    assert said.err.startswith("nerfxl: ")
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err


def stamps(study: Path) -> dict[str, int]:
    """When each run last changed."""
    return {
        str(file.relative_to(study)): file.stat().st_mtime_ns
        for file in study.glob("*/*/*")
        if file.is_file()
    }


@LINUX
def test_a_study_that_is_stopped_goes_on_and_what_is_complete_stays(
    scene_file: WriteScene, tmp_path: Path, spawn: Spawn, until: Until, here: Here
) -> None:
    scene = scene_file(train={"steps": 60, "log_every": 5, "checkpoint_every": 50})
    out = tmp_path / "runs"
    study = out / "studies" / "cube-scaling"
    words = ("study", "scaling", scene, "--modes", "joint", "--nproc", 1, "--output-dir", out)
    asked = (*words, "--tiles", "1,2", "--device", "cpu")
    program = spawn(*asked)
    until(lambda: any(file.stat().st_size for file in study.glob("*/*/metrics.jsonl")))
    program.process.send_signal(signal.SIGINT)
    assert program.ended() == 130, program.err.read_text()
    said = program.out.read_text()
    assert "2 fits: 0 complete, 0 begun, 2 to fit" in said
    assert "the same command goes on" in said
    text = (study / "report.md").read_text()
    assert "0 of 2 fits are complete" in text
    assert "* interrupted at step " in text
    (begun,) = study.glob("*/*/status.json")
    stopped = RunFolder(begun.parent).status().step

    again = here(*asked)
    assert again.code == 0, again.err
    assert "2 fits: 0 complete, 1 begun, 2 to fit" in again.out
    assert f"going on   from step {stopped:,} to 60" in again.out
    assert "left       1 fit, about " in again.out
    found = sorted(file.parent.parent.name for file in study.glob("*/*/status.json"))
    assert found == ["joint-1-tile-seed-7", "joint-2-tiles-seed-7"]  # each was begun once
    content = json.loads((study / "report.json").read_text())
    assert [one["state"] for one in content["cells"]] == ["complete", "complete"]
    assert [one["sessions"] for one in content["cells"]] == [[0, 1], [1]]
    assert content["cells"][0]["overrides"][-5:] == [
        *("seed=7", "partition.tiles=1", "partition.plan=auto"),
        *("train.mode=joint", "train.overlap=auto"),
    ]
    for line in content["cells"]:
        assert line["figures"]["rays_per_second"] > 0
        assert 5 < line["figures"]["psnr"] < 40

    # All is there: nothing is trained, whatever part of it is asked for.
    before = stamps(study)
    assert "2 fits: 2 complete, 0 begun, 0 to fit" in here(*asked).out
    quiet = here(*words, "--tiles", 2, "--quiet")
    assert quiet == (0, "", "")
    (study / "report.md").unlink()
    assert json.loads(here(*words, "--report", "--json").out)["kind"] == "scaling"
    assert (study / "report.md").is_file()
    assert stamps(study) == before

    # Other settings are refused, and what is there is as it was.
    one = study / "joint-1-tile-seed-7"
    with_steps = here(*asked, "--steps", 61)
    refused(with_steps, f"{one}/", "was fitted with train.steps 60, now 61: ask as before, or")
    several = ("--set", "field.levels=5", "--set", "train.rays=32", "--set", "train.eps=1e-8")
    refused(here(*asked, *several, "--steps", 9), "field.levels 4, now 5; ", " and 1 more: ask")
    processes = (*words[:5], "--tiles", "1,2", "--nproc", 2, "--output-dir", out)
    refused(here(*processes), "was fitted with processes 1, now 2: ask as before")
    assert stamps(study) == before
    assert sorted(path.name for path in study.iterdir()) == [
        *("joint-1-tile-seed-7", "joint-2-tiles-seed-7", "lock"),
        *("report.json", "report.md", "scaling.png", "study.json"),
    ]


def test_surfaces_and_corrections_are_read_from_a_run_as_it_is_stored(
    scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    """Of an overlap study, with the joint fits alone; their cameras are disturbed afterwards."""
    scene = scene_file(train={"steps": 12})
    words = ("study", "overlap", scene, "--modes", "joint", "--nproc", 1)
    said = here(*words, "--output-dir", tmp_path, "--tiles", 2, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["pictures"] == ["overlap.png", "faces.jpg"]
    study = tmp_path / "studies" / "cube-overlap"
    with Image.open(study / "faces.jpg") as picture:
        picture.load()
    uncut, cell = found["cells"]
    assert (uncut["cell"]["tiles"], cell["cell"]["tiles"]) == (1, 2)
    assert uncut["figures"]["band_share"] == cell["figures"]["band_share"]
    figures = cell["figures"]
    assert 0 < figures["band_share"] < 1
    assert {"band_psnr", "rest_psnr"} <= set(figures)
    made = RunFolder.open(Path(cell["run"]))
    seen = list(views(made))
    assert [one.name for one in seen] == ["images/0.png", "images/3.png"]
    assert all(one.truth.shape == (18, 24, 3) for one in seen)

    assert poses.measured(made) == {}  # no view says that it was disturbed
    document = json.loads(made.cameras.read_text())
    for view in document["views"]:
        if not view["test"]:
            view["true_pose"] = view["pose"]
            pose = np.array(view["pose"])
            pose[:, 3] += (0.1, 0, 0)
            view["pose"] = pose.tolist()
    made.cameras.write_text(json.dumps(document))
    before = poses.measured(made)
    assert before["before_rotation"] == pytest.approx(0, abs=1e-6)
    shift = before["before_translation"]
    assert shift > 0.001
    assert before["before_translation_aligned"] == pytest.approx(0, abs=1e-9)
    # Learned: the way back, along the scene's x (the scene's axes are the capture's).
    learned = torch.zeros(6, 6)
    learned[:, 3] = -2 * shift  # the box is 2 long
    add_tensor(made, SHARED, "views.pose", learned)
    assert poses.measured(made)["after_translation"] == pytest.approx(0, abs=1e-6)
    add_tensor(made, SHARED, "views.pose", None)
    for tile, share in ((0, 1.0), (1, 0.5)):
        add_tensor(made, shard(tile), "shared.views.pose", share * learned)
    after = poses.measured(made)
    assert after["after_translation"] == pytest.approx(shift / 4, rel=1e-4)  # 0 and one half
    assert after["apart_translation"] == pytest.approx(shift / 2, rel=1e-4)


def add_tensor(made: RunFolder, file: str, name: str, value: torch.Tensor | None) -> None:
    """Put a tensor into a checkpoint's file, or take it out, as if it had been saved so."""
    folder = latest(made.checkpoints)
    tensors = {key: old for key, old in load_file(folder / file).items() if key != name}
    data = save(tensors | ({} if value is None else {name: value}))
    (folder / file).write_bytes(data)
    manifest = read_manifest(folder)
    manifest.files[file] = (hashlib.sha256(data).hexdigest(), len(data))
    (folder / MANIFEST).write_text(manifest.to_json())


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fits that take no time; the labels of those that were asked for. Failing: by their label."""
    asked: list[str] = []

    def fit(study: Path, entry: Entry, *_: Any) -> None:
        label = entry.cell.label
        asked.append(label)
        if "3-tiles" in label:
            raise UserError("step 3: the loss is not finite.")
        if "4-tiles" in label:
            raise RankFailedError("rank 1 of 2 was killed by SIGKILL", Path("rank-1.log"), 137)
        if "5-tiles" in label:
            raise KeyboardInterrupt
        run(study, entry.cell)

    monkeypatch.setattr(cells, "fit", fit)
    return asked


def test_cells_that_fail_are_passed_over_and_named(
    fitted: list[str], scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    words = ("study", "scaling", scene_file(), "--modes", "joint", "--output-dir", tmp_path)
    said = here(*words, "--tiles", "1,3,6", "--quiet")
    refused(said, "nerfxl: joint-3-tiles-seed-7: step 3: the loss is not finite.")
    assert fitted == [f"joint-{count}-seed-7" for count in ("1-tile", "3-tiles", "6-tiles")]
    text = (tmp_path / "studies" / "cube-scaling" / "report.md").read_text()
    assert "2 of 3 fits of 40 steps are complete" in text
    assert "* failed: step 3: the loss is not finite: `--set name=joint-3-tiles" in text
    # It is tried again when it is asked for again; a lost process is told by its exit code.
    lost = here(*words, "--tiles", "3,4")
    assert lost.code == 2
    assert here(*words, "--tiles", "4").code == 1
    assert fitted[3:] == [*("joint-3-tiles-seed-7", "joint-4-tiles-seed-7"), "joint-4-tiles-seed-7"]


def test_a_study_whose_first_cell_fails_ends_there_and_leaves_nothing(
    fitted: list[str], scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    words = ("study", "scaling", scene_file(), "--modes", "joint", "--tiles", "3,6")
    refused(here(*words, "--output-dir", tmp_path / "runs"), "step 3: the loss is not finite.")
    assert fitted == ["joint-3-tiles-seed-7"]
    assert not (tmp_path / "runs").exists()


def test_a_study_that_is_interrupted_between_steps_tells_what_is_there(
    fitted: list[str], scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    words = ("study", "scaling", scene_file(), "--modes", "joint", "--output-dir", tmp_path)
    assert here(*words, "--tiles", "2,5,6").code == 130
    assert len(fitted) == 2
    found = json.loads((tmp_path / "studies" / "cube-scaling" / "report.json").read_text())
    assert [one["state"] for one in found["cells"]] == ["complete", "to do", "to do"]
    # What was never begun is forgotten when it is no longer asked for.
    assert here(*words, "--tiles", "2").code == 0
    book = Book.load(tmp_path / "studies" / "cube-scaling")
    assert book is not None
    assert list(book.entries) == ["joint-2-tiles-seed-7", "joint-5-tiles-seed-7"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process to some cores")
def test_a_process_has_as_many_cores_in_every_fit(
    scene_file: WriteScene, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    had, seen = cores(), {}

    def fit(study: Path, entry: Entry, *_: Any) -> None:
        seen[entry.cell.ranks] = cores()
        run(study, entry.cell)

    monkeypatch.setattr(cells, "fit", fit)
    words = ("study", "scaling", scene_file(), "--modes", "joint", "--tiles", "1,2", "--nproc", "2")
    assert here(*words, "--output-dir", tmp_path).code == 0
    each = max(1, had // 2)
    assert seen == {1: each, 2: min(had, 2 * each)}
    assert cores() == had


BAD: list[tuple[tuple[object, ...], str]] = [
    (("--tiles", "1,x"), "--tiles '1,x': expected whole numbers from 1 to 4096 with commas"),
    (("--seeds", "-1"), "--seeds '-1': expected whole numbers from 0 to 4294967295"),
    (("--modes", "gather"), "--modes 'gather': study scaling compares joint, independent-3d, "),
    (("--set", "train.mode=ddp"), "--set train.mode=ddp: study scaling sets train.mode itself"),
    (("--set", "partition={tiles: 3}"), "study scaling sets partition itself, cell by cell"),
    (("--set", "field.levelz=3"), "--set field.levelz=3: unknown key; did you mean 'levels'?"),
    (("--steps", "0"), "--set train.steps=0"),
    (("--device", "tpu"), "device is 'tpu'"),
    (("--report",), "studies/cube-scaling holds no study: leave out --report to begin one."),
]


@pytest.mark.parametrize(("options", "sentence"), BAD, ids=[str(one[0][-1]) for one in BAD])
def test_what_is_unclear_is_refused_before_anything_is_fitted(
    options: tuple[object, ...],
    sentence: str,
    fitted: list[str],
    scene_file: WriteScene,
    tmp_path: Path,
    here: Here,
) -> None:
    said = here("study", "scaling", scene_file(), "--output-dir", tmp_path / "runs", *options)
    refused(said, sentence)
    assert not fitted
    assert not (tmp_path / "runs").exists()


def test_an_unknown_kind_is_refused(scene_file: WriteScene, here: Here) -> None:
    said = here("study", "speed", scene_file())
    assert said.code == 2
    assert "'scaling', 'exchange', 'overlap', 'ddp', 'cameras', 'appearance'" in said.err


def test_without_matplotlib_nothing_is_fitted(
    fitted: list[str],
    scene_file: WriteScene,
    tmp_path: Path,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        "nerfxl.study.plots.find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    said = here("study", "scaling", scene_file(), "--output-dir", tmp_path / "runs")
    refused(said, "matplotlib, which is not installed: pip install 'nerfxl[study]'.")
    assert not fitted
    assert not (tmp_path / "runs").exists()


def test_ranks_of_others_are_no_place_for_a_study(
    scene_file: WriteScene, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    for name, value in (("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os._exit", sys.exit)
    said = here("study", "scaling", scene_file())
    refused(said, "study starts its processes itself, and torchrun has started 2: start it by")


def test_one_study_at_a_time_and_a_damaged_book(
    fitted: list[str], scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    words = ("study", "scaling", scene_file(), "--modes", "joint", "--output-dir", tmp_path)
    folder = tmp_path / "studies" / "cube-scaling"
    folder.mkdir(parents=True)
    with RunFolder(folder).locked(print):
        refused(here(*words, "--tiles", "2"), f"{folder} is being trained by process ")
    assert here(*words, "--tiles", "2").code == 0
    (folder / "study.json").write_text("[]")
    refused(here(*words, "--tiles", "2"), "study.json is not the book of a study")
    assert len(fitted) == 1
    shutil.rmtree(folder)
    assert here(*words, "--tiles", "2", "--seeds", "1,2").code == 0
    report = (folder / "report.md").read_text()
    assert f"2 of 2 fits of {STEPS} steps are complete, seeds 1, 2." in report
