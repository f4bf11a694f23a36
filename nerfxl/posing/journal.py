"""What of a capture is done already, so that a command started again goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfxl.errors import UserError
from nerfxl.progress import Speaker
from nerfxl.runs import make_folder, write_atomic

FORMAT, VERSION = "nerfxl pose", 1

Found = dict[str, Any]  # what a stage found: JSON, with the sentence that tells it under "said"


@dataclass
class Journal:
    """The folder DIR/work, and the stages that are done.

    asked: settings by the options' names. photographs: digest of what is posed. stages: what each
    stage that is done has found, in their order.
    """

    folder: Path
    asked: dict[str, Any]
    photographs: str
    stages: dict[str, Found] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where it is written."""
        return self.folder / "journal.json"

    def stage(self, name: str, product: Path, work: Callable[[], Found], say: Speaker) -> Found:
        """Return what a stage found: before, if its product is still there, or now.

        A stage that is done anew makes those after it undone. `seconds` is added to what it found.
        """
        if name in self.stages and product.exists():
            say(f"{name:<11}{self.stages[name]['said']} (done before)")
            return self.stages[name]
        self._forget(name)
        began = time.monotonic()
        found = work()
        found["seconds"] = round(time.monotonic() - began, 2)
        self.stages[name] = found
        self._write()
        say(f"{name:<11}{found['said']}")
        return found

    def _forget(self, name: str) -> None:
        if name in self.stages:
            names = list(self.stages)
            for later in names[names.index(name) :]:
                del self.stages[later]
            self._write()

    def _write(self) -> None:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "asked": self.asked,
            "photographs": self.photographs,
            "stages": self.stages,
        }
        write_atomic(self.file, json.dumps(document, indent=1) + "\n")


@contextmanager
def opened(out: Path, asked: Mapping[str, Any], photographs: str) -> Iterator[Journal]:
    """Keep the folder of a capture for this process, and read how far it is.

    A folder that was made for what is refused is removed again.

    Raises
    ------
    UserError: the folder holds something else, or a capture that was asked for otherwise; another
    process is at work in it.
    """
    work = out / "work"
    _check_place(out, work)
    new = not out.exists()
    make_folder(work)
    try:
        with _locked(work, out):
            journal = _read(work, out, dict(asked), photographs)
            yield journal
    except UserError:
        if new and not (work / "journal.json").exists():
            shutil.rmtree(out)
        raise


def fresh(folder: Path) -> Path:
    """Return the folder, empty: what an interrupted stage left in it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    return folder


def moved(part: Path, folder: Path) -> None:
    """Give a folder that is complete its name, in place of what bore it."""
    old = part.with_name(f"{part.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    make_folder(folder.parent)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_place(out: Path, work: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: this is a file; name a folder for the capture.")
    if out.is_dir() and any(out.iterdir()) and not work.is_dir():
        raise UserError(
            f"--out {out}: the folder holds other things; name one that is empty or new."
        )


def _read(work: Path, out: Path, asked: dict[str, Any], photographs: str) -> Journal:
    journal = Journal(work, asked, photographs)
    try:
        document = json.loads(journal.file.read_text())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError("it is of another version of nerfxl")
        before, stages = document["asked"], document["stages"]
        same = document["photographs"] == photographs
    except FileNotFoundError:
        return journal
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{journal.file} is damaged ({error}): remove {out}, and start again."
        ) from error
    changed = [
        f"{key} {_shown(before.get(key))}, now {_shown(asked.get(key))}"
        for key in {**before, **asked}
        if before.get(key) != asked.get(key)
    ]
    if changed or not same:
        what = f"with {'; '.join(changed)}" if changed else "from other photographs than are there"
        raise UserError(
            f"{out} was begun {what}: ask as before, name another folder by --out, or remove {out}."
        )
    journal.stages = stages
    return journal


def _shown(value: object) -> str:
    return "left out" if value is None else str(value)


@contextmanager
def _locked(work: Path, out: Path) -> Iterator[None]:
    """Let one process at a time work in the folder; the kernel lets go when it ends."""
    with (work / "lock").open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            raise UserError(
                f"{out} is being made by process {held.read().strip() or 'of another'}: wait for "
                "it, stop it, or name another folder by --out."
            ) from None
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):
            held.truncate(0)
            held.write(f"{os.getpid()}\n")
            held.flush()
        yield
