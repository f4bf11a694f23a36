"""Verbs that make runs: pose, plan, fit, resume, study."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nerfxl.cli.options import (
    AsJson,
    Device,
    Endpoint,
    MaxRestarts,
    Nnodes,
    Nproc,
    OutputDir,
    Quiet,
    RunArg,
    SceneArg,
    Sets,
    SkipMissing,
    Tensorboard,
    Timeout,
    app,
    print_json,
)
from nerfxl.errors import UserError


@app.command()
def pose(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs, or a video.")],
    out: Annotated[Path, typer.Option(help="Folder of the capture; new, or one to go on with.")],
    frames: Annotated[
        int | None,
        typer.Option(min=2, help="Of a video: about as many are taken; 200 if left out."),
    ] = None,
    matching: Annotated[
        Literal["auto", "sequential", "exhaustive", "spatial"],
        typer.Option(help="Which photographs to compare: neighbours in time, all, or by GPS."),
    ] = "auto",
    mapping: Annotated[
        Literal["auto", "usual", "forward"],
        typer.Option(help="forward: for motion along the line of sight; auto tries both."),
    ] = "auto",
    max_size: Annotated[
        int, typer.Option(min=64, help="Pixels of the longer edge at which features are sought.")
    ] = 1600,
    camera: Annotated[
        str, typer.Option(help="COLMAP's camera model, such as OPENCV or OPENCV_FISHEYE.")
    ] = "RADIAL",
    focal: Annotated[
        float | None, typer.Option(min=1, help="Focal length in pixels, if you know it; held.")
    ] = None,
    up: Annotated[
        Literal["auto", "cameras", "ground"], typer.Option(help="What says which way is up.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 42,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores if left out.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn photographs, or a video, into a capture with poses.

    Started again, it goes on. It writes a scene file, too, which plan and fit read.

    Example: nerfxl pose my-photographs --out my-capture
    """
    from nerfxl.posing.ask import Ask
    from nerfxl.posing.conduct import pose
    from nerfxl.progress import Speaker

    ask = Ask(photos, out, frames, matching, mapping, max_size, camera, focal, up, seed, threads)
    print_json(as_json, pose(ask, Speaker(quiet=quiet or as_json)))


@app.command()
def plan(
    scene: SceneArg,
    output_dir: OutputDir = Path("runs"),
    nproc: Nproc = None,
    device: Device = "auto",
    set_: Sets = None,
    skip_missing: SkipMissing = False,
    ranks: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Ranks to plan for, 1, 2, 4, ... to this.")
    ] = None,
    fabric: Annotated[
        Literal["nvlink", "infiniband", "ethernet", "loopback"] | None,
        typer.Option(help="What connects them; loopback, this machine, if left out."),
    ] = None,
    exchange: Annotated[
        Literal["gather", "owner", "samples"] | None,
        typer.Option(help="How they exchange; all three if left out."),
    ] = None,
    nproc_per_node: Annotated[int, typer.Option(min=1, help="Ranks on one machine.")] = 8,
    rays_per_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Rays a step for each; train.rays over all if left out."),
    ] = None,
    step_seconds: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Measured, of a step on one core or GPU: calibrates."),
    ] = None,
    balance: Annotated[
        Path | None, typer.Option(help="Run of the scene whose samples to cut by.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a scene will be cut, and what it will cost.

    Nothing is trained, and no photograph is decoded.

    Example: nerfxl plan scenes/university4.yaml --set partition.tiles=8
    """
    from nerfxl import planning
    from nerfxl.progress import Speaker

    of_ranks = {"--fabric": fabric, "--exchange": exchange, "--rays-per-rank": rays_per_rank}
    said = [name for name, value in of_ranks.items() if value is not None]
    said += ["--step-seconds"] if step_seconds is not None else []
    if ranks is None and said:
        raise UserError(f"{said[0]} describes ranks to plan for: say how many with --ranks.")
    speaker = Speaker(quiet=as_json)
    prospect = None
    if ranks is not None:
        prospect = planning.Prospect(
            ranks, fabric or "loopback", exchange, nproc_per_node, rays_per_rank, step_seconds
        )
    found = planning.plan(
        scene,
        output_dir,
        nproc,
        device,
        set_ or [],
        skip_missing,
        prospect,
        balance,
        speaker,
    )
    print_json(as_json, found)


@app.command()
def fit(
    scene: SceneArg,
    output_dir: OutputDir = Path("runs"),
    nproc: Nproc = None,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(help="In place of the scene's seed.")] = None,
    steps: Annotated[int | None, typer.Option(help="In place of train.steps.")] = None,
    set_: Sets = None,
    skip_missing: SkipMissing = False,
    max_restarts: MaxRestarts = 3,
    timeout: Timeout = 120,
    nnodes: Nnodes = 1,
    rdzv_endpoint: Endpoint = None,
    tensorboard: Tensorboard = False,
    view: Annotated[
        bool,
        typer.Option(
            "--view",
            help="Show it in a browser meanwhile, then until Ctrl-C (not with --quiet, --json).",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a scene, and score its held-out views.

    Its folder, report.html in it, is printed; view, render and export take it from there.

    Example: nerfxl fit scenes/university4.yaml --set train.steps=500
    """
    from nerfxl import commands
    from nerfxl.crew import Launching
    from nerfxl.progress import Speaker
    from nerfxl.viewing.extra import check_extra

    overrides = list(set_ or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    overrides += [f"seed={seed}"] if seed is not None else []
    speaker = Speaker(quiet=quiet or as_json)
    launching = Launching(nproc, nnodes, rdzv_endpoint, timeout, max_restarts)
    if view:
        check_extra()
    about = (scene, output_dir, device, overrides, skip_missing)
    summary = commands.fit(*about, speaker, launching, tensorboard, view)
    print_json(as_json, summary)


@app.command()
def resume(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    nproc: Nproc = None,
    device: Device = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value; train.steps and a few others.")
    ] = None,
    max_restarts: MaxRestarts = 3,
    timeout: Timeout = 120,
    nnodes: Nnodes = 1,
    rdzv_endpoint: Endpoint = None,
    tensorboard: Tensorboard = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run from its newest whole checkpoint.

    The newest run if none is named; on any number of processes.

    Example: nerfxl resume --set train.steps=20000
    """
    from nerfxl import commands
    from nerfxl.crew import Launching
    from nerfxl.progress import Speaker

    speaker = Speaker(quiet=quiet or as_json)
    launching = Launching(nproc, nnodes, rdzv_endpoint, timeout, max_restarts)
    summary = commands.resume(run, output_dir, device, set_ or [], speaker, launching, tensorboard)
    print_json(as_json, summary)


@app.command()
def study(
    kind: Annotated[
        Literal["scaling", "exchange", "overlap", "ddp", "cameras", "appearance"],
        typer.Argument(help="Which comparison."),
    ],
    scene: SceneArg,
    tiles: Annotated[
        str | None, typer.Option(help="Numbers of tiles, such as 1,2,4,8; as usual if left out.")
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(help="What is compared, such as joint,independent-3d:0.15 (an overlap)."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Such as 1,2,3: all fits once each; the scene's if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of each fit, for train.steps.")] = None,
    set_: Sets = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes of a fit, at most; as fits the device.")
    ] = None,
    device: Device = "auto",
    output_dir: OutputDir = Path("runs"),
    skip_missing: SkipMissing = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report again, and train nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare, as the paper does, on a scene of your own.

    Started again, it goes on.

    Example: nerfxl study scaling scenes/university4.yaml --tiles 1,2,4
    """
    from nerfxl.progress import Speaker
    from nerfxl.study.conduct import Ask, conduct

    overrides = list(set_ or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    command = shlex.join(["nerfxl", *sys.argv[1:]])
    about = (kind, scene, output_dir, tiles, modes, seeds, overrides, nproc, device)
    found = conduct(Ask(*about, skip_missing, report, command), Speaker(quiet=quiet or as_json))
    print_json(as_json, found)
