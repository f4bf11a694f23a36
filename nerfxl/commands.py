"""What the command line's verbs do, in the order in which a user sees it happen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nerfxl import places
from nerfxl.cluster import device_kind
from nerfxl.crew import Launching, hired, processes
from nerfxl.errors import UserError
from nerfxl.model import parameter_counts
from nerfxl.plan_picture import picture
from nerfxl.plan_report import PlanReport, available_memory, check_fit, report, show
from nerfxl.prepare import Prepared, near_plane, prepare, read_back, some_rays, write
from nerfxl.progress import following
from nerfxl.render import FAR
from nerfxl.runs import RunFolder, recording, write_atomic
from nerfxl.scene_file import load_scene, save_scene
from nerfxl.spec import SceneSpec
from nerfxl.worker import Job

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
    launching: Launching | None = None,
) -> dict[str, Any]:
    """Prepare, train, score; the summary that `eval/step-*/metrics.json` holds.

    Empty on a machine, or rank, that does not lead the others.
    """
    kind = device_kind(device)
    launching = replace(launching or Launching(), nproc=nproc)
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
        old = RunFolder.open(resume) if resume else crew.earlier_run(output_dir / spec.name)
        run = old or RunFolder.create(output_dir, spec.name)
        with run.locked(say):
            if old is None:
                write(prepared, run)
            else:
                _same_scene(run, prepared)
                save_scene(prepared.scene, run.scene)
            run.update(steps=spec.train.steps)
            say(f"run        {run.path}")
            if kind == "cpu":
                say("starting   the first run compiles the kernels, about half a minute")
            where = str(run.path.absolute())
            job = Job("fit", where, kind, resume=resume is not None, timeout=launching.timeout)
            with following(run.metrics, spec.train.steps, say.console, say.quiet), recording(run):
                crew.work(crew.announce(job, run), run, say)
    return _summary(run, say)


def plan(
    scene_path: Path,
    output_dir: Path,
    nproc: int | None,
    device: str,
    overrides: Sequence[str],
    skip_missing: bool,
    say: Speaker,
) -> dict[str, Any]:
    """Cut the scene, print what it will cost, and draw it; refuses what will not fit."""
    if places.here().size > 1:
        raise UserError(
            f"plan needs one process, and {places.here().starter} has started "
            f"{places.here().size}: start it by its own name."
        )
    kind = device_kind(device)
    prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
    spec = prepared.scene.spec
    count = processes(nproc, kind, spec.partition.tiles)
    _tell(prepared, kind, count, say)
    found = _report(prepared, count)
    show(found, say.console)
    folder = output_dir / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "plan.json", prepared.plan.to_json())
    capture = prepared.capture
    cameras = prepared.world.points(capture.poses()[:, :, 3])
    points = prepared.world.points(capture.points)
    target = folder / "plan.png"
    picture(prepared.plan, cameras, points, capture.point_colours, target, prepared.world.scale)
    say(f"written    {folder / 'plan.json'} and {target}")
    check_fit(found, available_memory(kind), f"this machine's {kind}", _sharing(kind, count))
    return {**found.as_json(), "plan": str(folder / "plan.json"), "picture": str(target)}


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


def _report(prepared: Prepared, ranks: int) -> PlanReport:
    spec, capture = prepared.scene.spec, prepared.capture
    per_tile, shared = parameter_counts(spec)
    cameras = (view.camera for view in capture.train)
    return report(
        prepared.plan,
        prepared.points,
        some_rays(capture, prepared.world, PLANNING_RAYS, spec.seed),
        near=near_plane(spec, prepared.world, prepared.plan.open),
        far=FAR,
        scale=prepared.world.scale,
        parameters_per_tile=per_tile,
        shared_parameters=shared,
        image_bytes=3 * sum(camera.width * camera.height for camera in cameras),
        sample_budget=samples_a_step(spec),
        bytes_per_sample=BYTES_A_SAMPLE,
        ranks=ranks,
        library_bytes=LIBRARY_BYTES,
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
    free = {"steps": new.train.steps, "learning_rate": new.train.learning_rate}
    old_train = before.spec.train.model_copy(update=free)
    old = before.spec.model_copy(update={"train": old_train})
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
    say(f"pictures   {folder}")
    return {**summary, "run": str(run.path), "pictures": str(folder)}
