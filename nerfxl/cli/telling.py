"""Verbs that tell what there is: list, inspect, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nerfxl.cli.options import AsJson, OutputDir, RunArg, app, print_json
from nerfxl.errors import UserError


@app.command(name="list")
def list_(
    output_dir: OutputDir = Path("runs"),
    studies: Annotated[bool, typer.Option("--studies", help="The fits of studies, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs: how far they came, how good they are.

    Also how much room they take, and what is wrong with those that are damaged.

    Example: nerfxl list --output-dir /data/runs
    """
    from nerfxl.listing import listed
    from nerfxl.progress import Speaker

    print_json(as_json, listed(output_dir, studies, Speaker(quiet=as_json)))


@app.command()
def inspect(
    run: RunArg = None, output_dir: OutputDir = Path("runs"), as_json: AsJson = False
) -> None:
    """Show a run's state, and verify its checkpoints.

    Every byte is read. Exit code 2 if the newest is not whole.

    Example: nerfxl inspect runs/university4/2026-01-31_12-00-00
    """
    from nerfxl import commands
    from nerfxl.progress import Speaker

    found = commands.inspect(run, output_dir, Speaker(quiet=as_json))
    print_json(as_json, found)
    if found["fault"]:
        raise UserError(found["fault"])


@app.command()
def doctor(output_dir: OutputDir = Path("runs"), as_json: AsJson = False) -> None:
    """Look whether a fit would work here, and what is missing.

    Says how to get what is missing, and for what it is. Exit code 2 if a fit would not work.

    Example: nerfxl doctor --output-dir /data/runs
    """
    from nerfxl.doctor import examine
    from nerfxl.progress import Speaker

    found = examine(output_dir, Speaker(quiet=as_json))
    print_json(as_json, found)
    if found["fault"]:
        raise UserError(found["fault"])
