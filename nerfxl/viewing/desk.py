"""One machine, many windows: whose picture is worked on next."""

from __future__ import annotations

import threading
import time
from typing import Protocol

IDLE_SECONDS = 0.05  # between looks for work that time alone brings

# Urgency: what is lower goes first; jobs of one urgency take turns.
AT_ONCE, IN_TURN, AT_LEISURE = 0, 1, 2


class Job(Protocol):
    """Something that is done a little at a time."""

    def urgency(self, now: float) -> int | None:
        """How urgent its next little is at a time (seconds, monotonic); None: there is none."""

    def work(self, now: float) -> None:
        """Do the next little of it."""


class Desk:
    """Jobs that come and go, of any thread; one thread does them."""

    def __init__(self) -> None:
        self._jobs: dict[Job, int] = {}  # and when each was served last, counted in turns
        self._turn = 0
        self._changed = threading.Condition()

    def add(self, job: Job) -> None:
        """Take a job in; it is served before those that have had their turn."""
        with self._changed:
            self._jobs[job] = 0
            self._changed.notify()

    def remove(self, job: Job) -> None:
        """Drop a job; a little of it may be under way."""
        with self._changed:
            self._jobs.pop(job, None)

    def wake(self) -> None:
        """Look at once whether there is work."""
        with self._changed:
            self._changed.notify()

    def serve(self, now: float) -> bool:
        """Do a little of the job whose turn it is; False if there is nothing to do."""
        with self._changed:
            waiting = [
                (urgency, turn, job)
                for job, turn in self._jobs.items()
                if (urgency := job.urgency(now)) is not None
            ]
            if not waiting:
                return False
            self._turn += 1
            job = min(waiting, key=lambda one: one[:2])[2]
            self._jobs[job] = self._turn
        job.work(now)
        return True

    def run(self) -> None:
        """Serve for ever."""
        while True:
            if not self.serve(time.monotonic()):
                with self._changed:
                    self._changed.wait(IDLE_SECONDS)
