"""Who does a job: this process, ranks it starts on one machine or several, or it is a rank."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from nerfxl.errors import UserError
from nerfxl.processes import launch, nodes, places, rendezvous
from nerfxl.processes.cluster import TIMEOUT_SECONDS, cores, die_with_parent, meet
from nerfxl.processes.launch import RankFailedError
from nerfxl.processes.nodes import Board, LeaderGaveUpError, Meeting, NodeLostError, Team
from nerfxl.processes.places import Place
from nerfxl.processes.ranks import PeerLostError
from nerfxl.runs import RunFolder, make_folder
from nerfxl.worker import Job, saved_step, work

Say = Callable[[str], None]
Kind = Literal["cpu", "cuda"]

_LATE_RANKS_SECONDS = 60.0  # that an error is kept for ranks which are still starting
_SHARED_FOLDER_SECONDS = 30.0  # until a network file system shows what another machine wrote


@dataclass(frozen=True)
class Launching:
    """How ranks are started and kept alive, as the options of the command line say.

    nproc: ranks of this machine; None, as fits it.
    nnodes, endpoint: machines, and HOST:PORT of the first.
    timeout: seconds after which a rank that does not answer is given up.
    max_restarts: how often all ranks are started anew after one was lost.
    """

    nproc: int | None = None
    nnodes: int = 1
    endpoint: str | None = None
    timeout: float = TIMEOUT_SECONDS
    max_restarts: int = 0


class Crew:
    """One process alone, or ranks that it starts on this machine.

    leads: whether this process prepares the run, speaks to the user and records the status; those
    that do not only `follow`.
    """

    leads = True

    def __init__(self, launching: Launching, kind: Kind) -> None:
        self.launching, self.kind = launching, kind
        self.here = 1

    def share(self, tiles: int | None) -> int:
        """Settle how many ranks there are in all; `here` says how many on this machine.

        tiles: that they share out, one each at least; None where each holds all.

        Raises
        ------
        UserError: there are too few tiles.
        """
        self.here = processes(self.launching.nproc, self.kind, tiles)
        return self.here

    def earlier_run(self, runs: Path) -> RunFolder | None:
        """The run that this very crew began, if it was started anew."""
        del runs
        return None

    def announce(self, job: Job, run: RunFolder) -> Job:
        """Store a job for the ranks to read, and tell the followers; the job as it is stored."""
        make_folder(_folder(job, run))
        job.write(_file(job, run))
        return job

    def follow(self, say: Say) -> None:
        """Take part in what the leader announces."""
        raise NotImplementedError("alone, there is nobody to follow")

    def work(self, job: Job, run: RunFolder, say: Say) -> None:
        """Do a job; leaves with 130 or 143 where a signal stopped it.

        Raises
        ------
        UserError: as the task does.
        RankFailedError: a rank failed, or was lost more often than it may be started anew.
        """
        if self.here == 1:
            _leave(work(job))
        else:
            self._launch(job, run, Team.alone(self.here), say)

    def _launch(self, job: Job, run: RunFolder, team: Team, say: Say) -> None:
        attempt = 0
        while True:
            try:
                return _leave(
                    launch.launch(
                        *("nerfxl.worker", _file(job, run), team, _folder(job, run), attempt),
                        show=_notes,
                    )
                )
            except RankFailedError as error:
                if not error.may_pass:
                    raise
                if attempt == self.launching.max_restarts:
                    raise _given_up(error, attempt) from error
                attempt += 1
                self._tell_of_restart(
                    f"{attempt} of {self.launching.max_restarts}", error, run, say
                )

    def _tell_of_restart(
        self, which: str, error: RankFailedError, run: RunFolder, say: Say
    ) -> None:
        step = saved_step(run)
        whence = "from the start" if step is None else f"from the checkpoint of step {step:,}"
        say(f"restart    {which}, {whence}: {error.brief}")
        if self.leads:
            run.update(state="running", step=step or 0, reason=f"restart {which}: {error.brief}")


class Machines(Crew):
    """Ranks that this and other machines' launchers start together."""

    def __init__(self, launching: Launching, kind: Kind, meeting: Meeting) -> None:
        super().__init__(launching, kind)
        self.leads = meeting.node == 0
        self._meeting = meeting
        self._counts: tuple[int, ...] = ()

    def share(self, tiles: int | None) -> int:
        """Wait for all machines, and share out the ranks."""
        self._counts = self._meeting.share(tiles)
        self.here = self._counts[0]
        return sum(self._counts)

    def announce(self, job: Job, run: RunFolder) -> Job:
        """Store the job, and tell the other machines of it."""
        super().announce(job, run)
        restarts = self.launching.max_restarts
        told = {"job": asdict(job), "counts": self._counts, "max_restarts": restarts}
        self._meeting.board.tell(told)
        return job

    def follow(self, say: Say) -> None:
        """Start this machine's ranks of the leader's run."""
        told = self._meeting.board.hear()
        job = Job(**told["job"])
        self.launching = replace(self.launching, max_restarts=told["max_restarts"])
        team = self._meeting.team(told["counts"])
        try:
            run = _on_shared_disk(job)
        except UserError as error:
            launch.decline(team, str(error))
            raise
        ranks = ", ".join(map(str, team.ranks))
        say(f"run        {run.path}, rank {ranks} of {team.size}")
        self._launch(job, run, team, say)

    def work(self, job: Job, run: RunFolder, say: Say) -> None:
        """Start this machine's ranks."""
        self._launch(job, run, self._meeting.team(self._counts), say)


class Enlisted(Crew):
    """A rank that torchrun or srun started; rank 0 leads."""

    def __init__(self, launching: Launching, kind: Kind, place: Place) -> None:
        super().__init__(launching, kind)
        if launching.nproc not in (None, place.size):
            raise UserError(
                f"--nproc {launching.nproc}: {place.starter} has started {place.size} processes, "
                "and each of them is a rank: leave --nproc out."
            )
        self.leads = place.rank == 0
        self.place = place
        die_with_parent()
        self.store = meet(place)
        self.board = Board(self.store, place.rank, "rank 0")

    def share(self, tiles: int | None) -> int:
        """All that were started are ranks."""
        if tiles is not None and self.place.size > tiles:
            raise UserError(
                f"{self.place.starter} started {self.place.size} processes: the scene has {tiles} "
                f"tiles and each process needs one; start at most {tiles}, or raise "
                "partition.tiles."
            )
        self.here = self.place.local_size
        return self.place.size

    def earlier_run(self, runs: Path) -> RunFolder | None:
        """The run that the same torchrun's ranks began before it started them anew."""
        if not self.place.restarts:
            return None
        for file in runs.glob("*/job.json"):
            if f'"{_starter()}"' in file.read_text():
                return RunFolder.open(file.parent)
        return None

    def announce(self, job: Job, run: RunFolder) -> Job:
        """Store the job with a mark of who started it, and tell the other ranks."""
        job = super().announce(replace(job, starter=_starter()), run)
        self.board.tell({"job": asdict(job)})
        return job

    def follow(self, say: Say) -> None:
        """Take part as another rank than the first, which alone speaks to the user."""
        try:
            job = Job(**self.board.hear()["job"])
        except LeaderGaveUpError as error:
            raise SystemExit(2) from error
        self.work(job, _on_shared_disk(job), say)

    def work(self, job: Job, run: RunFolder, say: Say) -> None:
        """Be a rank; whoever started it may start it again."""
        del run, say
        try:
            _leave(work(job, self.store))
        except PeerLostError as error:
            raise RankFailedError(str(error), None, os.EX_UNAVAILABLE) from error


@contextmanager
def hired(launching: Launching, kind: Kind) -> Iterator[Crew]:
    """Find out who does the job; an error of the leader's is told to the followers.

    Raises
    ------
    UserError: the machines or processes do not find each other, or options contradict each other.
    """
    place = places.here()
    if launching.nnodes > 1:
        own = nodes.this_node(kind, units_of(kind), launching.nproc)
        meeting = Meeting(launching.endpoint or "", launching.nnodes, own)
        try:
            with _errors_told(meeting.node, meeting.board, 0):
                yield Machines(launching, kind, meeting)
        finally:
            meeting.part()
    elif launching.endpoint is not None:
        raise UserError("--rdzv-endpoint is of use with --nnodes 2 or more: say how many machines.")
    elif place.is_rank:
        crew = Enlisted(launching, kind, place)
        with _errors_told(place.rank, crew.board, place.size):
            yield crew
    else:
        yield Crew(launching, kind)


def processes(asked: int | None, kind: Kind, tiles: int | None) -> int:
    """How many ranks: as asked, or one a GPU, or one a core; never more than tiles, if they count.

    On a CPU a process a core with one thread each beats one process whose threads share every
    small kernel, and suffers less where other programs run: ranks wait for each other a few times
    a step, threads hundreds of times.

    Raises
    ------
    UserError: more were asked for than there are tiles.
    """
    if asked is None:
        units = max(1, units_of(kind))
        return units if tiles is None else min(units, tiles)
    if tiles is not None and asked > tiles:
        raise UserError(
            f"--nproc {asked}: the scene has {tiles} tiles and each process needs one; pass "
            f"at most {tiles}, or raise partition.tiles."
        )
    return asked


def units_of(kind: Kind) -> int:
    """GPUs, or cores, of this machine."""
    return torch.cuda.device_count() if kind == "cuda" else cores()


@contextmanager
def _errors_told(number: int, board: Board, ranks: int) -> Iterator[None]:
    """Leave an error of the leader's on the board, until `ranks` have seen it."""
    try:
        yield
    except BaseException as error:
        with suppress(NodeLostError):
            if number or board.tell({"error": str(error) or type(error).__name__}):
                board.part(range(1, ranks), _LATE_RANKS_SECONDS)
        raise


def _folder(job: Job, run: RunFolder) -> Path:
    """Where logs go; a run that is being trained may be scored meanwhile."""
    return run.logs if job.task == "fit" else run.logs / job.task


def _file(job: Job, run: RunFolder) -> Path:
    return run.job if job.task == "fit" else _folder(job, run) / "job.json"


def _on_shared_disk(job: Job) -> RunFolder:
    """The run's folder, which another process made, perhaps on another machine."""
    run = RunFolder(Path(job.run))
    if not rendezvous.until(run.status_file.is_file, _SHARED_FOLDER_SECONDS):
        raise UserError(
            f"{run.path}, the run's folder, is not there on {socket.gethostname()}: with several "
            "machines --output-dir must lie on a file system that all of them share."
        )
    return run


def _given_up(error: RankFailedError, restarts: int) -> RankFailedError:
    if not restarts:
        return error
    times = "1 restart" if restarts == 1 else f"{restarts} restarts"
    return RankFailedError(f"after {times}: {error.brief}", error.log, error.exit_code)


def _starter() -> str:
    """The parent of this process, told from any other by the time at which it began."""
    pid = os.getppid()
    stat = Path(f"/proc/{pid}/stat")
    began = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else "?"
    return f"{socket.gethostname()} {pid} {began}"


def _leave(code: int) -> None:
    if code:
        raise SystemExit(code)


def _notes(said: str) -> None:
    """Show what rank 0 says to the user; the rest is in its log."""
    for line in said.splitlines(keepends=True):
        if line.startswith("nerfxl: "):
            sys.stderr.write(line)
