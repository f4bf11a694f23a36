"""TensorBoard's files, made of metrics.jsonl and the scores: the same figures, by construction."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from nerfxl import history
from nerfxl.errors import UserError
from nerfxl.history import Line
from nerfxl.runs import RunFolder, make_folder

POLL_SECONDS = 1.0
SHEET_WIDTH = 1600  # of the contact sheet, pixels at most


def check_installed() -> None:
    """Find out before the first step whether TensorBoard's files can be written.

    Raises
    ------
    UserError: they cannot.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "pip install 'nerfxl[tensorboard]'."
        )


@contextmanager
def following(run: RunFolder) -> Iterator[None]:
    """Write what a run has told, and what it tells while the block lasts.

    A thread does it, from the files that the ranks write: nothing is told twice, and nothing of it
    can hold up the training.
    """
    done, failed = threading.Event(), []

    def write() -> None:
        try:
            with _opened(run) as book:
                for line in history.follow(run.metrics, 0, done, POLL_SECONDS):
                    book.add(line)
                    book.add_scores()
                book.add_scores()
        except (OSError, UserError) as error:
            failed.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)
        for error in failed:
            sys.stderr.write(f"nerfxl: {run.tensorboard} could not be written: {error}\n")


def rewrite(run: RunFolder) -> Path:
    """Write all that a run has told, anew; the folder.

    Raises
    ------
    UserError: it cannot be written.
    """
    try:
        with _opened(run) as book:
            for line in history.read(run.metrics).lines:
                book.add(line)
            book.add_scores()
    except OSError as error:
        raise UserError(f"{run.tensorboard} could not be written: {error.strerror}.") from error
    return run.tensorboard


class _Book:
    """A file of events that is being written. Times are those of training, without its pauses."""

    def __init__(self, run: RunFolder) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._run = run
        self._began = datetime.fromisoformat(run.status().started).timestamp()
        self._told = history.History()
        self._scored: dict[Path, int] = {}
        self._writer = EventFileWriter(str(run.tensorboard))
        self._start(0)

    def add(self, line: Line) -> None:
        """Write a line of metrics.jsonl; what was told of a step that is done again goes."""
        returns = len(self._told.returns)
        self._told.add(line)
        if len(self._told.returns) > returns:
            self._start(line["step"])
        self._write(line["step"], dict(_flat(line)))

    def add_scores(self) -> None:
        """Write the scores that are new since the last time, and their contact sheets."""
        for file in reversed(self._run.scored()):
            stamp = file.stat().st_mtime_ns
            if self._scored.get(file) == stamp:
                continue
            self._scored[file] = stamp
            try:
                told = json.loads(file.read_text())
                step = int(told["step"])
            except (ValueError, KeyError, TypeError):
                continue  # damaged; `nerfxl list` and the report say so
            names = ("psnr", "ssim", "render_seconds", "train_seconds")
            known = {name: told[name] for name in names if told.get(name) is not None}
            self._write(step, {f"held_out/{name}": value for name, value in known.items()})
            self._show(step, file.with_name("sheet.png"))

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _start(self, step: int) -> None:
        """Tell that all that was written of `step` and later does not hold."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=self._time(), step=step, session_log=log))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=self._time(), step=step, summary=Summary(value=parts))
        self._writer.add_event(event)
        self._writer.flush()

    def _show(self, step: int, sheet: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not sheet.is_file():
            return
        buffer = io.BytesIO()
        with Image.open(sheet) as image:
            image.thumbnail((SHEET_WIDTH, 100 * SHEET_WIDTH))
            image.convert("RGB").save(buffer, format="JPEG", quality=85)
            width, height = image.size
        picture = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        value = Summary.Value(tag="held_out/truth, rendering, error, depth", image=picture)
        event = Event(wall_time=self._time(), step=step, summary=Summary(value=[value]))
        self._writer.add_event(event)

    def _time(self) -> float:
        return self._began + (self._told.seconds[-1] if self._told.seconds else 0.0)


@contextmanager
def _opened(run: RunFolder) -> Iterator[_Book]:
    """A new file in place of those that were there."""
    make_folder(run.tensorboard)
    for old in run.tensorboard.glob("events.out.tfevents.*"):
        old.unlink()
    book = _Book(run)
    try:
        yield book
    finally:
        book.close()


def _flat(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names for TensorBoard, which groups them by what stands before the first slash."""
    for name, value in line.items():
        if isinstance(value, int | float) and name != "step":
            yield f"train/{name}", float(value)
        elif isinstance(value, Mapping):
            for kind, told in value.items():
                for unit, number in told.items():
                    yield f"{name}/{kind}/{unit}", float(number)
