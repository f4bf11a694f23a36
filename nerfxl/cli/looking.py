"""Verbs that make something to look at: view, render, eval, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from nerfxl.cli.options import (
    AsJson,
    Device,
    Memory,
    Nproc,
    OutputDir,
    Quiet,
    RunArg,
    app,
    print_json,
)
from nerfxl.errors import UserError


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
    """Look around a run in a browser, also while it is trained.

    The newest run if none is named.

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
    """Render a run: the views of its capture, or along a path.

    Pictures, or a film; photographs are not needed. Stopped, it goes on where it was.

    Example: nerfxl render --path orbit --frames 90 --video
    """
    from nerfxl import commands
    from nerfxl.filming.shooting import Wish
    from nerfxl.progress import Speaker

    if fps is not None and not video:
        raise UserError("--fps is of a film: ask for one with --video.")
    wish = Wish(split, path, frames, _size(size), fov, show, video, fps, look)
    speaker = Speaker(quiet=quiet or as_json)
    made = commands.render(run, output_dir, wish, memory, nproc, device, speaker)
    print_json(as_json, made)


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
    print_json(as_json, commands.evaluate(run, output_dir, nproc, device, speaker))


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
    """Write a run's report.html anew: pictures, curves, settings.

    Also of a run that has failed. The page opens from disk, in any browser, without a network.

    Example: nerfxl report runs/university4/2026-01-31_12-00-00
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker

    found = commands.report(run, output_dir, tensorboard, Speaker(quiet=quiet or as_json))
    print_json(as_json, found)
