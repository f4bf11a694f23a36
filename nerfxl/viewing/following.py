"""A run that may still be trained: its newest checkpoint, its state, when to expect the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from nerfxl.errors import UserError
from nerfxl.opened import Opened
from nerfxl.prepare import RunScene
from nerfxl.progress import spoken
from nerfxl.runs import RunFolder, Status
from nerfxl.storage.checkpoint import Origin, latest, step_of
from nerfxl.viewing.canvas import Easel
from nerfxl.viewing.desk import AT_ONCE

POLL_SECONDS = 2.0

Open = Callable[[], Opened]


class Following:
    """A job of the desk: opens checkpoints as they come, and says how the run is.

    open_newest: opens the run anew. told: called when there is something new to say in `words`, or
    a new step on the easel; its argument says which of the two.
    """

    def __init__(
        self,
        run: RunFolder,
        scene: RunScene,
        easel: Easel,
        open_newest: Open,
        told: Callable[[bool], None],
    ) -> None:
        self._run, self._scene, self._easel = run, scene, easel
        self._open, self._told = open_newest, told
        self._due, self._tried = 0.0, -1
        self._last_fault = ""
        self.words = ""

    def urgency(self, now: float) -> int | None:
        """Every few seconds."""
        return AT_ONCE if now >= self._due else None

    def work(self, now: float) -> None:
        """Look once."""
        opened = self._easel.opened
        newest = self._newest_step()
        newer = newest > max(self._tried, opened.step if opened else -1)
        if newer:
            newer = self._take_up(newest)
        words = self._sentence()
        if newer or words != self.words:
            self.words = words
            self._told(newer)
        self._due = now + POLL_SECONDS

    def _newest_step(self) -> int:
        with suppress(UserError):  # none yet, or the one that was there is being replaced
            origin = Origin.of(self._run, self._scene.spec.name, self._scene.plan)
            return step_of(latest(self._run.checkpoints, origin))
        return -1

    def _take_up(self, newest: int) -> bool:
        """Open the newest checkpoint.

        Where none can be read, as when it is removed meanwhile, it is tried again; where an older
        one is taken in its place, because it is damaged, it is not.
        """
        before = self._easel.opened
        try:
            found = self._open()
        except UserError as error:
            self._last_fault = str(error)
            return False
        self._last_fault, self._tried = "", newest
        self._easel.opened = found
        return before is None or before.step != found.step

    def _sentence(self) -> str:
        try:
            status = self._run.status()
        except UserError as error:
            return str(error)
        opened = self._easel.opened
        shown = f"step {opened.step:,}" if opened else "no checkpoint yet"
        if status.state != "running":
            why = f": {status.reason}" if status.reason else ""
            why += f"; {self._last_fault}" if self._last_fault else ""
            return f"{shown}; the run is {status.state}{why}"
        return f"{shown}; {self._progress(status, opened)}"

    def _progress(self, status: Status, opened: Opened | None) -> str:
        every, (step, pace) = self._scene.spec.train.checkpoint_every, self._measured()
        step = max(step, status.step)
        said = f"training, at step {step:,} of {status.steps:,}"
        if self._last_fault:
            return f"{said}; {self._last_fault}"
        total = status.steps
        coming = min((step // every + 1) * every, total) if every else total
        when = f", in about {spoken((coming - step) / pace)}" if pace else ""
        rare = f"; one every {every:,} steps" if every and opened is None else ""
        return f"{said}; next checkpoint at {coming:,}{when}{rare}"

    def _measured(self) -> tuple[int, float]:
        """Step and steps a second of the last line of metrics.jsonl; (0, 0) if there is none."""
        with suppress(OSError, ValueError, KeyError, IndexError):
            with self._run.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                line = json.loads(file.read().splitlines()[-1])
            return int(line["step"]), float(line["steps_per_second"])
        return 0, 0.0
