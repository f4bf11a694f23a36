"""Training: it learns, it goes on where it stopped, and it stops where something is wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nerfxl import commands, learner, losses
from nerfxl.crew import Launching
from nerfxl.errors import UserError
from nerfxl.field import Tile
from nerfxl.learner import Learner, first_rays, learns_proposal, next_rays, padding
from nerfxl.model import Model
from nerfxl.progress import Speaker
from nerfxl.render import Cast
from nerfxl.runs import RunFolder, Status, write_atomic
from nerfxl.scene.spec import SceneSpec
from nerfxl.storage import saver
from nerfxl.storage.checkpoint import latest
from nerfxl.tally import Seen

WriteScene = Callable[..., Path]
OCCUPANCY = {"method": "occupancy"}

pytestmark = pytest.mark.usefixtures("one_core")


def fit(scene: Path, output: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    speaker = Speaker(quiet=True)
    return commands.fit(scene, output, "cpu", overrides, False, speaker, Launching(1))


def resume(run: Path, overrides: Sequence[str] = (), nproc: int = 1) -> dict[str, Any]:
    speaker = Speaker(quiet=True)
    return commands.resume(run, Path("nowhere"), "cpu", overrides, speaker, Launching(nproc))


def stored(run: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint: parameters, moments, grids."""
    return {
        f"{file.name}/{name}": tensor.clone()  # of the file, not a view of it
        for file in sorted(latest(run / "checkpoints").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same_tensors(expected: Path, found: Path) -> None:
    """Two runs have stored the same, bit for bit."""
    one, other = stored(expected), stored(found)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor), name


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Model], None]) -> None:
    """Do something when the rays of a step are seen."""
    see = Learner.see

    def seen(self: Learner, now: int) -> tuple[Seen, Cast]:
        if now == step:
            act(self.model)
        return see(self, now)

    monkeypatch.setattr(Learner, "see", seen)


@pytest.mark.parametrize("sampling", [{}, OCCUPANCY], ids=["proposal", "occupancy"])
def test_the_loss_falls(scene_file: WriteScene, tmp_path: Path, sampling: dict[str, Any]) -> None:
    steps = {"steps": 100, "rays": 256, "learning_rate": 0.03}
    steps |= {"log_every": 10, "checkpoint_every": 0}
    budget = {"budget": 8192}
    scene = scene_file(sampling=sampling | budget, train=steps)
    summary = fit(scene, tmp_path / "runs")
    curve = [line["loss"] for line in lines(Path(summary["run"]))]
    assert len(curve) == 10
    assert curve[-1] < 0.5 * curve[0]
    # Grey everywhere is worth 14 dB here.
    assert summary["psnr"] > 15


@pytest.mark.parametrize("sampling", [{}, OCCUPANCY], ids=["proposal", "occupancy"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    scene_file: WriteScene,
    tmp_path: Path,
    sampling: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Step 7 is no multiple of anything: a checkpoint is written because the run was stopped.
    scene = scene_file(sampling=sampling)
    whole = Path(fit(scene, tmp_path / "whole")["run"])
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit) as caught:
            fit(scene, tmp_path / "parts")
    assert caught.value.code == 130
    run = RunFolder.newest(tmp_path / "parts")
    status = run.status()
    assert (status.state, status.step, status.steps) == ("interrupted", 7, 10)
    assert latest(run.checkpoints).name == "step-000000007"

    resume(run.path)
    assert run.status().state == "completed"
    same_tensors(whole, run.path)
    assert [line["step"] for line in lines(run.path)] == [5, 10]
    assert lines(whole)[0]["loss"] == lines(run.path)[0]["loss"]


@pytest.mark.long
@pytest.mark.parametrize("exchange", ["gather", "owner"])
def test_four_processes_then_two_then_one_are_one_all_along(
    scene_file: WriteScene, tmp_path: Path, exchange: str
) -> None:
    """Every bit of every tensor, moments too, and every score."""
    scene = scene_file(train={"schedule": {"milestones": []}}, exchange=exchange)
    alone = fit(scene, tmp_path / "alone")
    speaker, out = Speaker(quiet=True), tmp_path / "runs"
    first = commands.fit(scene, out, "cpu", ["train.steps=3"], False, speaker, Launching(4))
    run = Path(first["run"])
    resume(run, nproc=2, overrides=["train.steps=7"])
    last = resume(run, nproc=1, overrides=["train.steps=10"])
    same_tensors(Path(alone["run"]), run)
    assert last["per_image"] == alone["per_image"]


def test_a_completed_run_takes_more_steps(scene_file: WriteScene, tmp_path: Path) -> None:
    """Without milestones, the rate does not depend on where the run ends."""
    scene = scene_file(train={"schedule": {"milestones": []}})
    whole = Path(fit(scene, tmp_path / "whole")["run"])
    first = fit(scene, tmp_path / "parts", overrides=["train.steps=5"])
    run = Path(first["run"])
    scene.unlink()  # the run's own folder says all that is needed
    second = resume(run, overrides=["train.steps=10"])
    assert second["run"] == first["run"]
    assert (first["step"], second["step"]) == (5, 10)
    assert second["train_seconds"] > first["train_seconds"]
    same_tensors(whole, run)
    assert sorted(path.name for path in (run / "eval").iterdir()) == [
        "step-000000005",
        "step-000000010",
    ]
    with pytest.raises(UserError) as caught:
        resume(run, overrides=["train.steps=9"])
    assert str(caught.value) == (
        f"{run} has done 10 steps, and train.steps is 9: ask for more, by --set train.steps=20."
    )
    assert RunFolder.open(run).status().steps == 10


def test_a_run_goes_on_at_a_lower_rate(scene_file: WriteScene, tmp_path: Path) -> None:
    """As the error of a tile that is not finite advises."""
    scene = scene_file(train={"schedule": {"milestones": []}})
    run = Path(fit(scene, tmp_path / "runs", overrides=["train.steps=5"])["run"])
    resume(run, overrides=["train.learning_rate=0.001", "train.steps=10", "train.log_every=1"])
    rates = [line["learning_rate"] for line in lines(run)]
    assert rates == [0.01] + 5 * [0.001]


def test_resuming_a_completed_run_scores_it_again(scene_file: WriteScene, tmp_path: Path) -> None:
    scene = scene_file()
    first = fit(scene, tmp_path / "runs")
    before = stored(Path(first["run"]))
    again = resume(Path(first["run"]))
    assert again["per_image"] == first["per_image"]
    assert all(torch.equal(before[n], t) for n, t in stored(Path(first["run"])).items())
    assert RunFolder.open(Path(first["run"])).status().state == "completed"


def test_what_a_damaged_checkpoint_lost_is_learned_again(
    scene_file: WriteScene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step 10 is damaged: the run goes back to 5, and comes to the same numbers."""
    run = Path(fit(scene_file(), tmp_path / "runs")["run"])
    before = stored(run)
    shard = latest(run / "checkpoints") / "tile-0003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    told: list[Status] = []
    at_step(monkeypatch, 6, lambda _: told.append(RunFolder.open(run).status()))
    assert resume(run)["step"] == 10
    assert (told[0].state, told[0].step) == ("running", 5)
    assert told[0].reason == f"{shard} is damaged: its sha256 is not the manifest's."
    after = stored(run)
    assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor)] == []
    assert f"{shard} is damaged" in capsys.readouterr().err
    assert [line["step"] for line in lines(run)] == [5, 10, 10]


def test_old_checkpoints_are_cleared_away(scene_file: WriteScene, tmp_path: Path) -> None:
    scene = scene_file(train={"checkpoint_every": 2})
    run = Path(fit(scene, tmp_path / "runs")["run"])
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-000000008", "step-000000010"]


def test_held_out_views_are_scored_along_the_way(scene_file: WriteScene, tmp_path: Path) -> None:
    run = Path(fit(scene_file(train={"eval_every": 4}), tmp_path / "runs")["run"])
    scored = sorted(path.name for path in (run / "eval").iterdir())
    assert scored == ["step-000000004", "step-000000008", "step-000000010"]
    times = [
        json.loads((run / "eval" / name / "metrics.json").read_text())["train_seconds"]
        for name in scored
    ]
    assert times == sorted(times)


def spoil(model: Model) -> None:
    with torch.no_grad():
        model.tiles[1].table.fill_(torch.nan)


@pytest.mark.parametrize("sampling", [{}, OCCUPANCY], ids=["proposal", "occupancy"])
def test_a_tile_that_is_not_finite_is_named_and_the_checkpoint_kept(
    scene_file: WriteScene,
    tmp_path: Path,
    sampling: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slowly(path: Path, content: Any) -> None:  # step 5 is being written when 6 goes wrong
        time.sleep(0.2 * (path.suffix == ".safetensors"))
        write_atomic(path, content)

    monkeypatch.setattr(saver, "write_atomic", slowly)
    at_step(monkeypatch, 6, spoil)
    with pytest.raises(UserError) as caught:
        fit(scene_file(sampling=sampling), tmp_path / "runs")
    assert str(caught.value) == (
        "step 6: tile 1 holds numbers that are not finite. The last checkpoint is kept; go on from "
        "it with a lower train.learning_rate, and look at the images that this tile sees."
    )
    run = RunFolder.newest(tmp_path / "runs")
    status = run.status()
    assert (status.state, status.reason) == ("failed", str(caught.value))
    assert latest(run.checkpoints).name == "step-000000005"
    assert all(tensor.isfinite().all() for tensor in stored(run.path).values())


def test_a_gradient_that_is_not_finite_is_laid_at_its_tiles_door(
    scene_file: WriteScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are fine here, and what comes back to tile 2 is not."""
    ask = Tile.forward

    def forward(self: Tile, points: Tensor) -> tuple[Tensor, Tensor]:
        density, geometry = ask(self, points)
        if self.index == 2 and density.requires_grad:
            density.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]
        return density, geometry

    monkeypatch.setattr(Tile, "forward", forward)
    with pytest.raises(UserError, match=r"^step 1: the gradient of tile 2 is not finite\. "):
        fit(scene_file(), tmp_path / "runs")


def test_a_loss_that_is_not_finite_is_no_tiles_fault(
    scene_file: WriteScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = losses.loss

    def spoiled(*args: Any) -> tuple[Tensor, Tensor]:
        total, error = measure(*args)
        return total * torch.nan, error

    monkeypatch.setattr(learner, "loss", spoiled)
    with pytest.raises(UserError, match=r"^step 1: the loss is not finite\. "):
        fit(scene_file(), tmp_path / "runs")


def spec(**sections: Any) -> SceneSpec:
    return SceneSpec.model_validate({"capture": {"path": "nowhere"}, **sections})


def test_samples_are_even_at_first_and_then_follow_the_proposal() -> None:
    proposal = {"warmup": 4, "padding": 0.1, "every": 3}
    made = spec(sampling={"proposal": proposal})
    assert [padding(step, made) for step in (1, 2, 3, 4, 9)] == [0.75, 0.5, 0.25, 0.1, 0.1]
    learning = [step for step in range(1, 13) if learns_proposal(step, made)]
    assert learning == [1, 2, 3, 4, 6, 9, 12]
    without = spec(sampling={"proposal": proposal | {"warmup": 0}})
    assert padding(1, without) == 0.1


def test_occupied_rays_fit_the_budget() -> None:
    sampling = {"method": "occupancy", "budget": 1000, "occupancy": {"samples": 100}}
    made = spec(sampling=sampling, train={"rays": 64})
    assert first_rays(made) == 10  # 1000 / 100: nothing is known to be empty
    assert next_rays(made, 10, 500) == 20  # 50 samples a ray
    assert next_rays(made, 10, 0) == 64  # never more than train.rays
    assert next_rays(made, 10, 10**9) == 1
    assert not learns_proposal(1, made)


def test_a_proposal_takes_all_rays_from_the_first_step() -> None:
    assert first_rays(spec(train={"rays": 64})) == 64
