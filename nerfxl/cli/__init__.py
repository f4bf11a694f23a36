"""The command line, a function a verb; what is heavy is imported when a verb needs it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from nerfxl.cli import fitting, handing, looking, telling  # in the order of the help
from nerfxl.cli.options import app
from nerfxl.errors import UserError
from nerfxl.processes import places
from nerfxl.version import __version__

__all__ = ["app", "fitting", "handing", "looking", "main", "telling"]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors are one sentence on stderr.

    Exit codes: 2 for what the user can mend, 1 for a process that died, 130 after Ctrl-C.
    """
    from nerfxl.processes.launch import RankFailedError

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
