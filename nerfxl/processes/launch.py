"""Starts one process a rank, watches them, and tells how they ended; knows no tensors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from nerfxl.errors import UserError
from nerfxl.processes.nodes import Team

# Started for every rank: `python -m module argument`. It leaves by os._exit, even if there is no
# memory left to say why: a process group that an error left behind has threads, which now and then
# abort or hang a process that is torn down in order, and that would hide the cause.
_BOOTSTRAP = """
import os, runpy, sys, traceback
code = 1
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
    code = 0
except SystemExit as end:
    code = end.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
    code = code if isinstance(code, int) else int(code is not None)
except KeyboardInterrupt:
    code = 130
except BaseException:
    traceback.print_exc()
finally:
    try:
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)
"""

USERS_FAULT = 2  # the exit code of a worker whose last line says what the user can mend

USERS_FAULT = 2  # the exit code of a worker whose last line says what the user can mend

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_STOPS = (128 + signal.SIGINT, 128 + signal.SIGTERM)

_POLL_SECONDS = 0.05

# How long interrupted workers may finish their step and write a checkpoint before they are killed.
_FAREWELL_SECONDS = 120.0

# How long the others may go on after a rank has failed of its own accord, and after one has said
# that it waited for another in vain: then all that are alive say so, but not all at once.
_GRACE_SECONDS = 0.5
_ROLL_CALL_SECONDS = 4.0


class RankFailedError(UserError):
    """A worker failed; the message names the rank, how it ended and its log file.

    brief: the message without the log file, which another start moves.
    may_pass: another start may end better, because a process was killed or did not answer.
    """

    def __init__(
        self, brief: str, log: Path | None, exit_code: int, may_pass: bool = False
    ) -> None:
        super().__init__(f"{brief}; the log is {log}." if log else f"{brief}.")
        self.brief = brief
        self.log = log
        self.exit_code = exit_code
        self.may_pass = may_pass


class Ending(NamedTuple):
    """How one rank ended.

    exit_code: negative, the signal that killed it.
    ended: whether the launcher did that, because others had failed.
    words: the last line of its log.
    """

    rank: int
    exit_code: int
    ended: bool = False
    words: str = ""


def log_file(log_dir: Path, rank: int) -> Path:
    """Where the output of one rank goes."""
    return log_dir / f"rank-{rank}.log"


def launch(
    module: str,
    argument: Path | str,
    team: Team,
    log_dir: Path,
    attempt: int = 0,
    show: Callable[[str], object] | None = None,
) -> int:
    """Run `python -m module argument` as the team's ranks of this machine and wait for all.

    Every rank speaks to `log_dir/rank-<r>.log`; what rank 0 says is also shown, on the standard
    output unless said otherwise. Ctrl-C and SIGTERM
    are passed on to the workers, which stop at an agreed step. Workers die with this process. The
    workers find each other by torchrun's variables; attempt counts the starts of one run.

    Returns
    -------
    int
        0, or 128 + the signal that stopped the run (130 after Ctrl-C).

    Raises
    ------
    RankFailedError
        If a worker of any machine failed or was killed.
    UserError
        In a worker's own words, if it ended for what the user can mend.

    """
    log_dir.mkdir(parents=True, exist_ok=True)
    _keep_old_logs(log_dir, team)
    with _asked_to_stop() as asked:
        workers: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in team.ranks:
                log = log_file(log_dir, rank)
                workers[rank] = _start(module, str(argument), rank, team, log, attempt)
            with _shown(log_file(log_dir, 0) if 0 in workers else None, show or _say):
                ended = _watch(workers, team, attempt, asked)
        finally:
            for worker in workers.values():  # only after an error are any left
                worker.kill()
                worker.wait()
        heard = len(asked)
        own = [
            _ending(rank, worker.returncode, rank in ended, asked, log_file(log_dir, rank))
            for rank, worker in workers.items()
        ]
        said = team.exchange(attempt, [bool(asked), own])
    if len(asked) > heard:
        signal.raise_signal(asked[-1])  # too late for the workers, so it is for this process
    endings = [Ending(*one) for _, node in said for one in node]
    return _verdict(endings, any(asked_there for asked_there, _ in said), log_dir)


def decline(team: Team, sentence: str) -> None:
    """Tell the other machines, which have started their ranks, why this one starts none."""
    team.call_off(0, _GRACE_SECONDS)
    team.exchange(0, [False, [Ending(rank, 2, False, sentence) for rank in team.ranks]])


def cause(endings: Sequence[Ending]) -> Ending:
    """Choose the rank that failed of its own accord.

    When one rank dies, its peers soon fail too: they lose a connection (EX_UNAVAILABLE, see
    `processes.cluster`), or the launcher ends them. That one is the cause only if others waited for
    it in vain.
    """
    forsaken = any(ending.exit_code == os.EX_UNAVAILABLE for ending in endings)

    def suspicion(ending: Ending) -> int:
        if ending.exit_code in (0, *_STOPS):
            return 6
        if ending.ended:
            return 3 if forsaken else 5
        if ending.exit_code == os.EX_UNAVAILABLE:
            return 4
        if ending.exit_code == 1:
            return 2
        return 1 if ending.exit_code > 0 else 0

    return min(endings, key=lambda ending: (suspicion(ending), ending.rank))


def _start(
    module: str, argument: str, rank: int, team: Team, log: Path, attempt: int
) -> subprocess.Popen[bytes]:
    """Start one rank, in a process group of its own: Ctrl-C reaches it through the launcher."""
    variables = {
        "RANK": rank,
        "WORLD_SIZE": team.size,
        "LOCAL_RANK": rank - team.ranks.start,
        "LOCAL_WORLD_SIZE": len(team.ranks),
        "MASTER_ADDR": team.address,
        "MASTER_PORT": team.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": attempt,
        "NERFXL_LAUNCHER": os.getpid(),
    }
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-u", "-c", _BOOTSTRAP, module, argument],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def _watch(
    workers: dict[int, subprocess.Popen[bytes]], team: Team, attempt: int, asked: list[int]
) -> set[int]:
    """Wait for all workers; those that do not end in time are killed, and returned."""
    passed_on = 0
    failed = False
    end = float("inf")
    while running := [rank for rank, worker in workers.items() if worker.poll() is None]:
        now = time.monotonic()
        if len(asked) > passed_on:
            for rank in running:
                workers[rank].send_signal(_as_stop(asked[0]))
            # Whoever asks again does not want to wait for a checkpoint.
            end = min(end, now + _FAREWELL_SECONDS) if not passed_on else now
            passed_on = len(asked)
        if not failed:
            grace = _grace(workers.values(), asked)
            if grace is not None:
                team.call_off(attempt, grace)
            else:
                grace = team.called_off(attempt)
            if grace is not None:
                failed = True
                end = min(end, now + grace)
        if now > end:
            for rank in running:
                workers[rank].kill()
                workers[rank].wait()
            return set(running)
        time.sleep(_POLL_SECONDS)
    grace = _grace(workers.values(), asked)
    if not failed and grace is not None:
        team.call_off(attempt, grace)
    return set()


def _grace(workers: Iterable[subprocess.Popen[bytes]], asked: list[int]) -> float | None:
    """How long the others may go on; None while no worker has failed."""
    fine = (None, 0, *_STOPS) + ((-_as_stop(asked[0]),) if asked else ())
    failed = [worker.returncode for worker in workers if worker.returncode not in fine]
    if not failed:
        return None
    return _ROLL_CALL_SECONDS if set(failed) == {os.EX_UNAVAILABLE} else _GRACE_SECONDS


def _as_stop(number: int) -> int:
    """The signal that workers understand: a terminal that hangs up asks to stop, too."""
    return signal.SIGINT if number == signal.SIGINT else signal.SIGTERM


def _ending(rank: int, code: int, ended: bool, asked: list[int], log: Path) -> Ending:
    """Describe how a rank ended; one that died of the request to stop has stopped."""
    if asked and (ended or code == -_as_stop(asked[0])):
        return Ending(rank, 128 + _as_stop(asked[0]))
    return Ending(rank, code, ended, _last_line(log) if code else "")


def _verdict(endings: Sequence[Ending], asked: bool, log_dir: Path) -> int:
    """Return the exit code of workers that ended as they were asked to, or raise."""
    first = cause(endings)
    if first.exit_code == 0 or first.exit_code in _STOPS:
        return max(ending.exit_code for ending in endings)
    log = log_file(log_dir, first.rank)
    name = f"rank {first.rank} of {len(endings)}"
    code = first.exit_code
    victims = [e.words for e in endings if e.exit_code == os.EX_UNAVAILABLE and e.words]
    if victims and (first.ended or code == os.EX_UNAVAILABLE):
        raise RankFailedError(victims[0], log, os.EX_UNAVAILABLE, not asked)
    if code < 0:
        ended = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            ended += " (often by the system, out of memory)"
    else:
        if first.words and code == USERS_FAULT:
            raise UserError(first.words)
        ended = f"ended with exit code {code}" + (f" ({first.words})" if first.words else "")
    killed = code < 0
    raise RankFailedError(
        f"{name} {ended}", log, 128 - code if killed else code, killed and not asked
    )


def _last_line(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[:1000] for line in reversed(lines) if line.strip()), "")


def _keep_old_logs(log_dir: Path, team: Team) -> None:
    """Set aside what earlier starts of this run said: rank-0.log becomes rank-0.1.log.

    Every machine does so for its own ranks; the last one for those that are no more, too.
    """
    for log in log_dir.glob("rank-*.log"):
        number = log.stem.removeprefix("rank-")
        if not number.isdecimal():
            continue
        if int(number) not in team.ranks and not (team.last and int(number) >= team.size):
            continue
        count = 1
        while (kept := log.with_name(f"{log.stem}.{count}.log")).exists():
            count += 1
        log.rename(kept)


@contextmanager
def _shown(log: Path | None, show: Callable[[str], object]) -> Iterator[None]:
    """Show what is written to a file while the block lasts."""
    if log is None:
        yield
        return
    done = threading.Event()

    def follow() -> None:
        with log.open("r", errors="replace") as file:
            last = False
            while True:
                said = file.read()
                try:
                    show(said)
                except OSError:
                    return  # nobody reads any more; it is all in the file
                if last:
                    return
                last = done.wait(2 * _POLL_SECONDS)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join(5)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect the signals that ask to stop, in place of dying of them."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    # Under nohup the program is to outlive its terminal.
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [n for n in _SIGNALS if n != signal.SIGHUP or not ignored]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
