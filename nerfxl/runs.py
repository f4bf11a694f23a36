"""The folder of a run: where its files lie, and what is truly known of its state."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Literal, TextIO

from nerfxl.errors import UserError

State = Literal["running", "completed", "failed", "interrupted"]


def write_atomic(path: Path, content: bytes | str | Sequence[bytes | memoryview]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half.

    content: in one piece or in several, which are written one after the other.

    Raises
    ------
    UserError
        If the file cannot be written (no room, no permission); the old file is untouched.

    """
    if isinstance(content, str):
        content = content.encode()
    pieces = [content] if isinstance(content, bytes) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):  # on a read-only disk even what is not there cannot be removed
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises
    ------
    UserError
        If it cannot be made (a file in its place, no room, no permission).

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} could not be made: {error.strerror}.") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Status:
    """What is known of a run: status.json. Times are ISO 8601 with the zone."""

    state: State
    step: int
    steps: int
    reason: str
    started: str
    updated: str
    pid: int
    host: str


@dataclass(frozen=True)
class RunFolder:
    """`runs/<scene>/<timestamp>/` and the places of its files."""

    path: Path

    @classmethod
    def create(cls, output_dir: Path, name: str) -> RunFolder:
        """Make `output_dir/name/<local time>/`, never one that exists already.

        Raises
        ------
        UserError
            If the name is not a plain folder name or the folder cannot be made.

        """
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise UserError(f"'{name}' cannot name a run: use a plain folder name.")
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
        for count in range(1, 1000):
            path = output_dir / name / (stamp if count == 1 else f"{stamp}_{count}")
            run = cls(path)
            try:
                path.mkdir(parents=True)
                for folder in (run.checkpoints, run.eval, run.renders, run.logs):
                    folder.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"{path} could not be made: {error.strerror}.") from error
            return run
        raise UserError(f"{output_dir / name} has no free name for a run at {stamp}.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run.

        Raises
        ------
        UserError
            If the folder holds no run.

        """
        run = cls(path)
        if not run.status_file.is_file():
            raise UserError(f"{path} is not a run folder: it holds no status.json.")
        return run

    @classmethod
    def newest(cls, output_dir: Path, name: str | None = None) -> RunFolder:
        """Return the run started last under output_dir, of one scene or of any.

        Raises
        ------
        UserError
            If there is none.

        """
        found = [file.parent for file in output_dir.glob(f"{name or '*'}/*/status.json")]
        if not found:
            place = output_dir if name is None else output_dir / name
            raise UserError(
                f"{place} holds no run: start one with 'nerfxl fit', or say where the runs are "
                "with --output-dir."
            )
        return max(
            (cls(path) for path in found),
            key=lambda run: datetime.fromisoformat(run.status().started),
        )

    @property
    def scene(self) -> Path:
        """The resolved scene: enough to repeat the run."""
        return self.path / "scene.yaml"

    @property
    def plan(self) -> Path:
        """The tiles."""
        return self.path / "plan.json"

    @property
    def scene_transform(self) -> Path:
        """From source to scene coordinates."""
        return self.path / "scene_transform.json"

    @property
    def cameras(self) -> Path:
        """The views' cameras, poses and split: what rendering needs of a capture."""
        return self.path / "cameras.json"

    @property
    def job(self) -> Path:
        """What the ranks are to do, or did last."""
        return self.path / "job.json"

    @property
    def checkpoints(self) -> Path:
        """One folder a saved step."""
        return self.path / "checkpoints"

    @property
    def eval(self) -> Path:
        """Held-out metrics and pictures."""
        return self.path / "eval"

    @property
    def renders(self) -> Path:
        """Pictures and videos along camera paths."""
        return self.path / "renders"

    @property
    def logs(self) -> Path:
        """One file a rank."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """Training curves: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def sessions(self) -> Path:
        """Each time that the run was trained: one JSON object a line."""
        return self.path / "sessions.jsonl"

    @property
    def report(self) -> Path:
        """The run for people, in one page."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """The training curves for TensorBoard."""
        return self.path / "tensorboard"

    def scored(self) -> list[Path]:
        """Files of scores, the one written last first.

        That is not the highest step if a damaged checkpoint was stepped over.
        """
        found = self.eval.glob("step-*/metrics.json")
        return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)

    @property
    def status_file(self) -> Path:
        """State of the run; read it with `status`."""
        return self.path / "status.json"

    @contextmanager
    def locked(self, note: Callable[[str], None]) -> Iterator[None]:
        """Keep others from training in this folder while the block lasts, and no longer.

        The kernel lets go when this process ends, however it ends.

        note: told a sentence where the file system has no locks.

        Raises
        ------
        UserError
            If another process, here or on another machine, trains in it.

        """
        file = self.path / "lock"
        try:
            opened = file.open("a+")
        except OSError as error:
            raise UserError(f"{file} could not be written: {error.strerror}.") from error
        with opened as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is being trained by {_holder(file)}: wait for it, stop it, or "
                    "start a new run."
                ) from error
            except OSError as error:
                note(
                    f"locks      none on the file system of {self.path} ({error.strerror}): see "
                    "that no other process trains in it"
                )
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            held.flush()
            yield

    def status(self) -> Status:
        """Read the state; a run whose process has died without a word is reported as failed.

        Raises
        ------
        UserError
            If status.json is missing or damaged.

        """
        try:
            status = Status(**json.loads(self.status_file.read_text()))
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is not a run folder: it holds no status.json.") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.status_file} is damaged: {error}.") from error
        here = status.host == socket.gethostname()
        if status.state == "running" and here and not _alive(status.pid):
            reason = f"process {status.pid} ended without saying why"
            return replace(status, state="failed", reason=reason)
        return status

    def update(
        self,
        *,
        state: State | None = None,
        step: int | None = None,
        steps: int | None = None,
        reason: str | None = None,
    ) -> Status:
        """Write what changed into status.json; only one process of a run may call this at a time.

        Setting a state also replaces the reason; setting it to "running" makes this process the
        run's own.
        """
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        if self.status_file.exists():
            old = self.status()
        else:
            old = Status("running", 0, 0, "", now, now, os.getpid(), socket.gethostname())
        mine = state == "running"
        status = Status(
            state=old.state if state is None else state,
            step=old.step if step is None else step,
            steps=old.steps if steps is None else steps,
            reason=reason if reason is not None else old.reason if state is None else "",
            started=old.started,
            updated=now,
            pid=os.getpid() if mine else old.pid,
            host=socket.gethostname() if mine else old.host,
        )
        write_atomic(self.status_file, json.dumps(asdict(status), indent=2) + "\n")
        return status


class MetricsLog:
    """Appends to metrics.jsonl, a line at a time, so that a crash loses no line.

    A number JSON cannot hold (NaN, infinity) is written as null: readers need no special case.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)
        # A line cut short by a crash must not swallow the next one.
        if path.stat().st_size and path.read_bytes()[-1:] != b"\n":
            self._file.write("\n")

    def append(self, record: Mapping[str, object]) -> None:
        """Write one JSON object as one line.

        Raises
        ------
        UserError
            If there is no room for it.

        """
        try:
            self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(f"{self._file.name} could not be written: {error.strerror}.") from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # `append` has said it
            self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def recording(run: RunFolder) -> Iterator[RunFolder]:
    """`with recording(run):` status.json tells the truth about how the block ended.

    Completed if it ends with step == steps; interrupted if it ends before that, by Ctrl-C, or with
    exit code 130 or 143; failed, with the reason, otherwise. Errors go on their way. SIGTERM ends
    the block with 143 where nothing else handles it.
    """
    run.update(state="running")
    try:
        with leaving_on_sigterm():
            yield run
    except BaseException as error:
        with suppress(UserError):  # no room for status.json either: the error itself matters more
            _record_error(run, error)
        raise
    _record_end(run)


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, which unlike the kernel's way leaves time for a last word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _record_error(run: RunFolder, error: BaseException) -> None:
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, SystemExit) and code in (None, 0):
        _record_end(run)
    elif isinstance(error, KeyboardInterrupt) or code == 128 + signal.SIGINT:
        run.update(state="interrupted", reason="stopped by Ctrl-C")
    elif code == 128 + signal.SIGTERM:
        run.update(state="interrupted", reason="stopped by SIGTERM")
    elif isinstance(error, UserError):
        run.update(state="failed", reason=str(error))
    else:
        run.update(state="failed", reason=f"{type(error).__name__}: {error}")


def _record_end(run: RunFolder) -> None:
    status = run.status()
    if status.step == status.steps:
        run.update(state="completed")
    else:
        reason = f"stopped at step {status.step} of {status.steps}"
        run.update(state="interrupted", reason=reason)


def _holder(lock: Path) -> str:
    """Who wrote the lock; it may have taken it a moment ago only."""
    return lock.read_text().strip() or "another process"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
