"""The verb that hands over: export, with its three kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nerfxl.cli.options import (
    AsJson,
    Device,
    Memory,
    OutputDir,
    Overwrite,
    Quiet,
    RunArg,
    To,
    app,
    print_json,
)

export = typer.Typer(
    help="Hand a run over: points, a mesh, or its cameras.\n\n"
    "In the coordinates and the units of the capture, GPS and map grids kept.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(export, name="export")


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
    print_json(as_json, export_points(wish, points, sieve, outside, normals, say))


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
    print_json(as_json, export_mesh(wish, asked, Speaker(quiet=quiet or as_json)))


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
    print_json(as_json, found)
