"""A viewer beside a training run: a process of its own, which cannot harm the run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nerfxl.processes.cluster import LAUNCHER
from nerfxl.progress import Speaker
from nerfxl.runs import RunFolder

NICE = 5  # the ranks come first: beside them, a viewer gets about a quarter of a core
FAREWELL_SECONDS = 5.0


@contextmanager
def viewer(run: RunFolder, say: Speaker) -> Iterator[None]:
    """Show a run in a browser while the block lasts, and then until Ctrl-C.

    It ends at once if the block fails, or if nobody is spoken to. What it complains of is in the
    run's logs.
    """
    log = run.logs / "view.log"
    with log.open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "nerfxl", "view", str(run.path)],
            env=os.environ | {LAUNCHER: str(os.getpid()), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C is for the run; the viewer is told when it is over
        )
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(process, say, over, log), daemon=True)
    teller.start()
    try:
        yield
        if not say.quiet and process.poll() is None:
            say("viewer     stays until Ctrl-C")
            with suppress(KeyboardInterrupt):
                process.wait()
    finally:
        over.set()
        _end(process)
        teller.join(FAREWELL_SECONDS)


def _tell(process: subprocess.Popen[bytes], say: Speaker, over: threading.Event, log: Path) -> None:
    """Pass on where it can be seen, and that it is gone if it is gone too early."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text.startswith(("viewer ", "warning ")) and not over.is_set():
                say(text)
    if not over.is_set():
        say(f"viewer     has ended, and the run goes on; why is in {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
