"""What every rank runs: `python -m nerfxl.worker JOB.json`, started by nerfxl or by torchrun."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nerfxl.errors import UserError
from nerfxl.processes import places
from nerfxl.runs import RunFolder, write_atomic

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from nerfxl.processes.ranks import Ranks


@dataclass(frozen=True)
class Job:
    """One collective task on one run; a small JSON file, read by every rank.

    resume: go on from the newest checkpoint; ranks that were started anew do so by themselves.
    timeout: seconds that a collective waits for the slowest rank.
    starter: which launcher of the user's own asked for it, so that a restart finds its run.
    into: folder of a rendering, which says what is rendered. memory: GiB, of its hash tables.
    """

    task: Literal["fit", "evaluate", "render"]
    run: str
    device: str
    resume: bool = False
    into: str = ""
    memory: float | None = None
    timeout: float = 120.0
    starter: str = ""

    def write(self, path: Path) -> Path:
        """Store the job for the ranks to read."""
        write_atomic(path, json.dumps(asdict(self)))
        return path


def work(job: Job, store: Store | None = None) -> int:
    """Do a job as one of the ranks; the exit code.

    store: through which this process has met the other ranks, if it has.

    Raises
    ------
    UserError: as the task does.
    PeerLostError: another rank is gone.
    """
    from nerfxl.processes.cluster import joined
    from nerfxl.train import StoppedError, fit

    run = RunFolder.open(Path(job.run))
    with joined(job.device, job.timeout, store) as ranks:
        try:
            if job.task == "fit":
                restarted = places.here().restarts > 0 and saved_step(run) is not None
                fit(run, ranks, ranks.any(job.resume or restarted))
            else:
                _from_checkpoint(job, run, ranks)
        except StoppedError as stopped:
            return 128 + stopped.signal
    return 0


def saved_step(run: RunFolder) -> int | None:
    """The step of a run's newest complete checkpoint, if it has one."""
    from nerfxl.storage.checkpoint import latest, step_of

    try:
        return step_of(latest(run.checkpoints))
    except UserError:
        return None


def _from_checkpoint(job: Job, run: RunFolder, ranks: Ranks) -> None:
    """Load the newest whole checkpoint and render or score it."""
    from nerfxl.ensemble import restore, restore_for_pictures
    from nerfxl.evaluate import evaluate
    from nerfxl.filming.conduct import render
    from nerfxl.prepare import read_back

    scene = read_back(run)
    if job.task == "evaluate":
        ensemble, found = restore(run, scene, ranks, math.inf)
        evaluate(run, scene, ensemble, ranks, found.step, float(found.meta["train_seconds"]))
        return
    sharing = 1 if ranks.device.type == "cuda" else places.here().local_size
    ensemble, found = restore_for_pictures(run, scene, ranks, job.memory, sharing)
    render(run.renders / job.into, scene, ensemble, ranks, found.step)


def main() -> None:
    """Run the job file named on the command line; errors of the user's go to stderr, exit 2.

    A rank that has lost another is a victim, not the cause: it says so, and ends with code 69.
    """
    from nerfxl.processes.ranks import PeerLostError

    if len(sys.argv) != 2:
        sys.exit("usage: python -m nerfxl.worker JOB.json")
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        code = work(job)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        code = 2
    except PeerLostError as error:
        sys.stderr.write(f"{error}\n")
        code = os.EX_UNAVAILABLE
    sys.stdout.flush()
    sys.stderr.flush()
    # The threads of a group that was left after an error could abort an orderly end.
    os._exit(code)


if __name__ == "__main__":
    main()
