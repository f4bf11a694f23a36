"""The commands as functions, for programs and notebooks: load a scene, plan, fit, go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nerfxl import commands
from nerfxl.crew import Launching
from nerfxl.opened import Opened, open_run
from nerfxl.prepare import Prepared, prepare
from nerfxl.processes.cluster import device_kind
from nerfxl.progress import Speaker
from nerfxl.scene import file
from nerfxl.scene.file import Scene


def load_scene(path: Path | str, overrides: Sequence[str] = (), device: str = "auto") -> Scene:
    """Read a scene file, with the profile of a device; `spec` holds what it says.

    Parameters
    ----------
    overrides: `key=value` each, as after --set. device: 'auto', 'cpu' or 'cuda'.

    Raises
    ------
    UserError: with all that is wrong with the file or the overrides.
    """
    return file.load_scene(path, device=device_kind(device), overrides=overrides)


def plan(scene: Scene | Path | str, overrides: Sequence[str] = ()) -> Prepared:
    """Place a scene's capture in its world and cut it into tiles; decodes no image.

    Parameters
    ----------
    scene: a loaded scene, or its file, to which the overrides then apply.

    Raises
    ------
    UserError: the capture is not there or cannot be used.
    """
    return prepare(scene if isinstance(scene, Scene) else load_scene(scene, overrides))


def fit(
    scene: Path | str,
    overrides: Sequence[str] = (),
    output_dir: Path | str = "runs",
    device: str = "auto",
    nproc: int | None = None,
    quiet: bool = True,
) -> Opened:
    """Train a scene as `nerfxl fit` does, score its held-out views, and open the run.

    Parameters
    ----------
    scene: the scene file. nproc: processes, which are started as they are by the command; None: as
    many as suit the device. quiet: print nothing.

    Raises
    ------
    UserError: the scene cannot be fitted. RankFailedError: a process was lost.
    """
    say, launching = Speaker(quiet), Launching(nproc)
    asked = (Path(scene), Path(output_dir), device, overrides, False)
    made = commands.fit(*asked, say, launching)
    return open_run(made["run"], device=device)


def resume(
    run: Path | str,
    overrides: Sequence[str] = (),
    device: str = "auto",
    nproc: int | None = None,
    quiet: bool = True,
) -> Opened:
    """Go on with a run as `nerfxl resume` does, such as with 'train.steps=12000', and open it.

    Raises
    ------
    UserError: the run cannot go on. RankFailedError: a process was lost.
    """
    say, launching = Speaker(quiet), Launching(nproc)
    commands.resume(Path(run), Path(run).parent, device, overrides, say, launching)
    return open_run(run, device=device)
