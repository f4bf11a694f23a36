"""What the command line's verbs do, in the order in which a user sees it happen."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nerfxl import events
from nerfxl.beside import viewer
from nerfxl.crew import Crew, Launching, hired
from nerfxl.ensemble import most_ranks
from nerfxl.errors import UserError
from nerfxl.filming.film import check_film
from nerfxl.filming.shooting import SHOOTING, Wish, arranged
from nerfxl.inspection import inspected, show_run
from nerfxl.opened import learned_shots
from nerfxl.plan_report import as_bytes
from nerfxl.planning import costs, refuse_what_will_not_fit, tell
from nerfxl.prepare import prepare, read_back, write
from nerfxl.processes.cluster import device_kind
from nerfxl.processes.launch import RankFailedError
from nerfxl.progress import Speaker, counting, following, spoken
from nerfxl.provenance import note_session
from nerfxl.report.page import write as write_report
from nerfxl.runs import RunFolder, make_folder, recording, write_atomic
from nerfxl.scene.file import choose_candidate, load_scene, save_scene
from nerfxl.storage.checkpoint import Origin, latest, step_of
from nerfxl.tally import exchanged
from nerfxl.worker import Job, saved_step

FREE = (  # what may change while a run goes on
    "train.steps",
    "train.learning_rate",
    "train.checkpoint_every",
    "train.log_every",
    "train.eval_every",
    "exchange",
)


def fit(
    scene_path: Path,
    output_dir: Path,
    device: str,
    overrides: Sequence[str],
    skip_missing: bool,
    say: Speaker,
    launching: Launching,
    tensorboard: bool = False,
    view: bool = False,
) -> dict[str, Any]:
    """Prepare, train, score; the summary that `eval/step-*/metrics.json` holds.

    Empty on a machine, or rank, that does not lead the others. view: show the run in a browser
    meanwhile, and until Ctrl-C once it has ended.
    """
    if tensorboard:
        events.check_installed()
    kind = device_kind(device)
    with ExitStack() as beside, hired(launching, kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return {}
        prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
        spec = prepared.scene.spec
        count = crew.share(most_ranks(spec))
        tell(prepared, kind, count, say)
        refuse_what_will_not_fit(costs(prepared, count), kind, crew.here)
        earlier = crew.earlier_run(output_dir / spec.name)
        begun = nullcontext(earlier) if earlier else _beginning(output_dir, spec.name)
        with begun as run, run.locked(say):
            if earlier is None:
                write(prepared, run)
            say(f"run        {run.path}")
            if view:
                beside.enter_context(viewer(run, say))
            _train(crew, run, spec.train.steps, kind, count, say, tensorboard)
        return _summary(run, say)


def resume(
    run_path: Path | None,
    output_dir: Path,
    device: str,
    overrides: Sequence[str],
    say: Speaker,
    launching: Launching,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Go on with a run from its newest whole checkpoint, to its last step or to another.

    Empty on a machine, or rank, that does not lead the others.
    """
    if tensorboard:
        events.check_installed()
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
            count = crew.share(most_ranks(before.spec))
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
            _train(crew, run, steps, kind, count, say, tensorboard, done)
    return _summary(run, say)


def inspect(run_path: Path | None, output_dir: Path, say: Speaker) -> dict[str, Any]:
    """Read a run's state and every byte of its checkpoints; `fault` says if the newest is bad."""
    found = inspected(_run(run_path, output_dir, say))
    show_run(found, say.console)
    return found.as_json()


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
        crew.share(most_ranks(read_back(run).spec))
        job = Job("evaluate", str(run.path.absolute()), kind)
        crew.work(crew.announce(job, run), run, say)
    return _summary(run, say)


def report(
    run_path: Path | None, output_dir: Path, tensorboard: bool, say: Speaker
) -> dict[str, Any]:
    """Write a run's page anew, from what its folder holds, and TensorBoard's files if asked to."""
    if tensorboard:
        events.check_installed()
    run = _run(run_path, output_dir, say)
    file = _report(run, say)
    found = {"run": str(run.path), "report": str(file), "bytes": file.stat().st_size}
    if tensorboard:
        found["tensorboard"] = str(events.rewrite(run))
        say(f"tensorboard {run.tensorboard}: see it with tensorboard --logdir {output_dir}")
    return found


def render(
    run_path: Path | None,
    output_dir: Path,
    wish: Wish,
    memory: float | None,
    nproc: int | None,
    device: str,
    say: Speaker,
) -> dict[str, Any]:
    """Render the newest checkpoint of a run; where the pictures are, and how many."""
    kind = device_kind(device)
    with hired(Launching(nproc), kind) as crew:
        if not crew.leads:
            crew.follow(say)
            return {}
        run = _run(run_path, output_dir, say)
        scene = read_back(run)
        shooting = arranged(wish, scene, learned_shots(run, scene))
        if shooting.fps:
            check_film()
        count = crew.share(most_ranks(scene.spec))
        say(f"device     {kind}, {count} process{'es' if count > 1 else ''}")
        folder, start = run.renders / wish.name, time.monotonic()
        make_folder(folder)
        write_atomic(folder / SHOOTING, shooting.to_json())
        job = Job("render", str(run.path.absolute()), kind, into=wish.name, memory=memory)
        last = [folder / shooting.files(frame)[-1] for frame in shooting.frames]
        done = partial(_there, last)
        with counting(done, len(last), "picture", say.console, say.quiet):
            crew.work(crew.announce(job, run), run, say)
    seconds = time.monotonic() - start
    say(f"pictures   {folder}, {len(last)} in {spoken(seconds)}")
    films = sorted(str(file) for file in folder.glob("*.mp4")) if shooting.fps else []
    for film in films:
        say(f"film       {film}")
    found = {"run": str(run.path), "folder": str(folder), "pictures": len(last), "films": films}
    return {**found, "seconds": round(seconds, 3)}


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
    crew: Crew,
    run: RunFolder,
    steps: int,
    kind: str,
    count: int,
    say: Speaker,
    tensorboard: bool,
    done: int | None = None,
) -> None:
    """Train with a crew, show how it goes, and record how it ends.

    count: processes. done: the step of the checkpoint to go on from; None: from the start.
    """
    run.update(steps=steps)
    begun = done if done is not None else saved_step(run) or 0  # torchrun may start it anew
    note_session(run, begun, count, kind)
    if kind == "cpu":
        say("starting   the first run compiles the kernels, about half a minute")
    where = str(run.path.absolute())
    job = Job("fit", where, kind, resume=done is not None, timeout=crew.launching.timeout)
    watched = events.following(run) if tensorboard else nullcontext()
    with following(run.metrics, steps, say.console, say.quiet), watched, recording(run):
        crew.work(crew.announce(job, run), run, say)


def _run(path: Path | None, output_dir: Path, say: Speaker) -> RunFolder:
    run = RunFolder.newest(output_dir) if path is None else RunFolder.open(path)
    say(f"run        {run.path}")
    return run


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
    file = run.scored()[0]
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
    found = {**summary, "run": str(run.path), "pictures": str(file.parent)}
    try:
        return {**found, "report": str(_report(run, say))}
    except UserError as error:  # what was asked for is done
        sys.stderr.write(f"nerfxl: {error}\n")
        return {**found, "report": None}


def _report(run: RunFolder, say: Speaker) -> Path:
    file = write_report(run)
    say(f"report     {file} ({as_bytes(file.stat().st_size)})")
    return file


def _there(files: Sequence[Path]) -> int:
    """How many of the files exist."""
    return sum(file.exists() for file in files)
