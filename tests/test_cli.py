"""The command line, as a user meets it: what it writes, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from nerfxl.pictures import load_depth
from nerfxl.prepare import read_back
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import RunFolder
from nerfxl.storage import checkpoint
from nerfxl.storage.checkpoint import Origin
from nerfxl.storage.saver import Saver
from tests.conftest import Here, Said

WriteScene = Callable[..., Path]
BRIGHTON = Path(__file__).parents[2] / "shared" / "data" / "odm_brighton"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def command(*arguments: object) -> list[str]:
    main = "import nerfxl.cli; nerfxl.cli.main()"
    return [sys.executable, "-c", main, *map(str, arguments)]


def nerfxl(*arguments: object, cwd: Path | None = None, seconds: float = 200) -> Said:
    """Run the program as a process of its own."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=cwd,
        timeout=seconds,
    )
    return Said(done.returncode, done.stdout, done.stderr)


class Fitted(NamedTuple):
    """Two runs of one scene, on one process and on two."""

    output: Path
    run: Path
    on_two: Path
    said: Said
    said_json: dict[str, Any]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> Fitted:
    root = tmp_path_factory.mktemp("fitted")
    shutil.copytree(capture, root / "photographs")
    scene = root / "cube.yaml"
    scene.write_text(json.dumps(tiny_scene()))
    said = nerfxl("fit", "cube.yaml", "--nproc", 1, "--device", "cpu", cwd=root)
    assert said.code == 0, said.err
    run = RunFolder.newest(root / "runs").path
    other = root / "other"
    on_two = nerfxl("fit", scene, "--nproc", 2, "--device", "cpu", "--json", "--output-dir", other)
    assert on_two.code == 0, on_two.err
    return Fitted(root / "runs", run, RunFolder.newest(other).path, said, json.loads(on_two.out))


def tiny_scene() -> dict[str, Any]:
    proposal = {"samples": 16, "levels": 2, "log2_table": 8, "max_resolution": 8, "warmup": 4}
    field = {"levels": 3, "log2_table": 9, "base_resolution": 4, "max_resolution": 24}
    widths = {"density_hidden": 8, "geometry_features": 7, "colour_hidden": 8, "colour_layers": 1}
    rays = {"rays": 64, "warmup_steps": 2, "checkpoint_every": 5, "log_every": 5}
    return {
        "capture": {"path": "photographs", "split": {"every": 3}},
        "field": {**field, **widths, "sh_degree": 2},
        "sampling": {"samples": 8, "proposal": proposal},
        "train": {"steps": 15, **rays},
    }


def scores(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run / "eval" / "step-000000015" / "metrics.json").read_text()
    )
    return found


def pictures(folder: Path) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.name] = np.asarray(image).astype(np.int64)
    return found


def test_fit_writes_all_that_a_run_is_made_of(fitted: Fitted) -> None:
    run = fitted.run
    files = ("scene.yaml", "plan.json", "scene_transform.json", "cameras.json", "metrics.jsonl")
    assert all((run / name).stat().st_size for name in files)
    status = RunFolder.open(run).status()
    assert (status.state, status.step, status.steps) == ("completed", 15, 15)
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["latest", "step-000000010", "step-000000015"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15]
    assert {"loss", "psnr", "learning_rate", "rays_per_second", "steps_per_second"} <= set(lines[0])
    assert not list(run.rglob("*.tmp"))


def test_fit_scores_the_held_out_views(fitted: Fitted) -> None:
    found = scores(fitted.run)
    assert found["images"] == 2
    assert [one["name"] for one in found["per_image"]] == ["images/0.png", "images/3.png"]
    mean = sum(one["psnr"] for one in found["per_image"]) / 2
    assert found["psnr"] == pytest.approx(mean)
    assert 5 < found["psnr"] < 40
    assert -1 <= found["ssim"] <= 1
    assert found["lpips"] is None
    assert found["lpips_reason"]
    assert found["train_seconds"] > 0
    assert (found["step"], found["tiles"], found["world_size"]) == (15, 4, 1)
    assert found["parameters"] > 4 * 3 * 512 * 2
    assert len(found["peak_memory_per_rank"]) == 1
    assert found["peak_memory_per_rank"][0] > 10 * 2**20
    assert found["capture"] == str(fitted.output.parent / "photographs")
    assert found["device"] == "cpu"
    folder = fitted.run / "eval" / "step-000000015"
    shapes = {name: picture.shape for name, picture in pictures(folder).items()}
    assert shapes.pop("sheet.png")[2] == 3
    assert shapes == {"images_0.png": (18, 24, 3), "images_3.png": (18, 24, 3)}
    for name in shapes:
        depth = load_depth(folder / "depth" / name)
        assert depth.shape == (18, 24)
        assert np.nanmin(depth) > 0.01  # nothing is nearer than the rays begin


def test_fit_says_what_it_does(fitted: Fitted) -> None:
    said = fitted.said
    assert said.err == ""
    heads = [line.split()[0] for line in said.out.splitlines() if line[:1].isalpha()]
    assert list(dict.fromkeys(heads)) == [
        *("capture", "bounds", "tiles", "device", "run", "starting"),
        *("step", "scoring", "scores", "memory", "pictures", "report"),
    ]
    assert "transforms, 6 views of 24 x 18, 2 of them held out, 98 points" in said.out
    assert "step 15 of 15  loss " in said.out


def test_the_number_of_processes_changes_nothing(fitted: Fitted) -> None:
    """Float32: sums over rays run in another order, so that 15 steps part by rounding alone."""
    assert fitted.said_json["world_size"] == 2
    assert len(fitted.said_json["peak_memory_per_rank"]) == 2
    one, two = scores(fitted.run), scores(fitted.on_two)
    assert two["psnr"] == pytest.approx(one["psnr"], abs=1e-3)
    assert two["ssim"] == pytest.approx(one["ssim"], abs=1e-4)
    for first, second in zip(one["per_image"], two["per_image"], strict=True):
        assert second == pytest.approx(first, abs=1e-3)
    curves = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (fitted.run, fitted.on_two)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_json_is_all_that_is_printed(fitted: Fitted) -> None:
    found = fitted.said_json  # it was parsed, with two processes
    assert {key: found[key] for key in scores(fitted.on_two)} == scores(fitted.on_two)
    assert found["run"] == str(fitted.on_two)


def test_a_resolved_scene_repeats_its_run(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    again = here("fit", fitted.run / "scene.yaml", "--output-dir", tmp_path, "--nproc", 1, "--json")
    assert again.code == 0, again.err
    found = json.loads(again.out)
    repeated = Path(found["run"])
    for name in ("scene.yaml", "plan.json", "scene_transform.json", "cameras.json"):
        assert (repeated / name).read_bytes() == (fitted.run / name).read_bytes()
    assert repeated.parent.name == "cube"
    assert found["psnr"] == pytest.approx(scores(fitted.run)["psnr"], abs=1e-6)


def test_quiet_prints_nothing(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    scene, nproc = fitted.run / "scene.yaml", ("--nproc", 1)
    said = here("fit", scene, "--output-dir", tmp_path, "--steps", 2, *nproc, "--quiet")
    assert said == (0, "", "")
    assert here("eval", "--output-dir", tmp_path, *nproc, "--quiet") == (0, "", "")
    assert here("render", "--output-dir", tmp_path, *nproc, "--quiet") == (0, "", "")


def test_eval_scores_the_newest_run_again(fitted: Fitted, here: Here) -> None:
    before = scores(fitted.run)
    said = here("eval", "--output-dir", fitted.output, "--nproc", 1, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["run"] == str(fitted.run)
    assert found["psnr"] == pytest.approx(before["psnr"], abs=1e-6)
    assert found["train_seconds"] == pytest.approx(before["train_seconds"], abs=0.5)


def test_render_on_any_number_of_processes_gives_the_same_pictures(
    fitted: Fitted, here: Here
) -> None:
    assert here("render", "--output-dir", fitted.output, "--nproc", 1).code == 0
    alone = pictures(fitted.run / "renders" / "test")
    said = nerfxl("render", fitted.run, "--nproc", 3, "--quiet")
    assert said == (0, "", "")
    together = pictures(fitted.run / "renders" / "test")
    assert sorted(alone) == [
        *("images_0.depth.png", "images_0.png", "images_3.depth.png", "images_3.png")
    ]
    assert alone.keys() == together.keys()
    for name, picture in alone.items():
        worst = 1 if "depth" not in name else 4  # the depth ramp's own steps
        assert np.abs(together[name] - picture).max() <= worst, name
    scored = pictures(fitted.run / "eval" / "step-000000015")
    assert np.abs(scored["images_0.png"] - alone["images_0.png"]).max() <= 1


@pytest.mark.parametrize(
    ("options", "folder", "count"),
    [
        (("--split", "train"), "train", 4),
        (("--split", "all"), "all", 6),
        (("--path", "orbit", "--frames", "3"), "orbit", 3),
    ],
)
def test_render_needs_no_photographs(
    options: tuple[str, ...], folder: str, count: int, fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(fitted.output, runs)
    run = RunFolder.newest(runs).path
    document = (run / "scene.yaml").read_text().replace("photographs", "photographs_that_are_gone")
    (run / "scene.yaml").write_text(document)
    said = here("render", "--output-dir", runs, "--nproc", 1, *options)
    assert said.code == 0, said.err
    assert str(run / "renders" / folder) in said.out
    found = pictures(run / "renders" / folder)
    assert len(found) == 2 * count
    assert {picture.shape for picture in found.values()} == {(18, 24, 3)}


def test_scoring_without_the_photographs_says_where_they_were(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    shutil.copytree(fitted.run, tmp_path / "run")
    scene = tmp_path / "run" / "scene.yaml"
    scene.write_text(scene.read_text().replace("photographs", "photographs_that_are_gone"))
    said = here("eval", tmp_path / "run", "--nproc", 1)
    refused(said, "photographs_that_are_gone (no such folder)")


def test_plan_writes_and_prints(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    scene = fitted.output.parent / "cube.yaml"
    said = here("plan", scene, "--output-dir", tmp_path, "--json", "--set", "partition.tiles=3")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert len(found["tiles"]) == 3
    assert found["memory_per_rank"]["total"] > 0
    assert Path(found["plan"]).is_file()
    with Image.open(found["picture"]) as picture:
        picture.load()
    loud = here("plan", scene, "--output-dir", tmp_path)
    assert loud.code == 0
    assert "written " in loud.out


def refused(said: Said, *words: str) -> None:
    """One sentence on stderr, and exit code 2."""
    assert said.code == 2, said
    assert said.err.startswith("nerfxl: ")
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err


def test_what_is_wrong_is_said_in_a_sentence(
    fitted: Fitted, here: Here, scene_file: WriteScene, tmp_path: Path
) -> None:
    scene = fitted.output.parent / "cube.yaml"
    out = ("--output-dir", tmp_path / "runs")
    bad = scene_file("bad", train={"steps": "many"})
    refused(here("fit", bad, *out), str(bad), "train.steps")
    refused(here("fit", tmp_path / "nowhere.yaml", *out), "nowhere.yaml")
    lost = scene_file("lost", folder=tmp_path / "no_capture")
    refused(here("fit", lost, *out), "no_capture (no such folder)")
    refused(here("plan", lost, *out), "no_capture (no such folder)")
    refused(here("fit", scene, *out, "--nproc", 5), "--nproc 5: the scene has 4 tiles")
    refused(here("fit", scene, *out, "--set", "train.stepz=3"), "train.stepz")
    refused(here("fit", scene, *out, "--device", "tpu"), "device is 'tpu'")
    refused(here("render", *out), "holds no run")
    refused(here("eval", tmp_path), "is not a run folder")
    refused(here("render", fitted.run, "--nproc", 9), "--nproc 9: the scene has 4 tiles")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["field.levels", "seed", "train", "capture.path"])
def test_another_scene_is_no_continuation(fitted: Fitted, here: Here, key: str) -> None:
    before = (fitted.run / "scene.yaml").read_bytes()
    said = here("resume", fitted.run, "--set", f"{key}=2", "--nproc", 1)
    refused(
        said,
        f"--set {key}=2: {key} cannot change while {fitted.run} goes on, only train.steps, "
        "train.learning_rate, train.checkpoint_every, train.log_every, train.eval_every, exchange "
        f"may; start a new run by 'nerfxl fit {fitted.run / 'scene.yaml'}'.",
    )
    assert (fitted.run / "scene.yaml").read_bytes() == before
    assert RunFolder.open(fitted.run).status().state == "completed"


def test_resume_needs_a_run_with_a_checkpoint(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    refused(here("resume", fitted.output / "never", "--nproc", 1), "is not a run folder")
    refused(here("resume", "--output-dir", tmp_path), "holds no run: start one with 'nerfxl fit'")
    refused(here("resume", fitted.run, "--nproc", 9), "--nproc 9: the scene has 4 tiles")
    shutil.copytree(fitted.run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    said = here("resume", tmp_path / "run", "--nproc", 1)
    refused(said, "holds no whole checkpoint: start anew by 'nerfxl fit")
    assert RunFolder.open(tmp_path / "run").status().state == "completed"


@pytest.fixture
def damaged(fitted: Fitted, tmp_path: Path) -> RunFolder:
    """A run whose newest checkpoint has a flipped bit, in a shard that rank 1 of 2 reads."""
    shutil.copytree(fitted.on_two, tmp_path / "cube" / "run")
    run = RunFolder.open(tmp_path / "cube" / "run")
    shard = run.checkpoints / "step-000000015" / "tile-0001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return run


def test_scores_and_pictures_are_of_the_newest_whole_checkpoint(
    damaged: RunFolder, here: Here
) -> None:
    shard = damaged.checkpoints / "step-000000015" / "tile-0001.safetensors"
    note = f"nerfxl: {shard} is damaged: its sha256 is not the manifest's. "
    note += "Trying the checkpoint before it.\n"
    said = nerfxl("eval", damaged.path, "--nproc", 2, "--json")
    assert (said.code, said.err) == (0, note)
    assert json.loads(said.out)["step"] == 10
    assert here("render", damaged.path, "--nproc", 1, "--quiet") == (0, "", note)


def test_a_checkpoint_of_another_run_is_stepped_over_by_name(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    """Of the same scene and plan, even: it is whole, and would load."""
    shutil.copytree(fitted.run, tmp_path / "run")
    foreign = tmp_path / "run" / "checkpoints" / "step-000000020"
    shutil.copytree(fitted.on_two / "checkpoints" / "step-000000015", foreign)
    (foreign.parent / "latest").write_text("step-000000020\n")
    said = here("eval", tmp_path / "run", "--nproc", 1, "--json")
    started = RunFolder.open(fitted.on_two).status().started
    assert said.err == (
        f"nerfxl: {foreign} comes from another run, of scene 'cube', started {started}. "
        "Trying the checkpoint before it.\n"
    )
    assert json.loads(said.out)["step"] == 15
    refused(here("inspect", tmp_path / "run"), f"{foreign} comes from another run", "step 15 is")


def test_inspect_tells_what_is_whole(fitted: Fitted, here: Here) -> None:
    said = here("inspect", "--output-dir", fitted.output, "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert (found["status"]["state"], found["scene"], found["tiles"]) == ("completed", "cube", 4)
    assert found["fault"] == ""
    newest, older = found["checkpoints"]
    assert (newest["step"], older["step"], newest["ranks"]) == (15, 10, 1)
    assert newest["bytes"] > 4 * 3 * 512 * 2 * 4
    assert 0 < newest["age"] < 600
    assert sorted(newest["tensors"]) == [
        "shared.safetensors",
        *(f"tile-000{tile}.safetensors" for tile in range(4)),
    ]
    assert all(newest["tensors"].values())
    shown = here("inspect", fitted.run)
    assert shown.code == 0
    assert "state      completed" in shown.out
    assert shown.out.count("whole") == 2


def test_inspect_names_what_is_damaged(damaged: RunFolder, here: Here) -> None:
    fault = f"{damaged.checkpoints / 'step-000000015' / 'tile-0001.safetensors'} is damaged: "
    fault += "its sha256 is not the manifest's"
    said = here("inspect", "--output-dir", damaged.path.parent.parent)
    refused(said, f"{fault}; step 10 is whole, and taken in its place.")
    assert f"damaged    {fault}." in said.out
    as_json = here("inspect", damaged.path, "--json")
    refused(as_json, fault)
    first, second = json.loads(as_json.out)["checkpoints"]
    assert (first["faults"], second["faults"]) == ([f"{fault}."], [])
    assert len(first["tensors"]) == 4
    for folder in damaged.checkpoints.glob("step-*"):
        (folder / "manifest.json").unlink()
    refused(here("inspect", damaged.path), "holds no whole checkpoint: start anew by")
    shutil.rmtree(damaged.checkpoints)
    refused(here("inspect", damaged.path), "holds no whole checkpoint: start anew by")


def test_a_rank_that_finds_a_bad_tile_names_it_to_all(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    """Tile 2 belongs to the second of two processes; its table is spoilt in the checkpoint."""
    shutil.copytree(fitted.on_two, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    scene = read_back(run)
    origin = Origin.of(run, scene.spec.name, scene.plan)
    found = checkpoint.load(run.checkpoints, origin, range(4), Ranks())
    found.tiles[2]["table"].fill_(float("nan"))
    saver = Saver(run.checkpoints, origin, Ranks())
    saver.start(15, found.tiles, found.shared, found.meta)
    saver.finish()
    said = here("resume", run.path, "--set", "train.steps=20", "--nproc", 2, "--quiet")
    refused(said, "step 16: tile 2 holds numbers that are not finite")
    status = run.status()
    assert status.state == "failed"
    assert "step 16: tile 2 holds numbers that are not finite" in status.reason
    assert checkpoint.latest(run.checkpoints).name == "step-000000015"


def test_an_unknown_option_is_refused(here: Here) -> None:
    said = here("fit", "--faster")
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize("nproc", [pytest.param(1, marks=pytest.mark.long), 2])
def test_ctrl_c_keeps_what_was_learned(
    nproc: int, scene_file: WriteScene, tmp_path: Path, here: Here
) -> None:
    train = {"steps": 1_000_000, "log_every": 1, "checkpoint_every": 0}
    scene = scene_file(train=train)
    out = tmp_path / "runs"
    process = subprocess.Popen(
        command("fit", scene, "--output-dir", out, "--nproc", nproc, "--device", "cpu"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: any(path.stat().st_size for path in out.glob("*/*/metrics.jsonl")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    run = RunFolder.newest(out)
    status = run.status()
    assert (status.state, status.reason) == ("interrupted", "stopped by Ctrl-C")
    assert status.step >= 1
    assert (run.checkpoints / f"step-{status.step:09d}" / "manifest.json").is_file()

    goal = status.step + 3
    more = ("--set", f"train.steps={goal}")
    again = here("resume", "--output-dir", out, *more, "--nproc", 1, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["step"] == goal
    assert run.status().state == "completed"


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_version_is_printed(here: Here) -> None:
    from nerfxl import __version__

    assert here("--version") == (0, f"{__version__}\n", "")


@pytest.mark.long
@pytest.mark.skipif(not BRIGHTON.is_dir(), reason="the capture odm_brighton is not there")
def test_a_real_flight_is_better_than_its_mean_colour(tmp_path: Path) -> None:
    document = {
        "capture": {"path": str(BRIGHTON), "downscale": 4},
        "field": {"levels": 8, "log2_table": 14, "max_resolution": 256},
        "sampling": {"samples": 16, "proposal": {"samples": 48, "log2_table": 12}},
        "train": {"steps": 60, "rays": 2048, "warmup_steps": 10},
    }
    scene = tmp_path / "brighton.yaml"
    scene.write_text(json.dumps(document))
    said = nerfxl("fit", scene, "--nproc", 2, "--json", cwd=tmp_path, seconds=280)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    names = [one["name"] for one in found["per_image"]]
    photographs = {
        path.name: np.asarray(Image.open(path).reduce(4), np.float64) / 255
        for path in sorted((BRIGHTON / "images").iterdir())
    }
    fitted = [image for name, image in photographs.items() if not any(name in one for one in names)]
    mean = np.mean([image.mean((0, 1)) for image in fitted], axis=0)
    flat = [
        -10 * np.log10(np.square(image - mean).mean())
        for name, image in photographs.items()
        if any(name in one for one in names)
    ]
    assert len(flat) == found["images"] == 3
    assert found["psnr"] > np.mean(flat) + 1
