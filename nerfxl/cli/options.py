"""The program, and what its verbs are asked in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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


def print_json(wanted: bool, value: dict[str, Any]) -> None:
    """Print a verb's result, where it was asked for."""
    if wanted and value:
        typer.echo(json.dumps(value, indent=1))
