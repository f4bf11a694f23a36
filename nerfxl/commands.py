"""What the command line's verbs do, in the order in which a user sees it happen."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nerfxl import places
from nerfxl.balance import Sampled, balanced
from nerfxl.balance import show as show_balance
from nerfxl.checkpoint import Origin, latest, step_of
from nerfxl.cluster import choose_device, cores, device_kind
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
from nerfxl.crew import Crew, Launching, hired, processes
from nerfxl.errors import UserError
from nerfxl.exchange import deal, resolved
from nerfxl.inspection import inspected, show_run
from nerfxl.launch import RankFailedError
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
from nerfxl.runs import RunFolder, make_folder, recording, write_atomic
from nerfxl.scene_file import choose_candidate, load_scene, save_scene
from nerfxl.spec import SceneSpec
from nerfxl.tally import exchanged
from nerfxl.worker import Job

PLANNING_RAYS = 16_384
LIBRARY_BYTES = 345 * 2**20  # measured: resident after the first kernel of a CPU process
FREE = (  # what may change while a run goes on
    "train.steps",
    "train.learning_rate",
    "train.checkpoint_every",
    "train.log_every",
    "train.eval_every",
    "exchange",
)
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
    device: str,
    overrides: Sequence[str],
    skip_missing: bool,
    say: Speaker,
    launching: Launching,
) -> dict[str, Any]:
    """Prepare, train, score; the summary that `eval/step-*/metrics.json` holds.

    Empty on a machine, or rank, that does not lead the others.
    """
    kind = device_kind(device)
    with hired(launching, kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return {}
        prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
        spec = prepared.scene.spec
        count = crew.share(spec.partition.tiles)
        _tell(prepared, kind, count, say)
        found = _report(prepared, count)
        sharing = _sharing(kind, crew.here)
        check_fit(found, available_memory(kind), f"this machine's {kind}", sharing)
        earlier = crew.earlier_run(output_dir / spec.name)
        begun = nullcontext(earlier) if earlier else _beginning(output_dir, spec.name)
        with begun as run, run.locked(say):
            if earlier is None:
                write(prepared, run)
            say(f"run        {run.path}")
            _train(crew, run, spec.train.steps, kind, say)
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


def resume(
    run_path: Path | None,
    output_dir: Path,
    device: str,
    overrides: Sequence[str],
    say: Speaker,
    launching: Launching,
) -> dict[str, Any]:
    """Go on with a run from its newest whole checkpoint, to its last step or to another.

    Empty on a machine, or rank, that does not lead the others.
    """
    kind = device_kind(device)
    with hired(launching, kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return {}
        run = _run(run_path, output_dir, say)
        with run.locked(say):
            _check_free(run, overrides)
            scene = load_scene(run.scene, device=kind, overrides=overrides)
            choose_candidate(scene)
            before = read_back(run)
            count = crew.share(len(before.plan))
            steps = scene.spec.train.steps
            done = step_of(latest(run.checkpoints, Origin.of(run, before.spec.name, before.plan)))
            if steps < done:
                raise UserError(
                    f"{run.path} has done {done} steps, and train.steps is {steps}: ask for more, "
                    f"by --set train.steps={2 * done}."
                )
            save_scene(scene, run.scene)
            say(f"going on   from step {done:,} to {steps:,}")
            say(f"device     {kind}, {count} process{'es' if count > 1 else ''}")
            _train(crew, run, steps, kind, say, resume=True)
    return _summary(run, say)


def inspect(run_path: Path | None, output_dir: Path, say: Speaker) -> dict[str, Any]:
    """Read a run's state and every byte of its checkpoints; `fault` says if the newest is bad."""
    found = inspected(_run(run_path, output_dir, say))
    show_run(found, say.console)
    return found.as_json()


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
    if places.here().size > 1:
        raise UserError(
            f"plan needs one process, and {places.here().starter} has started "
            f"{places.here().size}: start it by its own name."
        )
    elsewhere = prospect is not None and prospect.fabric != "loopback"
    # Plans for other machines: none of their GPUs need be here.
    kind = "cuda" if elsewhere and device in ("auto", "cuda") else device_kind(device)
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
    make_folder(folder)
    write_atomic(folder / "plan.json", prepared.plan.to_json())
    write_atomic(folder / TRANSFORM, prepared.world.to_json())
    capture = prepared.capture
    cameras = prepared.world.points(capture.poses()[:, :, 3])
    points = prepared.world.points(capture.points)
    target = folder / "plan.png"
    picture(prepared.plan, cameras, points, capture.point_colours, target, prepared.world.scale)
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
    """Score the newest checkpoint of a run; empty on a rank that does not lead the others."""
    kind = device_kind(device)
    with hired(Launching(nproc), kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return {}
        run = _run(run_path, output_dir, say)
        crew.share(len(read_back(run).plan))
        job = Job("evaluate", str(run.path.absolute()), kind)
        crew.work(crew.announce(job, run), run, say)
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
    kind = device_kind(device)
    with hired(Launching(nproc), kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return
        run = _run(run_path, output_dir, say)
        crew.share(len(read_back(run).plan))
        start = time.monotonic()
        job = Job("render", str(run.path.absolute()), kind, views=views, frames=frames)
        crew.work(crew.announce(job, run), run, say)
    say(f"pictures   {run.renders / views}, in {time.monotonic() - start:.0f} s")


def _sharing(kind: str, count: int) -> int:
    return count if kind == "cpu" else 1


@contextmanager
def _beginning(output_dir: Path, name: str) -> Iterator[RunFolder]:
    """Begin a run; what the user can mend, found before the first step, leaves nothing of it."""
    new = [folder for folder in (output_dir / name, output_dir) if not folder.exists()]
    run = RunFolder.create(output_dir, name)
    try:
        yield run
    except RankFailedError:
        raise
    except UserError:
        if not run.metrics.exists() and not any(run.checkpoints.iterdir()):
            shutil.rmtree(run.path)
            for folder in new:
                with suppress(OSError):  # another run has begun in it meanwhile
                    folder.rmdir()
        raise


def _train(
    crew: Crew, run: RunFolder, steps: int, kind: str, say: Speaker, resume: bool = False
) -> None:
    """Train with a crew, show how it goes, and record how it ends."""
    run.update(steps=steps)
    if kind == "cpu":
        say("starting   the first run compiles the kernels, about half a minute")
    where = str(run.path.absolute())
    job = Job("fit", where, kind, resume=resume, timeout=crew.launching.timeout)
    with following(run.metrics, steps, say.console, say.quiet), recording(run):
        crew.work(crew.announce(job, run), run, say)


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


def _check_free(run: RunFolder, overrides: Sequence[str]) -> None:
    """Refuse to change more of a run than how far, how fast and how often."""
    for override in overrides:
        key = override.partition("=")[0]
        if key not in FREE:
            raise UserError(
                f"--set {override}: {key} cannot change while {run.path} goes on, only "
                f"{', '.join(FREE)} may; start a new run by 'nerfxl fit {run.scene}'."
            )


def _summary(run: RunFolder, say: Speaker) -> dict[str, Any]:
    # The newest, which is not the highest step if a damaged checkpoint was stepped over.
    file = max(run.eval.glob("step-*/metrics.json"), key=lambda file: file.stat().st_mtime_ns)
    summary: dict[str, Any] = json.loads(file.read_text())
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
    say(f"pictures   {file.parent}")
    return {**summary, "run": str(run.path), "pictures": str(file.parent)}
