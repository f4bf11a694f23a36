"""Modes of training: the whole model on every rank, and NeRFs that are trained alone.

Real processes over gloo: what two find is what one finds, and a run goes on with either.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nerfxl.crew import processes
from nerfxl.ensemble import Ensemble, assemble, regions, restore_for_pictures
from nerfxl.errors import UserError
from nerfxl.exchange import Exchange, Gather, Replicated
from nerfxl.filming.conduct import render
from nerfxl.filming.shooting import SHOOTING, Wish, arranged
from nerfxl.learner import EXPOSURE_PACE, Learner, padding
from nerfxl.losses import loss
from nerfxl.model import Model
from nerfxl.optimiser import learning_rate
from nerfxl.partition import Node as Cut
from nerfxl.partition import Plan, plan
from nerfxl.planning import BYTES_A_SAMPLE, costs
from nerfxl.prepare import RunScene, photographs, prepare, read_back, write
from nerfxl.processes.cluster import joined
from nerfxl.processes.nodes import Node, shared_out
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Box, Rays, Truth
from nerfxl.runs import RunFolder, write_atomic
from nerfxl.scene.file import load_scene, save_scene
from nerfxl.scene.spec import SceneSpec
from nerfxl.storage.checkpoint import Origin, latest, load, read_manifest
from nerfxl.train import fit
from nerfxl.worker import Job, work
from tests.conftest import TINY, Here, merged

AsRanks = Callable[[str, Path, int], None]
Spawn = Callable[..., Any]
WriteScene = Callable[..., Path]

R, K, HALF, STEPS = 2, 3, 3, 6
NAMES = ("whole", "first", "second")  # of the runs of a case
N, NEAR, VIEWS = 41, 0.01, 5
OCCUPANCY = {"sampling": {"method": "occupancy"}}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"train": {"mode": "ddp"}},
    "ddp-occupancy": {"train": {"mode": "ddp"}, **OCCUPANCY},
    "independent-3d": {"train": {"mode": "independent-3d"}},
    "independent-3d-occupancy": {"train": {"mode": "independent-3d"}, **OCCUPANCY},
    "independent-2d": {"train": {"mode": "independent-2d"}},
}
DDP = [name for name in CASES if name.startswith("ddp")]
ALONE = [name for name in CASES if name.startswith("independent")]


class Step(NamedTuple):
    """A step whose gradients are looked at."""

    method: str
    tiles: int
    rays: int

    def __str__(self) -> str:
        return f"{self.method}-{self.tiles}-{self.rays}"


# With fewer tiles than ranks, too, and with fewer rays.
GRADIENTS = [
    Step(method, *sizes)
    for method in ("proposal", "occupancy")
    for sizes in ((K, N), (1, N), (K, 1))
]


class Made(NamedTuple):
    """What one process, or two, make of what has been learned.

    scores, pictures: of run `second` at its third step. views: of run `first`, the held-out ones
    rendered. painted: by its painter, of some rays.
    """

    scores: list[Any]
    pictures: dict[str, bytes]
    views: dict[str, bytes]
    painted: Tensor


class Runs(NamedTuple):
    """Runs of the same scene, of six steps.

    whole: by one process. first: three steps by one, then three by two. second: the other way.
    """

    whole: RunFolder
    first: RunFolder
    second: RunFolder
    by_one: Made
    by_two: Made


class Results(NamedTuple):
    """Of each case its runs; what each of two processes found else."""

    runs: dict[str, Runs]
    found: list[dict[str, Tensor]]


def begun(folder: Path, capture: Path, **changes: Any) -> RunFolder:
    """A run of six steps that is prepared, and has not been trained."""
    train = {"steps": STEPS, "rays": 60, "log_every": 3, "checkpoint_every": 0}
    document = merged(TINY, {"train": train | {"schedule": {"milestones": []}}})
    document = merged(merged(document, {"partition": {"tiles": K}}), changes)
    document["capture"] = {"path": str(capture), **document["capture"]}
    folder.mkdir(parents=True)
    file = folder / "cube.yaml"
    file.write_text(json.dumps(document))
    run = RunFolder.create(folder, "cube")
    write(prepare(load_scene(file, device="cpu")), run)
    run.update(state="running")
    return run


def up_to(run: RunFolder, steps: int) -> None:
    """As `nerfxl resume --set train.steps=...` does."""
    save_scene(load_scene(run.scene, device="cpu", overrides=[f"train.steps={steps}"]), run.scene)


def do(task: Any, run: RunFolder, resume: bool = False, into: str = "") -> None:
    """Do it with one process."""
    assert work(Job(task, str(run.path), "cpu", resume=resume, into=into)) == 0


def learners(run: RunFolder, ranks: Ranks) -> list[Learner]:
    """Those of a rank, before the first step."""
    scene = read_back(run)
    capture = photographs(run, scene.spec, scene.shots)
    members = assemble(scene, ranks).members
    return [Learner(member, scene, capture, run.scene) for member in members]


def loaded(run: RunFolder, ranks: Ranks) -> tuple[RunScene, Ensemble]:
    """The fields of the newest checkpoint."""
    scene = read_back(run)
    ensemble = assemble(scene, ranks)
    origin = Origin.of(run, scene.spec.name, scene.plan)
    ensemble.load(load(run.checkpoints, origin, ensemble.tiles, ranks))
    return scene, ensemble


def stored(run: RunFolder) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint."""
    return {
        f"{file.name}/{name}": tensor.clone()
        for file in sorted(latest(run.checkpoints).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def pngs(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def made(first: RunFolder, second: RunFolder, views: str, ranks: Ranks) -> Made:
    """What lies in the runs' folders, and what a painter says."""
    scored = second.eval / f"step-{HALF:09d}"
    per_image = json.loads((scored / "metrics.json").read_text())["per_image"]
    return Made(per_image, pngs(scored), pngs(first.renders / views), painted(first, ranks))


def asked(run: RunFolder, into: str) -> Path:
    """The folder of a rendering of the held-out views."""
    scene, folder = read_back(run), run.renders / into
    folder.mkdir(exist_ok=True)
    shooting = arranged(Wish(), scene, scene.shots)
    write_atomic(folder / SHOOTING, shooting.to_json())
    return folder


def painted(run: RunFolder, ranks: Ranks) -> Tensor:
    """Colour and depth of random rays, [N, 4], by all ranks together."""
    scene, ensemble = loaded(run, ranks)
    draw = generator(3)
    origins = torch.rand(N, 3, generator=draw) * 3 - 1.5
    directions = torch.randn(N, 3, generator=draw)
    rays = Rays(origins, directions / directions.norm(dim=1, keepdim=True))
    exchange, sampling = ensemble.painter.exchange, scene.spec.sampling
    number = torch.arange(N)[exchange.mine(N)]
    batch = Batch(rays[number], torch.full((len(number), 2), 0.5), number, N)
    pixels = ensemble.painter.still(batch, sampling.proposal.padding, sampling.render_samples)
    return exchange.whole(torch.cat([pixels.colour, pixels.depth[:, None]], 1), N)


def gradients(step: Step, exchange: Exchange) -> dict[str, Tensor]:
    """In float64, as a rank finds them: of the tiles that it holds, and of what they share.

    Poses, appearance and exposure of photographs are learned, too.
    """
    table = {"levels": 3, "log2_table": 8, "base_resolution": 3, "max_resolution": 12}
    widths = {"density_hidden": 8, "geometry_features": 5, "colour_hidden": 8}
    proposal = {"samples": 24, "levels": 2, "log2_table": 8, "max_resolution": 6}
    sampling = {"method": step.method, "samples": 12, "proposal": proposal}
    document = {
        "capture": {"path": "nowhere"},
        "field": table | widths,
        "sampling": sampling | {"occupancy": {"samples": 48, "resolution": 8}},
        "train": {"losses": {"distortion": 0.1}},
        "cameras": {"refine": "on"},
        "appearance": {"embedding": "on", "size": 2, "exposure": "on"},
    }
    spec = SceneSpec.model_validate(document)
    points = torch.rand(500, 3, generator=generator(1)) * 2 - 1
    cut = plan(points, Box((-1.0,) * 3, (1.0,) * 3), step.tiles, open=True)
    model = Model(spec, cut, NEAR, exchange.ranks, torch.float64, VIEWS, exchange)
    for tile in model.tiles:  # far from their even start
        with torch.no_grad():
            tile.table.mul_(1e4)
            if tile.proposal:
                tile.proposal.table.mul_(1e4)
    draw = generator(3)
    origins, directions, truth = torch.randn(3, step.rays, 3, generator=draw).double()
    rays = Rays(origins, directions / directions.norm(dim=1, keepdim=True))
    batch = Batch.of(rays, torch.rand(step.rays, 2, generator=draw).double())
    batch = replace(batch, view=torch.arange(step.rays) % VIEWS)
    if exchange.draws != slice(None):
        batch, truth = batch.some(exchange.draws), truth[exchange.draws]
    cast = model.renderer.depart(model.renderer.cast(batch))
    learns = step.method == "proposal"
    pixels, proposal_loss = model.renderer(cast, 0.05, learn_proposal=learns)
    total, _ = loss(pixels, Truth.of(truth), spec.train.losses, step.rays)
    (total + 0.5 * proposal_loss).backward()  # type: ignore[no-untyped-call]
    model.sum_gradients()
    modules = {"shared": model.shared} | {f"tile{tile.index}": tile for tile in model.tiles}
    return {
        f"{owner}.{name}": parameter.grad.clone()
        for owner, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def trained(run: RunFolder, ranks: Ranks, steps: int = 3) -> dict[str, Tensor]:
    """All that a rank of 'ddp' holds of a scene after some steps, moments and grids too."""
    (learner,) = learners(run, ranks)
    learner.begin(1)
    for step in range(1, steps + 1):
        seen, _ = learner.see(step)
        learner.back(step, seen, last=step == steps)
        learner.update(step, last=step == steps)
    found = {f"shared/{name}": value for name, value in learner.model.shared.state_dict().items()}
    for tile, optimiser in zip(learner.model.tiles, learner.tiles, strict=True):
        state = {**tile.state_dict(), **optimiser.state()}
        found |= {f"tile {tile.index}/{name}": value for name, value in state.items()}
    return found | {"rays": torch.tensor(learner.count)}


def be_one_of_two(folder: Path) -> None:
    """Be one process of the tests: gradients of a step, and runs begun and gone on with."""
    found: dict[str, Tensor] = {}

    def keep(prefix: str, tensors: dict[str, Tensor]) -> None:
        found.update({f"{prefix}/{name}": tensor.clone() for name, tensor in tensors.items()})

    with joined("cpu") as ranks:
        for step in GRADIENTS:
            keep(f"step/{step}", gradients(step, Replicated(ranks, step.tiles)))
        for case in CASES:
            _, first, second = (RunFolder.newest(folder / case / name) for name in NAMES)
            fit(second, ranks, resume=False)
            fit(first, ranks, resume=True)
            scene, ensemble = loaded(first, ranks)
            render(asked(first, "by-two"), scene, ensemble, ranks, HALF)
            own, _ = restore_for_pictures(first, scene, ranks, None, 2)
            less, _ = restore_for_pictures(first, scene, ranks, 0.0, 2)
            found[f"makers/{case}"] = torch.tensor([own.ranks.size, less.ranks.size])
            render(asked(first, "by-each"), scene, own, ranks, HALF)
            keep(f"painted/{case}", {"": painted(first, ranks)})
            if case in DDP:
                keep(f"trained/{case}", trained(second, ranks))
    save_file({name: t.contiguous() for name, t in found.items()}, folder / f"{ranks.rank}")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, capture: Path, as_ranks: AsRanks
) -> Iterator[Results]:
    """What one process and two make of every case, in turn."""
    folder, threads = tmp_path_factory.mktemp("modes"), torch.get_num_threads()
    begun_runs: dict[str, tuple[RunFolder, RunFolder, RunFolder]] = {}
    runs: dict[str, Runs] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        for case, changes in CASES.items():
            at = folder / case
            whole, first, second = (begun(at / name, capture, **changes) for name in NAMES)
            up_to(first, HALF)
            up_to(second, HALF)
            do("fit", whole)
            do("fit", first)
            up_to(first, STEPS)
            begun_runs[case] = (whole, first, second)
        as_ranks(__file__, folder, R)
        found = [load_file(folder / f"{rank}") for rank in range(R)]
        for case, (whole, first, second) in begun_runs.items():
            by_two = made(first, second, "by-two", Ranks())
            by_two = by_two._replace(painted=found[0][f"painted/{case}/"])
            do("evaluate", second)
            do("render", first, into=asked(first, "test").name)
            by_one = made(first, second, "test", Ranks())
            up_to(second, STEPS)
            do("fit", second, resume=True)
            runs[case] = Runs(whole, first, second, by_one, by_two)
    yield Results(runs, found)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("step", GRADIENTS, ids=str)
def test_shares_of_the_rays_have_the_gradients_of_all(step: Step, results: Results) -> None:
    """Those of one process that owns all tiles, whether tiles or rays are fewer than ranks."""
    expected = gradients(step, Gather(Ranks(), step.tiles))
    alone = gradients(step, Replicated(Ranks(), step.tiles))
    for name in ("tile0.table", "shared.colour_layers.0", "shared.views.pose", "shared.views.gain"):
        assert bool(expected[name].any()), name
    prefix = f"step/{step}/"
    by_two = [
        {name.removeprefix(prefix): g for name, g in one.items() if name.startswith(prefix)}
        for one in results.found
    ]
    for own in (alone, *by_two):
        assert own.keys() == expected.keys()
        for name, value in own.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-13, msg=name)
    for name in expected:
        assert torch.equal(by_two[0][name], by_two[1][name]), name


@pytest.mark.parametrize("case", DDP)
def test_ranks_that_hold_the_same_tiles_hold_the_same_bits(case: str, results: Results) -> None:
    one, other = results.found
    names = [name for name in one if name.startswith(f"trained/{case}/")]
    assert sum("/tile 2/" in name for name in names) > 5
    for name in names:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_holds_each_tile_once(case: str, results: Results) -> None:
    """Whoever wrote it; an independent NeRF's file is all that there is of it."""
    runs = results.runs[case]
    shards = {f"tile-{k:04d}.safetensors" for k in range(K)}
    names = stored(runs.whole).keys()
    for run in (runs.whole, runs.first, runs.second):
        manifest = read_manifest(latest(run.checkpoints))
        assert manifest.files.keys() - {"shared.safetensors"} == shards
        assert ("shared.safetensors" in manifest.files) == (case in DDP)
        assert stored(run).keys() == names
    if case in ALONE:
        (learner, *_) = learners(runs.whole, Ranks())
        shared = learner.model.shared.state_dict().keys() | learner.shared.state().keys()
        for file in shards:
            assert {f"{file}/shared.{name}" for name in shared} | {f"{file}/rays"} <= names


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_with_any_number_of_processes(case: str, results: Results) -> None:
    """To the bit, moments and grids too, where no sum depends on who takes part in it."""
    runs = results.runs[case]
    expected = stored(runs.whole)
    told = lines(runs.whole)
    for run in (runs.first, runs.second):
        assert [line["step"] for line in lines(run)] == [3, 6]
        for line, truth in zip(lines(run), told, strict=True):
            for name in ("loss", "proposal_loss", "samples_per_ray"):
                assert line[name] == pytest.approx(truth[name], rel=1e-3), name
        if case in ALONE:
            assert all(torch.equal(value, expected[name]) for name, value in stored(run).items())
    psnr = [
        json.loads((run.eval / "step-000000006" / "metrics.json").read_text())["psnr"]
        for run in (runs.whole, runs.first, runs.second)
    ]
    assert psnr[1:] == [pytest.approx(psnr[0], abs=0.01 if case in DDP else 0)] * 2


@pytest.mark.parametrize("case", CASES)
def test_with_room_for_all_tiles_each_rank_makes_its_own_pictures(
    case: str, results: Results
) -> None:
    run = results.runs[case].first
    assert all(found[f"makers/{case}"].tolist() == [1, R] for found in results.found)
    assert pngs(run.renders / "by-each") == results.runs[case].by_one.views


@pytest.mark.parametrize("case", CASES)
def test_pictures_and_scores_do_not_depend_on_ranks(case: str, results: Results) -> None:
    one, two = results.runs[case].by_one, results.runs[case].by_two
    assert len(one.scores) == 2
    assert one.pictures.keys() == two.pictures.keys()
    assert one.views.keys() == two.views.keys()
    assert len(one.views) == 4  # depth, too
    if case in ALONE:
        assert one.scores == two.scores
        assert one.pictures == two.pictures
        assert one.views == two.views
        assert torch.equal(one.painted, two.painted)
    else:  # a product of matrices may round as its size does
        for score, other in zip(one.scores, two.scores, strict=True):
            assert score["psnr"] == pytest.approx(other["psnr"], abs=1e-3)
        torch.testing.assert_close(one.painted, two.painted, rtol=1e-5, atol=1e-5)
    assert float(one.painted[:, :4].std(0).amin()) > 0  # colours and depth


@pytest.mark.long
def test_more_processes_than_tiles_share_the_rays(
    spawn: Spawn, scene_file: WriteScene, tmp_path: Path
) -> None:
    """As the user asks for them; then one goes on."""
    scene = scene_file(partition={"tiles": 1}, train={"mode": "ddp", "steps": 4, "log_every": 2})
    out = ("--output-dir", tmp_path / "runs", "--device", "cpu")
    fitted = spawn("fit", scene, *out, "--nproc", 2, "--json")
    assert fitted.ended() == 0, fitted.err.read_text()
    summary = json.loads(fitted.out.read_text())
    assert (summary["world_size"], summary["tiles"]) == (2, 1)
    run = RunFolder(Path(summary["run"]))
    assert read_manifest(latest(run.checkpoints)).files.keys() == {
        "tile-0000.safetensors",
        "shared.safetensors",
    }
    gathered = lines(run)[-1]["exchange"]
    # A rank receives as much as its gradients are, as of a ring: twice a half of them.
    (_, ensemble) = loaded(run, Ranks())
    (tile,) = ensemble.members[0].model.tiles
    size = 4 * sum(parameter.numel() for parameter in tile.parameters())
    assert gathered["tiles"]["bytes_per_ray"] == pytest.approx(R * size / 64, rel=0.01)
    do("evaluate", run)
    again = json.loads((run.eval / "step-000000004" / "metrics.json").read_text())
    assert again["psnr"] == pytest.approx(summary["psnr"], abs=1e-3)


def test_tiles_bound_the_processes_unless_each_holds_all(one_core: None) -> None:
    del one_core
    assert (processes(None, "cpu", 3), processes(None, "cpu", None)) == (1, 1)
    assert (processes(3, "cpu", 3), processes(8, "cpu", None)) == (3, 8)
    with pytest.raises(UserError, match="--nproc 8: the scene has 3 tiles"):
        processes(8, "cpu", 3)
    machines = [Node("a", "cpu", 8, None), Node("b", "cpu", 4, 2)]
    assert shared_out(machines, None) == (8, 2)
    assert shared_out(machines, 3) == (1, 2)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_nerf_in_space_learns_from_the_rays_that_meet_its_grown_tile(
    overlap: float, capture: Path, tmp_path: Path
) -> None:
    """Two half spaces: a ray meets one if it starts there, or goes there."""
    train = {"mode": "independent-3d", "overlap": overlap}
    run = begun(tmp_path / "run", capture, train=train, partition={"tiles": 2})
    root = read_back(run).plan.root
    axis, at = 0, float(np.float32(root.high[0] / 2))
    run.plan.write_text(Plan(root, True, (Cut(axis, at, ~0, ~1),)).to_json())
    scene = read_back(run)
    shots = [shot for shot in scene.shots if not shot.test]
    poses = torch.from_numpy(scene.world.poses(np.stack([shot.pose for shot in shots])))
    local = torch.from_numpy(shots[0].camera.directions()).double().reshape(1, -1, 3)
    slope = (local @ poses[:, :, :3].transpose(1, 2))[..., axis]  # [V, H W]
    start = poses[:, axis, 3:].expand_as(slope)
    sides, totals = learners(run, Ranks()), []
    for k, learner in enumerate(sides):
        sign = -1 if k == 0 else 1  # below the plane, above it
        edge = scene.plan.cores[k].size[axis]
        limit = sign * at - overlap / 2 * edge
        meets = (sign * start > limit) | (sign * slope > 0)
        assert learner.pool.totals == [int(meets.sum())]
        totals += learner.pool.totals
        batch, _ = learner.pool.batch(1, 1, 500)
        origin, direction = batch.rays.origins[:, axis], batch.rays.directions[:, axis]
        assert bool(((sign * origin > limit) | (sign * direction > 0)).all())
        assert batch.view is not None
        assert not any(scene.shots[row].test for row in set(batch.view.tolist()))
    assert 0 < min(totals) < meets.numel()
    # A step of all NeRFs together has as many rays as the scene's.
    assert [learner.count for learner in sides] == [30, 30]


def test_photographs_that_show_nothing_of_a_tile_are_not_held(
    capture: Path, tmp_path: Path
) -> None:
    """A tile in which the highest camera stands, above all that the others see.

    What is planned for is what is held, but for rays that say for a few others what they meet.
    """
    train = {"mode": "independent-3d", "overlap": 0.0}
    changes: dict[str, Any] = {"train": train, "bounds": {"outside": "empty"}}
    run = begun(tmp_path / "run", capture, partition={"tiles": 2}, **changes)
    scene = read_back(run)
    shots = {row: shot for row, shot in enumerate(scene.shots) if not shot.test}
    height = {row: scene.world.points(shot.pose[:, 3])[2] for row, shot in shots.items()}
    *_, second, highest = sorted(shots, key=lambda row: height[row])
    at = float(np.float32((height[second] + height[highest]) / 2))
    cut = Plan(scene.plan.root, False, (Cut(2, at, ~0, ~1),))
    run.plan.write_text(cut.to_json())
    pools = [learner.pool for learner in learners(run, Ranks())]
    assert [pool.rows.tolist() for pool in pools] == [list(shots), [highest]]
    assert [len(pool.colours) for pool in pools] == [4 * 24 * 18, 24 * 18]
    numbers = [0 if pool.usable is None else pool.usable.nbytes for pool in pools]
    held = [pool.colours.nbytes + size for pool, size in zip(pools, numbers, strict=True)]
    prepared = replace(prepare(load_scene(run.scene, device="cpu")), plan=cut)
    assert costs(prepared, 1).memory_per_rank.images == pytest.approx(sum(held), rel=0.05)
    assert costs(prepared, 2).memory_per_rank.images == pytest.approx(max(held), rel=0.05)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 4.0])
def test_a_nerf_in_the_picture_learns_from_the_photographs_of_its_group(
    overlap: float, capture: Path, tmp_path: Path
) -> None:
    train = {"mode": "independent-2d", "overlap": overlap}
    run = begun(tmp_path / "run", capture, train=train, partition={"tiles": 2})
    scene = read_back(run)
    shots = {index: shot for index, shot in enumerate(scene.shots) if not shot.test}
    places = scene.world.points(np.stack([shot.pose[:, 3] for shot in shots.values()]))
    found = regions(scene.spec, scene.plan, torch.from_numpy(places))
    groups = []
    for k, learner in enumerate(learners(run, Ranks())):
        low, high = found.box(k).low, found.box(k).high
        stood = [bool((low <= place).all() and (place < high).all()) for place in places]
        own = [row for row, inside in zip(shots, stood, strict=True) if inside]
        assert learner.pool.rows.tolist() == own
        assert learner.pool.totals == [len(own) * 24 * 18]
        groups.append(own)
    every = sorted(row for own in groups for row in own)
    if overlap == 0:
        assert every == list(shots)  # each photograph is of one group
    else:
        assert set(every) == set(shots)
    if overlap == 4:
        assert groups == [list(shots), list(shots)]
    made = prepare(load_scene(run.scene, device="cpu"))
    assert costs(made, 1).memory_per_rank.images == 3 * len(every) * 24 * 18


@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_samples_outside_the_own_tile_are_counted(
    method: str, capture: Path, tmp_path: Path
) -> None:
    changes = {"train": {"mode": "independent-3d"}, "sampling": {"method": method}}
    run = begun(tmp_path / "run", capture, **changes)
    cut = read_back(run).plan
    for k, learner in enumerate(learners(run, Ranks())):
        learner.begin(1)
        _, cast = learner.see(1)
        found = learner.outside(1, cast)
        points, _ = learner.model.renderer.sample_points(cast.batch, padding(1, learner.spec))
        assert found == (int((cut.tile_of(points) != k).sum()), len(points))
        assert 0 < found[0] < found[1]


def test_the_books_tell_of_samples_outside(results: Results) -> None:
    """Of each line, the last one too; the same on two ranks."""
    for case, runs in results.runs.items():
        told = [line.get("outside") for line in lines(runs.whole)]
        if not case.startswith("independent-3d"):
            assert told == [None, None]
            continue
        assert all(share is not None and 0 < share < 1 for share in told)
        for run in (runs.first, runs.second):
            assert [line["outside"] for line in lines(run)] == told


def test_a_tile_that_no_photograph_shows_is_named(capture: Path, tmp_path: Path) -> None:
    """Above all cameras, which look down."""
    changes = {"train": {"mode": "independent-3d"}, "bounds": {"outside": "empty"}}
    run = begun(tmp_path / "run", capture, partition={"tiles": 2}, **changes)
    root = read_back(run).plan.root
    high = float(np.float32(0.99 * root.high[2]))
    run.plan.write_text(Plan(root, False, (Cut(2, high, ~0, ~1),)).to_json())
    with pytest.raises(UserError) as caught:
        learners(run, Ranks())
    assert str(caught.value) == (
        f"{capture}: no pixel of the 4 training photographs shows tile 1, so that its NeRF cannot "
        "be trained alone; set partition.tiles lower, or train.mode to joint."
    )


def refusal(capture: Path) -> str:
    """What a fit of a group without cameras says."""
    return (
        rf"nerfxl: {re.escape(str(capture))}: no pixel of the 4 training photographs was taken in "
        r"camera group \d, so that its NeRF cannot be trained alone; set partition.tiles lower, or "
        r"train.mode to joint\.\n"
    )


# Four photographs cannot be six groups without overlap.
SIX_GROUPS = {"partition": {"tiles": 6}, "train": {"mode": "independent-2d", "overlap": 0}}


def test_a_group_without_cameras_is_refused(
    here: Here, scene_file: WriteScene, capture: Path, tmp_path: Path
) -> None:
    scene = scene_file(**SIX_GROUPS)
    said = here("fit", scene, "--output-dir", tmp_path / "runs", "--device", "cpu")
    assert said.code == 2
    assert re.fullmatch(refusal(capture), said.err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_group_without_cameras_is_refused_by_all(
    spawn: Spawn, scene_file: WriteScene, capture: Path, tmp_path: Path
) -> None:
    """Though one process of two finds out."""
    scene = scene_file(**SIX_GROUPS)
    out = ("--output-dir", tmp_path / "runs", "--device", "cpu")
    refused = spawn("fit", scene, *out, "--nproc", 2)
    assert refused.ended() == 2, refused.err.read_text()
    assert re.fullmatch(refusal(capture), refused.err.read_text())
    assert not (tmp_path / "runs").exists()


def test_what_a_mode_does_not_do_is_said(
    here: Here, scene_file: WriteScene, results: Results, tmp_path: Path
) -> None:
    """Change by resuming, be planned for by number of ranks, or be balanced."""
    runs = results.runs["independent-3d"]
    said = here("resume", runs.whole.path, "--set", "train.mode=ddp")
    assert said.code == 2
    assert f"--set train.mode=ddp: train.mode cannot change while {runs.whole.path} goes on" in (
        said.err
    )
    out = ("--output-dir", tmp_path / "plans", "--device", "cpu")
    said = here("plan", scene_file(train={"mode": "ddp"}), *out, "--ranks", 4)
    assert (said.code, said.err) == (
        2,
        "nerfxl: --ranks 4: what many ranks cost is known of train.mode joint, and the mode is "
        "ddp: leave --ranks out, or pass --set train.mode=joint.\n",
    )
    scene = scene_file(partition={"tiles": K})
    said = here("plan", scene, *out, "--balance", runs.whole.path)
    assert (said.code, said.err) == (
        2,
        f"nerfxl: --balance {runs.whole.path}: its train.mode is independent-3d, and NeRFs that "
        "are trained alone do not share a ray's samples: name a run of joint or ddp.\n",
    )
    assert not (tmp_path / "plans").exists()
    said = here("plan", scene, *out, "--balance", results.runs["ddp"].whole.path, "--json")
    assert said.code == 0, said.err
    assert set(json.loads(said.out)["balance"]["before"]) == {"2", "3"}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("ddp", "ddp: each process holds all tiles and takes a share of the rays"),
        (
            "independent-3d",
            "independent-3d, overlap 0.15: 4 NeRFs, each trained alone on the rays that meet its "
            "tile, blended in space",
        ),
        (
            "independent-2d",
            "independent-2d, overlap 0.5: 4 NeRFs, each trained alone on the whole scene as a "
            "group of cameras sees it, blended in the picture",
        ),
    ],
)
def test_a_plan_says_what_its_mode_costs(
    mode: str, words: str, here: Here, scene_file: WriteScene, tmp_path: Path
) -> None:
    scene = scene_file(train={"mode": mode})
    out = ("--output-dir", tmp_path / "plans", "--device", "cpu")
    said = here("plan", scene, *out, "--nproc", 2)
    assert said.code == 0, said.err
    assert f"mode       {words}\n" in said.out
    made = prepare(load_scene(scene, device="cpu"))
    spec, cut = made.scene.spec, made.plan
    one = Model(spec, cut, NEAR, Ranks())
    (tile, *_), shared = one.tiles, sum(p.numel() for p in one.shared.parameters())
    per_tile = sum(parameter.numel() for parameter in tile.parameters())
    found = costs(made, 2)
    memory = found.memory_per_rank
    samples = spec.train.rays * (spec.sampling.samples + 4) * BYTES_A_SAMPLE
    if mode == "ddp":
        # All on each of two, and half the rays; gradients of all, half of them and back.
        assert memory.parameters == 16 * (4 * per_tile + shared)
        assert found.parameters_total == 4 * per_tile + shared
        assert memory.samples == samples / 2
        assert found.exchange_bytes_per_ray == round(4 * found.parameters_total / 64)
        assert costs(made, 1).exchange_bytes_per_ray == 0
        assert costs(made, 9).memory_per_rank.parameters == memory.parameters
    else:
        assert memory.parameters == 16 * 2 * (per_tile + shared)
        assert found.parameters_total == 4 * (per_tile + shared)
        assert memory.samples == samples / 4
        assert found.exchange_bytes_per_ray == 0
    assert (found.mode, found.ranks) == (mode, 2)


def test_exposures_move_at_a_pace_of_their_own(tmp_path: Path, capture: Path) -> None:
    """Adam's first step is as long as its rate."""
    run = begun(tmp_path / "run", capture, appearance={"exposure": "on"})
    (learner,) = learners(run, Ranks())
    learner.begin(1)
    seen, _ = learner.see(1)
    learner.back(1, seen, last=True)
    learner.update(1, last=True)
    gain, train = learner.model.shared.views.gain, learner.spec.train
    assert gain is not None
    rate = EXPOSURE_PACE * learning_rate(1, train)
    assert float(gain.detach().abs().max()) == pytest.approx(rate, rel=1e-3)


if __name__ == "__main__":
    be_one_of_two(Path(sys.argv[1]))
