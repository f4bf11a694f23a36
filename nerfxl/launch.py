"""Starts one process a rank on this machine and tells how it ended; knows no tensors."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nerfxl.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import LogsSpecs

# Started for every rank: both streams into its log file, then `python -m module argument`. The rank
# opens its file itself, because torch's launcher would truncate it and forget to close it. It
# leaves by os._exit: a process group that an error left behind has threads, which now and then
# abort a process that is torn down in order, and that would hide the cause.
_BOOTSTRAP = """
import os, runpy, sys, traceback
log = os.open(os.environ.pop("NERFXL_LOG"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
os.dup2(log, 1), os.dup2(log, 2), os.close(log)
code = 0
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
    code = code if isinstance(code, int) else int(code is not None)
except KeyboardInterrupt:
    code = 130
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)
"""

USERS_FAULT = 2  # the exit code of a worker whose last line says what the user can mend

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# How long interrupted workers may finish their step and write a checkpoint before they are killed.
_FAREWELL_SECONDS = 120


class RankFailedError(UserError):
    """A worker failed; the message names the rank, how it ended and its log file."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Failure(NamedTuple):
    """How one rank ended: exit code (negative: the signal that killed it), seconds since 1970."""

    rank: int
    exit_code: int
    time: int


def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher, ours or the user's own torchrun, started this process as a rank."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def log_file(log_dir: Path, rank: int) -> Path:
    """Where the output of one rank goes."""
    return log_dir / f"rank-{rank}.log"


def launch(module: str, argument: Path | str, nproc: int, log_dir: Path) -> int:
    """Run `python -m module argument` as nproc ranks on this machine and wait for them.

    Rank 0 speaks to the terminal and to its log file, the others to `log_dir/rank-<r>.log` only.
    Ctrl-C and SIGTERM are passed on to the workers, which stop at an agreed step. Workers die with
    this process. One process needs no launcher: call its function.

    Returns
    -------
    int
        0, or 128 + the signal that stopped the run (130 after Ctrl-C).

    Raises
    ------
    RankFailedError
        If a worker failed or was killed.
    UserError
        In a worker's own words, if it ended for what the user can mend.

    """
    if nproc < 2:
        raise ValueError("one process needs no launcher")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    log_dir.mkdir(parents=True, exist_ok=True)
    _keep_old_logs(log_dir)
    with _environment(), _own_signals(), _quiet():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=nproc,
            logs_specs=_logs(log_dir),
            run_id=f"nerfxl-{os.getpid()}",
            role="",
            # No port is chosen before it is bound, so none can be lost to another program.
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            log_line_prefix_template="${role_name}",  # the empty role: no prefix
        )
        try:
            elastic_launch(config, sys.executable)("-u", "-c", _BOOTSTRAP, module, str(argument))
        except ChildFailedError as error:
            failures = [
                Failure(rank, failure.exitcode, failure.timestamp)
                for rank, failure in error.failures.items()
            ]
            return _verdict(failures, nproc, log_dir)
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def cause(failures: list[Failure]) -> Failure:
    """Choose the rank that failed of its own accord.

    When one rank dies, its peers soon fail too: they lose a connection (EX_UNAVAILABLE, see
    `nerfxl.cluster`), or the launcher ends them (SIGTERM, and SIGKILL half a minute later if they
    do not answer; then they are the cause only if all others were waiting for them).
    """
    start = min(failure.time for failure in failures)

    def suspicion(failure: Failure) -> int:
        if failure.exit_code == -signal.SIGTERM:
            return 5
        if failure.exit_code == os.EX_UNAVAILABLE:
            return 4
        if failure.time > start + 5:
            return 3
        if failure.exit_code == 1:
            return 2
        return 1 if failure.exit_code > 0 else 0

    return min(failures, key=lambda failure: (suspicion(failure), failure.rank))


def _verdict(failures: list[Failure], nproc: int, log_dir: Path) -> int:
    """Return the exit code of workers that stopped as they were asked to, or raise."""
    first = cause(failures)
    if first.exit_code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return first.exit_code
    log = log_file(log_dir, first.rank)
    if first.exit_code < 0:
        name = signal.Signals(-first.exit_code).name
        ended = f"was killed by {name}"
        if name == "SIGKILL":
            ended += " (often by the system, out of memory; or it did not answer)"
    else:
        last = _last_line(log)
        if last and first.exit_code == USERS_FAULT:
            raise UserError(last)
        ended = f"ended with exit code {first.exit_code}" + (f" ({last})" if last else "")
    code = first.exit_code if first.exit_code > 0 else 128 - first.exit_code
    raise RankFailedError(f"rank {first.rank} of {nproc} {ended}; its log is {log}.", code)


def _last_line(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[:1000] for line in reversed(lines) if line.strip()), "")


def _keep_old_logs(log_dir: Path) -> None:
    """Set aside what an earlier start of this run said: rank-0.log becomes rank-0.1.log."""
    for log in log_dir.glob("rank-*.log"):
        if log.stem.count("."):
            continue
        count = 1
        while (kept := log.with_name(f"{log.stem}.{count}.log")).exists():
            count += 1
        log.rename(kept)


def _logs(log_dir: Path) -> LogsSpecs:
    """One log file a rank; what rank 0 says is also shown."""
    from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

    class RankLogs(LogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            for environment in envs.values():
                rank = int(environment["RANK"])
                environment["NERFXL_LOG"] = str(log_file(log_dir, rank))
            inherited = dict.fromkeys(envs, "")
            return LogsDest(
                stdouts=inherited,
                stderrs=inherited,
                tee_stdouts={0: envs[0]["NERFXL_LOG"]},
                error_files=dict.fromkeys(envs, os.devnull),
            )

        @property
        def root_log_dir(self) -> str:
            return str(log_dir)

    return RankLogs()


@contextmanager
def _environment() -> Iterator[None]:
    """Variables the workers, or torch's launcher in this process, read."""
    ours = {
        # Sharing the rendezvous store with the workers is flaky: pytorch #135712, #167288.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_FAREWELL_SECONDS),
        "NERFXL_LAUNCHER": str(os.getpid()),
    }
    if sys.platform == "linux":
        # One machine: stay off the network, and do not depend on the host name resolving.
        ours["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    before = {name: os.environ.get(name) for name in (*ours, "TORCHELASTIC_SIGNALS_TO_HANDLE")}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_signals() -> Iterator[None]:
    """Give back the signal handlers that torch's launcher replaces."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show what rank 0 says line by line, and leave the reports of failures to RankFailedError."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagate = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
