"""The command line, a function a verb; what is heavy is imported when a verb needs it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nerfxl import __version__, places
from nerfxl.errors import UserError

app = typer.Typer(
    help="Neural radiance fields larger than one GPU: disjoint tiles, trained jointly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

export = typer.Typer(
    help="Hand a run over: a point cloud, a mesh, or its cameras, in the capture's coordinates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(export, name="export")

SceneArg = Annotated[Path, typer.Argument(help="Scene file, such as scenes/university4.yaml.")]
RunArg = Annotated[Path | None, typer.Argument(help="Run folder; the newest run if left out.")]
OutputDir = Annotated[Path, typer.Option(help="Where the runs are.")]
Nproc = Annotated[
    int | None, typer.Option(min=1, help="Processes; as fits the device if left out.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value over the scene file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
MaxRestarts = Annotated[
    int, typer.Option(min=0, help="Times that all ranks start anew after one was lost.")
]
Timeout = Annotated[
    float, typer.Option(min=1, help="Seconds until a rank that does not answer is lost.")
]
Nnodes = Annotated[int, typer.Option(min=1, help="Machines; start the same command on each.")]
Endpoint = Annotated[
    str | None, typer.Option(help="HOST:PORT of the first machine, where all meet.")
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the run's tensorboard/ as it goes, too.")
]
Memory = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GiB for hash tables, a process; tiles that do not fit are read as they are "
        "seen. Half of what is free if left out.",
    ),
]
To = Annotated[
    Path | None,
    typer.Option(help="File, .ply or .glb; in exports/ of the run's folder if left out."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SkipMissing = Annotated[bool, typer.Option(help="Go on without photographs that are missing.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


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
    """Train a scene, score its held-out views, and say where the pictures are.

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
    _print_json(as_json, summary)


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
    """Go on with a run from its newest whole checkpoint, on any number of processes.

    Example: nerfxl resume --set train.steps=20000
    """
    from nerfxl import commands
    from nerfxl.crew import Launching
    from nerfxl.progress import Speaker

    speaker = Speaker(quiet=quiet or as_json)
    launching = Launching(nproc, nnodes, rdzv_endpoint, timeout, max_restarts)
    summary = commands.resume(run, output_dir, device, set_ or [], speaker, launching, tensorboard)
    _print_json(as_json, summary)


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
    """Show how a scene will be cut and what it will cost, before anything is trained.

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
    _print_json(as_json, found)


@app.command(name="eval")
def evaluate(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    nproc: Nproc = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a run's newest checkpoint on the held-out views.

    Example: nerfxl eval runs/university4/2026-01-31_12-00-00
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker

    speaker = Speaker(quiet=quiet or as_json)
    _print_json(as_json, commands.evaluate(run, output_dir, nproc, device, speaker))


@app.command()
def render(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    split: Annotated[
        Literal["test", "train", "all"], typer.Option(help="Which of the capture's views.")
    ] = "test",
    path: Annotated[
        str | None,
        typer.Option(
            help="In place of the views: orbit, spiral, flythrough (along all cameras), "
            "interpolate (through those of --split), or a file, NAME.json."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Pictures along the path; 60, or as its file says.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT, pixels, such as 1280x720.")
    ] = None,
    fov: Annotated[
        float | None, typer.Option(min=1, max=179, help="Vertical field of view, degrees.")
    ] = None,
    show: Annotated[
        str,
        typer.Option(
            help="What of each: colour, depth, opacity, normals, tiles, spread (of the depth), "
            "map (depth in 16 bits); comma separated."
        ),
    ] = "colour,depth",
    video: Annotated[bool, typer.Option("--video", help="A film of them, too: MP4.")] = False,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=240, help="Of the film; 30, or as the path's file.")
    ] = None,
    look: Annotated[
        str | None, typer.Option(help="Photograph whose appearance and exposure all take.")
    ] = None,
    memory: Memory = None,
    nproc: Nproc = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Render a run without its photographs: its views, or along a path; pictures or a film.

    Stopped, it goes on where it was. Example: nerfxl render --path orbit --frames 90 --video
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker
    from nerfxl.shooting import Wish

    if fps is not None and not video:
        raise UserError("--fps is of a film: ask for one with --video.")
    wish = Wish(split, path, frames, _size(size), fov, show, video, fps, look)
    speaker = Speaker(quiet=quiet or as_json)
    made = commands.render(run, output_dir, wish, memory, nproc, device, speaker)
    _print_json(as_json, made)


@app.command()
def view(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    host: Annotated[
        str, typer.Option(help="Address to serve; others than this machine's own let others in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The next free one if it is taken; 0 for any.")
    ] = 8080,
    open_: Annotated[bool, typer.Option("--open", help="Start a browser there.")] = False,
    memory: Memory = None,
    device: Device = "auto",
) -> None:
    """Look around a run in a browser, also while it is trained; the newest run if none is named.

    Example: nerfxl view --open
    """
    # The browser wants the same cores. Threads that wait for each other by spinning were seen to
    # take ten times as long beside it; libgomp reads this once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from nerfxl.progress import Speaker
    from nerfxl.viewing import verb

    place = verb.Place(host, port, open_)
    verb.view(run, output_dir, device, memory, place, Speaker(quiet=False))


@app.command()
def inspect(
    run: RunArg = None, output_dir: OutputDir = Path("runs"), as_json: AsJson = False
) -> None:
    """Show a run's state and verify its checkpoints; exit code 2 if the newest is not whole.

    Example: nerfxl inspect runs/university4/2026-01-31_12-00-00
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker

    found = commands.inspect(run, output_dir, Speaker(quiet=as_json))
    _print_json(as_json, found)
    if found["fault"]:
        raise UserError(found["fault"])


@export.command()
def points(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    to: To = None,
    points: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    normals: Annotated[bool, typer.Option("--normals", help="Write normals, too.")] = False,
    min_opacity: Annotated[
        float, typer.Option(min=0.5, max=1, help="Of a ray that ends at something.")
    ] = 0.9,
    max_spread: Annotated[
        float,
        typer.Option(min=0, help="How uncertain the depth may be, as a share of it."),
    ] = 0.05,
    outside: Annotated[
        bool, typer.Option("--outside", help="Points beyond the box of the scene, too.")
    ] = False,
    overwrite: Overwrite = False,
    memory: Memory = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a coloured cloud of points.

    They lie where rays of the training views end, in the coordinates of the capture.
    Example: nerfxl export points --to cloud.ply
    """
    from nerfxl.exporting.conduct import Wish, export_points
    from nerfxl.progress import Speaker

    wish = Wish(run, output_dir, to, overwrite, device, memory)
    sieve, say = (min_opacity, max_spread), Speaker(quiet=quiet or as_json)
    _print_json(as_json, export_points(wish, points, sieve, outside, normals, say))


@export.command()
def mesh(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    to: To = None,
    resolution: Annotated[
        int, typer.Option(min=1, help="Cells along the longest edge of the box of the scene.")
    ] = 512,
    level: Annotated[
        float | None,
        typer.Option(min=1e-12, help="Density of the surface, per unit; chosen if left out."),
    ] = None,
    smooth: Annotated[int, typer.Option(min=0, help="Rounds of smoothing.")] = 10,
    smallest: Annotated[
        float,
        typer.Option(min=0, help="Leave out smaller pieces; a share of the box's longest edge."),
    ] = 0.02,
    keep_hidden: Annotated[
        bool, typer.Option("--keep-hidden", help="Keep what no training view sees, too.")
    ] = False,
    overwrite: Overwrite = False,
    memory: Memory = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a coloured mesh.

    It is the surface at which density passes a level, in the coordinates of the capture.
    Example: nerfxl export mesh --to campus.glb
    """
    from nerfxl.exporting.conduct import MeshWish, Wish, export_mesh
    from nerfxl.progress import Speaker

    wish = Wish(run, output_dir, to, overwrite, device, memory)
    asked = MeshWish(resolution, level, smooth, smallest, keep_hidden)
    _print_json(as_json, export_mesh(wish, asked, Speaker(quiet=quiet or as_json)))


@export.command()
def cameras(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    to: Annotated[
        Path | None, typer.Option(help="Folder; exports/cameras in the run's if left out.")
    ] = None,
    format_: Annotated[
        Literal["both", "colmap", "transforms"], typer.Option("--format", help="What to write.")
    ] = "both",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the cameras, as the run has refined them.

    A COLMAP model and a transforms.json, with the photographs linked beside them.
    Example: nerfxl export cameras --to refined
    """
    from nerfxl.exporting.conduct import Wish, export_cameras
    from nerfxl.progress import Speaker

    wish = Wish(run, output_dir, to, overwrite, "cpu", None)
    found = export_cameras(wish, format_, Speaker(quiet=quiet or as_json))
    _print_json(as_json, found)


@app.command()
def report(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the run's tensorboard/ anew, too.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's report.html anew: pictures, curves, settings; also of one that has failed.

    The page opens from disk, in any browser, without a network.

    Example: nerfxl report runs/university4/2026-01-31_12-00-00
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker

    found = commands.report(run, output_dir, tensorboard, Speaker(quiet=quiet or as_json))
    _print_json(as_json, found)


@app.command(name="list")
def list_(
    output_dir: OutputDir = Path("runs"),
    studies: Annotated[bool, typer.Option("--studies", help="The fits of studies, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs: how far they came, how good they are, how much room they take.

    Example: nerfxl list --output-dir /data/runs
    """
    from nerfxl.listing import listed
    from nerfxl.progress import Speaker

    _print_json(as_json, listed(output_dir, studies, Speaker(quiet=as_json)))


@app.command()
def doctor(output_dir: OutputDir = Path("runs"), as_json: AsJson = False) -> None:
    """Look whether a fit would work here, and what is missing for what; exit code 2 if not.

    Example: nerfxl doctor --output-dir /data/runs
    """
    from nerfxl.doctor import examine
    from nerfxl.progress import Speaker

    found = examine(output_dir, Speaker(quiet=as_json))
    _print_json(as_json, found)
    if found["fault"]:
        raise UserError(found["fault"])


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
    """Compare, as the paper does, on a scene of your own; started again, it goes on.

    Example: nerfxl study scaling scenes/university4.yaml --tiles 1,2,4 --seeds 1,2,3
    """
    from nerfxl.progress import Speaker
    from nerfxl.study.conduct import Ask, conduct

    overrides = list(set_ or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    command = shlex.join(["nerfxl", *sys.argv[1:]])
    about = (kind, scene, output_dir, tiles, modes, seeds, overrides, nproc, device)
    found = conduct(Ask(*about, skip_missing, report, command), Speaker(quiet=quiet or as_json))
    _print_json(as_json, found)


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
    """Turn photographs, or a video, into a capture that plan and fit read; started again, go on.

    Example: nerfxl pose my-photographs --out my-capture
    """
    from nerfxl.posing.ask import Ask
    from nerfxl.posing.conduct import pose
    from nerfxl.progress import Speaker

    ask = Ask(photos, out, frames, matching, mapping, max_size, camera, focal, up, seed, threads)
    _print_json(as_json, pose(ask, Speaker(quiet=quiet or as_json)))


def _size(text: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT, as two numbers.

    >>> _size("1280x720")
    (1280, 720)
    """
    if text is None:
        return None
    width, mark, height = text.lower().partition("x")
    if not (mark and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--size {text}: give width and height in pixels, such as 1280x720.")
    return int(width), int(height)


def _print_json(wanted: bool, value: dict[str, Any]) -> None:
    if wanted and value:
        typer.echo(json.dumps(value, indent=1))


def main() -> None:
    """Run the command line; errors are one sentence on stderr.

    Exit codes: 2 for what the user can mend, 1 for a process that died, 130 after Ctrl-C.
    """
    from nerfxl.launch import RankFailedError

    # A sentence that names a lost rank is worth more than torch's backtraces of its sockets.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
        return
    except RankFailedError as error:
        typer.echo(f"nerfxl: {error}", err=True)
        code = 2 if error.exit_code == 2 else 1
    except UserError as error:
        typer.echo(f"nerfxl: {error}", err=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of our output went away: `nerfxl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception:
        if not _is_rank():
            raise
        traceback.print_exc()
        code = 1
    if _is_rank():
        # The group that an error left behind has threads, which may abort an orderly end, and that
        # would hide the cause from torchrun and srun.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_rank() -> bool:
    """Whether torchrun or srun started this process."""
    try:
        return places.here().is_rank
    except UserError:
        return False
