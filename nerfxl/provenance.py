"""Where figures come from: the machine, the code and the moment."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from nerfxl import history
from nerfxl.plan_report import as_bytes
from nerfxl.processes.cluster import cores
from nerfxl.runs import MetricsLog, RunFolder
from nerfxl.version import __version__

BUSY = 0.5  # of the cores: a load above is told


@dataclass(frozen=True)
class Session:
    """One time that training was started, of a run or of a study.

    began: ISO 8601 with the zone. load: programs that wanted one of the cores in the minute before,
    if known.
    """

    began: str
    command: str
    code: str
    machine: str
    cores: int
    load: float | None

    @property
    def busy(self) -> str:
        """A warning where other programs may have slowed the fits down; or nothing."""
        if self.load is None or self.load <= BUSY * self.cores:
            return ""
        plural = "s" if self.cores > 1 else ""
        return (
            f"at {self.began} other programs were at work (load {self.load:.1f} on {self.cores} "
            f"core{plural}): speeds are not those of a quiet machine"
        )


def session(command: str, kind: str) -> Session:
    """What is so here and now. kind: "cpu" or "cuda"."""
    return Session(now(), command, _code(), _machine(kind), cores(), _load())


def command() -> str:
    """The command that was given."""
    return shlex.join(["nerfxl", *sys.argv[1:]])


def note_session(run: RunFolder, step: int, processes: int, kind: str) -> None:
    """Note in a run's folder that it is trained from here on.

    step: after which it goes on. processes: of all machines. kind: "cpu" or "cuda".

    Raises
    ------
    UserError: the file cannot be written.
    """
    told = {"step": step, "processes": processes, "device": kind}
    with MetricsLog(run.sessions) as log:
        log.append(told | asdict(session(command(), kind)))


def sessions(run: RunFolder) -> list[dict[str, Any]]:
    """What `note_session` has noted, the first first; a line that a crash has cut is left out."""
    text = run.sessions.read_bytes() if run.sessions.exists() else b""
    return [line for raw in text.splitlines() if (line := history.parsed(raw)) is not None]


def busy(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the sessions of a run, a warning for each on a machine that was not quiet."""
    names = [one.name for one in fields(Session)]
    whole = ({name: one[name] for name in names} for one in told if {*names} <= {*one})
    return [warning for one in whole if (warning := Session(**one).busy)]


def now() -> str:
    """The time, ISO 8601 with the zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def here(path: Path) -> str:
    """A path as it is written from the current folder, where it lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _code() -> str:
    versions = f"nerfxl {__version__}{_commit()}"
    return f"{versions}; torch {torch.__version__}, Python {platform.python_version()}"


def _commit() -> str:
    """Of the repository that this package is part of, not of one that it merely lies in."""
    here = str(Path(__file__).parent)
    if _git(here, "ls-files", "__init__.py") != "__init__.py":
        return ""
    changed = ", with changes since" if _git(here, "status", "--porcelain", "--", ".") else ""
    return f", commit {_git(here, 'rev-parse', '--short=12', 'HEAD')}{changed}"


def _git(folder: str, *words: str) -> str:
    """What git says, or nothing where there is none."""
    try:
        command = ["git", "-C", folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _machine(kind: str) -> str:
    count = cores()
    found = f"{_processor()}, {count} core{'s' if count > 1 else ''}{_memory()}"
    if kind != "cuda":
        return f"{found}; no GPU used"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    return f"{found}; {told}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text(errors="replace") if file.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _memory() -> str:
    file = Path("/proc/meminfo")
    text = file.read_text() if file.exists() else ""
    total = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return f", {as_bytes(1024 * int(total[1]))}" if total else ""
