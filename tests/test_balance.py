"""A run's samples make a plan that shares them out evenly, and a scene takes it by its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nerfxl.balance import balanced
from nerfxl.cost import count, imbalance
from nerfxl.ensemble import assemble
from nerfxl.exchange import deal
from nerfxl.model import Model
from nerfxl.partition import Plan
from nerfxl.pixels import jitter
from nerfxl.prepare import Prepared, prepare, read_back, some_rays, write
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Batch
from nerfxl.render import FAR, SPACING
from nerfxl.runs import RunFolder
from nerfxl.scene.file import load_scene
from nerfxl.storage.checkpoint import Origin
from nerfxl.storage.saver import Saver
from tests.conftest import Here, Said

WriteScene = Callable[..., Path]
CPU = torch.device("cpu")


def made_ready(scene: Path, *overrides: str) -> Prepared:
    return prepare(load_scene(scene, device="cpu", overrides=overrides))


def with_checkpoint(prepared: Prepared, folder: Path) -> RunFolder:
    """A run at step 1 that has learned nothing: its samples lie where the tiles begin with."""
    run = RunFolder.create(folder, prepared.scene.spec.name)
    write(prepared, run)
    run.update(step=1, steps=1, state="completed")
    scene = read_back(run)
    (member,) = assemble(scene, Ranks()).members
    tiles = {tile.index: tile.state_dict() for tile in member.model.tiles}
    shared = member.model.shared.state_dict()
    saver = Saver(run.checkpoints, Origin.of(run, scene.spec.name, scene.plan), Ranks())
    saver.start(1, tiles, shared, {"train_seconds": 0.0})
    saver.finish()
    return run


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_samples_lie_in_the_tiles_that_draw_them(method: str, scene_file: WriteScene) -> None:
    made = made_ready(scene_file(partition={"tiles": 5}, sampling={"method": method}))
    spec, near = made.scene.spec, 0.02
    model = Model(spec, made.plan, near, Ranks())
    rays = some_rays(made.capture, made.world, 400, seed=3)
    shift = jitter(3, 1, len(rays), CPU)
    # So much padding spreads samples evenly, whatever the proposals say.
    points, tiles = model.renderer.sample_points(Batch.of(rays, shift), 1e6)
    assert (made.plan.tile_of(points) == tiles).double().mean() > 0.999  # faces round
    # They are as many, tile by tile, as the model of costs counts before anything is trained: a
    # lattice of so many bins where all cells count as occupied is as even.
    bins = spec.sampling.samples if method == "proposal" else spec.sampling.occupancy.samples
    load = count(made.plan, rays, near, FAR, SPACING, bins)
    found = tiles.bincount(minlength=5).double()
    assert float(found.sum()) == pytest.approx(float(load.samples.sum()), rel=0.01, abs=len(rays))
    torch.testing.assert_close(
        found / found.sum(), load.samples / load.samples.sum(), rtol=0.1, atol=0
    )


def test_the_new_plan_is_more_even_on_the_same_samples(
    scene_file: WriteScene, tmp_path: Path
) -> None:
    made = made_ready(scene_file(partition={"tiles": 8}))
    run = with_checkpoint(made, tmp_path)
    new, sampled, balance = balanced(made, run, 2000, CPU)
    assert list(balance.before) == list(balance.after) == [2, 4, 8]
    for ranks in (2, 4, 8):
        shares = deal(8, ranks)
        assert balance.before[ranks] == imbalance(sampled.by_tile(made.plan), shares)
        assert balance.after[ranks] == imbalance(sampled.by_tile(new), shares)
    # The points lie on a small cube, the samples all along the rays.
    assert balance.before[8] > 1.3
    assert balance.after[8] < 1 + (balance.before[8] - 1) / 3
    assert (new.root, new.open) == (made.plan.root, made.plan.open)
    again, _, _ = balanced(made, run, 2000, CPU)
    assert again == new  # drawn from the seed


def test_a_run_of_other_tiles_balances_too(scene_file: WriteScene, tmp_path: Path) -> None:
    run = with_checkpoint(made_ready(scene_file(partition={"tiles": 2})), tmp_path)
    made = made_ready(scene_file(partition={"tiles": 6}))
    new, _, balance = balanced(made, run, 500, CPU)
    assert len(new) == 6
    assert (list(balance.before), list(balance.after)) == ([2], [2, 4, 6])


def test_a_balanced_plan_is_fitted_and_resumed(
    here: Here, scene_file: WriteScene, tmp_path: Path
) -> None:
    scene = scene_file()
    made = made_ready(scene)
    run = with_checkpoint(made, tmp_path / "first")
    out = ("--output-dir", tmp_path / "plans")
    said = here("plan", scene, *out, "--balance", run.path, "--ranks", 8, "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    assert set(found["balance"]["before"]) == {"2", "4"}
    assert found["forecast"]["tiles"] == 8  # a rank needs a tile; what is written has 4
    file = Path(found["plan"])
    new = Plan.load(file)
    assert len(new) == 4
    assert new != made.plan
    loud = here("plan", scene, *out, "--balance", run.path, "--ranks", 8)
    assert "--set partition.plan=plans/cube/plan.json" in loud.out
    assert "8 need as many tiles: these figures are of --set partition.tiles=8" in loud.out

    runs = ("--output-dir", tmp_path / "runs", "--nproc", 1)
    taken = ("--set", "partition.plan=plans/cube/plan.json")
    done = here("fit", scene, *runs, *taken, "--steps", 2)
    assert done.code == 0, done.err
    fitted = RunFolder.newest(tmp_path / "runs")
    assert Plan.load(fitted.plan) == new
    # The run keeps the plan for itself: it goes on when the file it came from is another one.
    file.write_text(made.plan.to_json())
    done = here("resume", fitted.path, "--set", "train.steps=3")
    assert done.code == 0, done.err
    assert fitted.status().step == 3
    assert made_ready(fitted.scene).plan == new


def refused(said: Said, *words: str) -> None:
    """One sentence on stderr, and exit code 2."""
    assert said.code == 2, said
    assert said.err.startswith("nerfxl: ")
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err


def test_a_plan_that_does_not_fit_the_scene_is_refused(
    here: Here, scene_file: WriteScene, tmp_path: Path
) -> None:
    scene = scene_file()
    out = ("--output-dir", tmp_path / "plans")
    assert here("plan", scene, *out).code == 0
    file = tmp_path / "plans" / "cube" / "plan.json"

    def fit(plan: object, *more: object) -> Said:
        return here(
            "fit", scene, "--output-dir", tmp_path / "r", *more, "--set", f"partition.plan={plan}"
        )

    refused(fit(file, "--set", "partition.tiles=3"), f"{scene}: partition.plan: {file} has 4 tiles")
    refused(fit(file, "--set", "bounds.outside=empty"), "reaches to infinity", "contract")
    # A box in the same proportions is another box.
    refused(fit(file, "--set", "bounds.box=[[-9,-9,-9],[9,9,9]]"), "cut for another box")
    refused(fit(file, "--set", "bounds.margin=0.3"), "cut for another box")
    refused(fit("nowhere.json"), "nowhere.json cannot be read as a plan")
    refused(fit("${NERFXL_NO_SUCH}/plan.json"), "NERFXL_NO_SUCH is not set")
    refused(fit("'a\\b.json'"), "contains a backslash")
    refused(fit("~/plan.json"), "~ is not expanded")
    refused(fit(3), "partition.plan", "'auto' or a path")
    (tmp_path / "plan.json").write_text(file.read_text()[:100])
    refused(fit("plan.json"), "is not a plan that this nerfxl can read")
    (tmp_path / "plan.json").write_text(file.read_text())
    refused(fit("plan.json"), "scene_transform.json")
    assert not (tmp_path / "r").exists()  # nothing was started


def test_what_cannot_be_planned_for_is_refused(
    here: Here, scene_file: WriteScene, tmp_path: Path
) -> None:
    scene = scene_file()
    made = made_ready(scene)

    def plan(*more: object) -> Said:
        return here("plan", scene, "--output-dir", tmp_path / "plans", *more)

    refused(plan("--balance", tmp_path), "is not a run folder")
    unfitted = RunFolder.create(tmp_path / "runs", "cube")
    write(made, unfitted)
    unfitted.update(steps=1, state="failed")
    refused(plan("--balance", unfitted.path), "holds no whole checkpoint")
    other = made_ready(scene, "bounds.margin=0.3")
    write(other, unfitted)
    refused(plan("--balance", unfitted.path), "the run's box is not that of", "name a run of this")
    refused(plan("--fabric", "nvlink"), "--fabric describes ranks", "--ranks")
    refused(plan("--ranks", 4, "--step-seconds", "0.00001"), "--step-seconds 1e-05 is too short")
    assert not (tmp_path / "plans").exists()
    # Other machines' GPUs need not be here.
    said = plan("--ranks", 4, "--fabric", "nvlink", "--exchange", "owner", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)["forecast"]
    assert found["machine"]["name"] == "cuda"
    assert [cost["ranks"] for cost in found["costs"]] == [1, 2, 4]
