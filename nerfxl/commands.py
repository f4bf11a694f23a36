"""What the command line's verbs do, in the order in which a user sees it happen."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from nerfxl import launch
from nerfxl.balance import Sampled, balanced
from nerfxl.balance import show as show_balance
from nerfxl.cluster import choose_device, cores
from nerfxl.cost import (
    EXCHANGES,
    Exchange,
    FabricName,
    Load,
    Work,
    calibrated,
    cost,
    cpu,
    cuda,
    fabric,
    ladder,
)
from nerfxl.cost import count as count_load
from nerfxl.errors import UserError
from nerfxl.exchange import deal, resolved
from nerfxl.model import parameter_counts
from nerfxl.partition import Plan
from nerfxl.partition import plan as cut_anew
from nerfxl.plan_picture import picture
from nerfxl.plan_report import (
    PlanReport,
    available_memory,
    check_fit,
    forecast,
    report,
    show,
    show_forecast,
)
from nerfxl.prepare import TRANSFORM, Prepared, near_plane, prepare, read_back, some_rays, write
from nerfxl.progress import following
from nerfxl.render import FAR, SPACING
from nerfxl.runs import RunFolder, recording, write_atomic
from nerfxl.scene_file import load_scene, save_scene
from nerfxl.spec import SceneSpec
from nerfxl.tally import exchanged
from nerfxl.worker import Job, work

PLANNING_RAYS = 16_384
LIBRARY_BYTES = 345 * 2**20  # measured: resident after the first kernel of a CPU process
BYTES_A_SAMPLE = 1600  # counted: 400 floats of features and hidden layers with their gradients


class Speaker:
    """Prints for people; silent when a script reads."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(quiet=quiet, soft_wrap=True, highlight=False)
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)


def fit(
    scene_path: Path,
    output_dir: Path,
    nproc: int | None,
    device: str,
    overrides: Sequence[str],
    resume: Path | None,
    skip_missing: bool,
    say: Speaker,
) -> dict[str, Any]:
    """Prepare, train, score; the summary that `eval/step-*/metrics.json` holds."""
    kind = _kind(device)
    prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
    spec = prepared.scene.spec
    count = processes(nproc, kind, spec.partition.tiles)
    _tell(prepared, kind, count, say)
    found = _report(prepared, count)
    check_fit(found, available_memory(kind), f"this machine's {kind}", _sharing(kind, count))
    if resume is None:
        run = RunFolder.create(output_dir, spec.name)
        write(prepared, run)
    else:
        run = RunFolder.open(resume)
        _same_scene(run, prepared)
        save_scene(prepared.scene, run.scene)
    run.update(steps=spec.train.steps)
    say(f"run        {run.path}")
    if kind == "cpu":
        say("starting   the first run compiles the kernels, about half a minute")
    job = Job("fit", str(run.path), kind, resume=resume is not None)
    with following(run.metrics, spec.train.steps, say.console, say.quiet), recording(run):
        _do(job, run, count)
    return _summary(run, say)


@dataclass(frozen=True)
class Prospect:
    """Ranks to plan for, here or elsewhere.

    node: ranks on one machine. rays: of a step, for each rank; the scene's over all ranks if None.
    step_seconds: measured, of a step on one core or GPU; None takes what is known of them.
    """

    ranks: int
    fabric: FabricName
    exchange: Exchange | None
    node: int
    rays: int | None
    step_seconds: float | None


def plan(
    scene_path: Path,
    output_dir: Path,
    nproc: int | None,
    device: str,
    overrides: Sequence[str],
    skip_missing: bool,
    prospect: Prospect | None,
    balance: Path | None,
    say: Speaker,
) -> dict[str, Any]:
    """Cut the scene, print what it will cost, and draw it; refuses what will not fit."""
    elsewhere = prospect is not None and prospect.fabric != "loopback"
    # Plans for other machines: none of their GPUs need be here.
    kind = "cuda" if elsewhere and device in ("auto", "cuda") else _kind(device)
    prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
    spec = prepared.scene.spec
    count = processes(nproc, kind, spec.partition.tiles)
    _tell(prepared, kind, count, say)
    told: dict[str, Any] = {}
    sampled = None
    if balance is not None:
        prepared, sampled, told["balance"] = _balance(prepared, balance, kind, say)
    found = _report(prepared, count)
    show(found, say.console)
    if prospect is not None:
        told["forecast"] = _forecast(prepared, prospect, kind, sampled, say)
    folder = output_dir / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "plan.json", prepared.plan.to_json())
    write_atomic(folder / TRANSFORM, prepared.world.to_json())
    capture = prepared.capture
    cameras = prepared.world.points(capture.poses()[:, :, 3])
    places = prepared.world.points(capture.points)
    target = folder / "plan.png"
    picture(prepared.plan, cameras, places, capture.point_colours, target, prepared.world.scale)
    say(f"written    {folder / 'plan.json'} and {target}")
    if balance is not None:
        named = os.path.relpath(folder / "plan.json", prepared.scene.base)
        say(f"to use it  --set {shlex.quote(f'partition.plan={named}')}, with nerfxl fit")
    if not elsewhere:
        check_fit(found, available_memory(kind), f"this machine's {kind}", _sharing(kind, count))
    return {**found.as_json(), **told, "plan": str(folder / "plan.json"), "picture": str(target)}


def evaluate(
    run_path: Path | None, output_dir: Path, nproc: int | None, device: str, say: Speaker
) -> dict[str, Any]:
    """Score the newest checkpoint of a run."""
    run = _run(run_path, output_dir, say)
    kind = _kind(device)
    count = processes(nproc, kind, len(read_back(run).plan))
    _do(Job("evaluate", str(run.path), kind), run, count)
    return _summary(run, say)


def render(
    run_path: Path | None,
    output_dir: Path,
    views: str,
    frames: int,
    nproc: int | None,
    device: str,
    say: Speaker,
) -> None:
    """Render the newest checkpoint of a run."""
    run = _run(run_path, output_dir, say)
    kind = _kind(device)
    count = processes(nproc, kind, len(read_back(run).plan))
    start = time.monotonic()
    _do(Job("render", str(run.path), kind, views=views, frames=frames), run, count)
    say(f"pictures   {run.renders / views}, in {time.monotonic() - start:.0f} s")


def processes(asked: int | None, kind: str, tiles: int) -> int:
    """How many ranks: as asked, or one a GPU, or one a core; never more than tiles.

    On a CPU a process a core with one thread each beats one process whose threads share every
    small kernel, and suffers less where other programs run: ranks wait for each other a few times
    a step, threads hundreds of times.

    Raises
    ------
    UserError: more were asked for than there are tiles, or torchrun started this process.
    """
    if launch.is_worker():
        raise UserError(
            "RANK and WORLD_SIZE are set, as by torchrun: nerfxl starts its processes itself; run "
            "it by its own name and say how many by --nproc."
        )
    if asked is not None:
        if asked > tiles:
            raise UserError(
                f"--nproc {asked}: the scene has {tiles} tiles and each process needs one; pass "
                f"at most {tiles}, or raise partition.tiles."
            )
        return asked
    units = torch.cuda.device_count() if kind == "cuda" else cores()
    return max(1, min(units, tiles))


def _kind(device: str) -> Literal["cpu", "cuda"]:
    return "cuda" if choose_device(device).type == "cuda" else "cpu"


def _sharing(kind: str, count: int) -> int:
    return count if kind == "cpu" else 1


def _do(job: Job, run: RunFolder, count: int) -> None:
    """Run a job here, or as several ranks; leaves with 130 or 143 where a signal stopped it."""
    if count == 1:
        code = work(job)
    else:
        path = job.write(run.job)
        code = launch.launch("nerfxl.worker", path, count, run.logs)
    if code:
        raise SystemExit(code)


def _run(path: Path | None, output_dir: Path, say: Speaker) -> RunFolder:
    run = RunFolder.newest(output_dir) if path is None else RunFolder.open(path)
    say(f"run        {run.path}")
    return run


def _tell(prepared: Prepared, kind: str, count: int, say: Speaker) -> None:
    capture, spec = prepared.capture, prepared.scene.spec
    note = f" ({capture.note})" if capture.note else ""
    say(f"capture    {capture.root}{note}")
    tests = len(capture.test)
    width, height = capture.views[0].camera.width, capture.views[0].camera.height
    say(
        f"           {capture.format}, {len(capture.views)} views of {width} x {height}, {tests} "
        f"of them held out, {len(capture.points):,} points"
    )
    if capture.skipped:
        say(f"           without {len(capture.skipped)} missing: {', '.join(capture.skipped)}")
    say(f"bounds     {prepared.bounds.reason}")
    reach = "outside contracted into the border tiles" if prepared.plan.open else "closed"
    say(f"tiles      {len(prepared.plan)}, {reach}, sampling by {spec.sampling.method}")
    plural = "es" if count > 1 else ""
    say(f"device     {kind}, {count} process{plural}, profile {prepared.scene.profile or 'none'}")


def _balance(
    prepared: Prepared, path: Path, kind: str, say: Speaker
) -> tuple[Prepared, Sampled, dict[str, Any]]:
    """Cut anew by the samples of a run, and print what that does for lambda."""
    run = RunFolder.open(path)
    device = choose_device("cpu" if kind == "cpu" else "auto")
    new, sampled, measured = balanced(prepared, run, PLANNING_RAYS, device)
    show_balance(measured, run, say.console)
    return replace(prepared, plan=new), sampled, measured.as_json()


def _report(prepared: Prepared, ranks: int) -> PlanReport:
    spec, work = prepared.scene.spec, _work(prepared)
    sharers = ranks if resolved(spec.exchange, ranks) == "owner" else 1
    return report(
        prepared.plan,
        prepared.points,
        _load(prepared, prepared.plan),
        scale=prepared.world.scale,
        parameters_per_tile=work.parameters,
        shared_parameters=work.shared,
        image_bytes=-(-work.images // sharers),
        sample_budget=samples_a_step(spec),
        bytes_per_sample=BYTES_A_SAMPLE,
        ranks=ranks,
        library_bytes=LIBRARY_BYTES,
    )


def _forecast(
    prepared: Prepared, prospect: Prospect, kind: str, sampled: Sampled | None, say: Speaker
) -> dict[str, Any]:
    """Print what many ranks cost, and return it; of more tiles where the scene has too few."""
    spec, cut = prepared.scene.spec, prepared.plan
    if prospect.ranks > len(cut):
        points = prepared.points if sampled is None else sampled.points
        say(
            f"ranks      {prospect.ranks} need as many tiles: these figures are of "
            f"--set partition.tiles={prospect.ranks}, the plan that is written has {len(cut)}"
        )
        cut = cut_anew(points, cut.root, prospect.ranks, cut.open)
    load, work = _load(prepared, cut), _work(prepared)
    if sampled is not None:
        found = sampled.by_tile(cut)  # how they lie; how many they are, the scene says
        load = replace(load, samples=found * (load.samples.sum() / found.sum()))
    here = cores() if prospect.fabric == "loopback" else None
    machine = cuda() if kind == "cuda" else cpu(here)
    if prospect.step_seconds is not None:
        machine = calibrated(machine, prospect.step_seconds, load.of(spec.train.rays), work)
    wires = fabric(prospect.fabric, prospect.node)
    costs = []
    for ranks in ladder(prospect.ranks):
        rays = spec.train.rays if prospect.rays is None else prospect.rays * ranks
        shares, batch = deal(len(cut), ranks), load.of(rays)
        for exchange in [prospect.exchange] if prospect.exchange else EXCHANGES:
            costs.append(cost(exchange, shares, batch, work, machine, wires))
    show_forecast(costs, machine, wires, say.console)
    return forecast(costs, load.rays, len(cut), machine, wires)


def _load(prepared: Prepared, cut: Plan) -> Load:
    spec, world = prepared.scene.spec, prepared.world
    rays = some_rays(prepared.capture, world, PLANNING_RAYS, spec.seed)
    sampling = spec.sampling
    samples = sampling.samples
    if sampling.method == "occupancy":
        samples = max(1, sampling.budget // spec.train.rays)
    return count_load(cut, rays, near_plane(spec, world, cut.open), FAR, SPACING, samples)


def _work(prepared: Prepared) -> Work:
    spec = prepared.scene.spec
    per_tile, shared = parameter_counts(spec)
    cameras = (view.camera for view in prepared.capture.train)
    return Work(
        parameters=per_tile,
        shared=shared,
        images=3 * sum(camera.width * camera.height for camera in cameras),
        sample_bytes=BYTES_A_SAMPLE,
        libraries=LIBRARY_BYTES,
        proposal=spec.sampling.method == "proposal",
    )


def samples_a_step(spec: SceneSpec) -> int:
    """Samples of the field in flight in a step, at most."""
    if spec.sampling.method == "occupancy":
        return spec.sampling.budget
    return spec.train.rays * (spec.sampling.samples + spec.partition.tiles)


def _same_scene(run: RunFolder, prepared: Prepared) -> None:
    """Refuse to resume a run with another scene; only how far and how fast to go may differ."""
    before = read_back(run)
    new = prepared.scene.spec
    # Which file holds the plan does not matter: the plans themselves are compared.
    cut = before.spec.partition.model_copy(update={"plan": new.partition.plan})
    free = {"steps": new.train.steps, "learning_rate": new.train.learning_rate}
    old_train = before.spec.train.model_copy(update=free)
    old = before.spec.model_copy(update={"train": old_train, "partition": cut})
    pieces = ("seed", "bounds", "partition", "field", "sampling", "train", "cameras")
    changed = [name for name in pieces if getattr(old, name) != getattr(new, name)]
    if changed or before.plan != prepared.plan:
        what = ", ".join(changed) or "the plan (the capture is another one)"
        raise UserError(
            f"{run.path}: cannot go on with {prepared.scene.path}: {what} differs from the run's "
            f"{run.scene.name}; only train.steps and train.learning_rate may. Start a new run, or "
            f"resume with {run.scene}."
        )


def _summary(run: RunFolder, say: Speaker) -> dict[str, Any]:
    folder = max(run.eval.glob("step-*"))
    summary: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    if summary["psnr"] is None:
        say("scores     none: no view is held out")
    else:
        ssim = "" if summary["ssim"] is None else f", SSIM {summary['ssim']:.4f}"
        say(
            f"scores     PSNR {summary['psnr']:.2f} dB{ssim} over {summary['images']} held-out "
            f"views, after {summary['step']:,} steps in {summary['train_seconds']:.0f} s"
        )
    peaks = ", ".join(f"{peak / 2**30:.2f}" for peak in summary["peak_memory_per_rank"])
    say(f"memory     {peaks} GiB at most, a rank")
    if run.metrics.exists() and (words := exchanged(run.metrics)):
        say(f"exchange   {words}")
    say(f"pictures   {folder}")
    return {**summary, "run": str(run.path), "pictures": str(folder)}
