"""The command line: fit, plan, eval, render; what is heavy is imported when a verb needs it."""

from __future__ import annotations

import json
import os
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
    resume: Annotated[Path | None, typer.Option(help="Run to go on with.")] = None,
    skip_missing: SkipMissing = False,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Times that all ranks start anew after one was lost.")
    ] = 3,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until a rank that does not answer is lost.")
    ] = 120,
    nnodes: Annotated[
        int, typer.Option(min=1, help="Machines; the same command is started on each.")
    ] = 1,
    rdzv_endpoint: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first machine, where all meet.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a scene, score its held-out views, and say where the pictures are.

    Example: nerfxl fit scenes/university4.yaml --set train.steps=500
    """
    from nerfxl import commands
    from nerfxl.crew import Launching

    overrides = list(set_ or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    overrides += [f"seed={seed}"] if seed is not None else []
    speaker = commands.Speaker(quiet=quiet or as_json)
    launching = Launching(nproc, nnodes, rdzv_endpoint, timeout, max_restarts)
    summary = commands.fit(
        scene, output_dir, nproc, device, overrides, resume, skip_missing, speaker, launching
    )
    _print_json(as_json, summary)


@app.command()
def plan(
    scene: SceneArg,
    output_dir: OutputDir = Path("runs"),
    nproc: Nproc = None,
    device: Device = "auto",
    set_: Sets = None,
    skip_missing: SkipMissing = False,
    as_json: AsJson = False,
) -> None:
    """Show how a scene will be cut and what it will cost, before anything is trained.

    Example: nerfxl plan scenes/university4.yaml --set partition.tiles=8
    """
    from nerfxl import commands

    speaker = commands.Speaker(quiet=as_json)
    found = commands.plan(scene, output_dir, nproc, device, set_ or [], skip_missing, speaker)
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

    speaker = commands.Speaker(quiet=quiet or as_json)
    _print_json(as_json, commands.evaluate(run, output_dir, nproc, device, speaker))


@app.command()
def render(
    run: RunArg = None,
    output_dir: OutputDir = Path("runs"),
    split: Annotated[
        Literal["test", "train", "all"], typer.Option(help="Which of the capture's views.")
    ] = "test",
    path: Annotated[
        Literal["orbit"] | None, typer.Option(help="A camera path in place of the views.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Pictures along the path.")] = 60,
    nproc: Nproc = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Render a run, colour and depth, without its photographs; the newest run if none is named.

    Example: nerfxl render --path orbit --frames 24
    """
    from nerfxl import commands

    speaker = commands.Speaker(quiet=quiet)
    commands.render(run, output_dir, path or split, frames, nproc, device, speaker)


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
