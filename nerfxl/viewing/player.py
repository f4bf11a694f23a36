"""A path shown as it will be filmed, at the pace of its times, by moving a window's camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nerfxl.filming.paths import CameraPath, Keyframe
from nerfxl.viewing.desk import AT_ONCE

TICK_SECONDS = 0.1  # between two moves of the camera
TICKS_A_SECOND = 30


class Player:
    """A job of the desk. move: told where the camera is next. ended: called when it has arrived."""

    def __init__(self, move: Callable[[Keyframe], None], ended: Callable[[], None]) -> None:
        self._move, self._ended = move, ended
        self._frames: Sequence[Keyframe] = ()
        self._began = self._due = 0.0
        self._loop = False

    @property
    def playing(self) -> bool:
        """Whether it is on its way."""
        return bool(self._frames)

    def play(self, path: CameraPath, now: float) -> None:
        """Begin at the start of a path, which is not empty; a loop goes on until `stop`."""
        count = max(1, round(path.seconds * TICKS_A_SECOND))
        self._began = self._due = now
        self._loop = path.loop and count > 1
        self._frames = path.frames(count)

    def stop(self) -> None:
        """Stay where the camera is."""
        self._frames = ()

    def urgency(self, now: float) -> int | None:
        """At once, a few times a second."""
        return AT_ONCE if self._frames and now >= self._due else None

    def work(self, now: float) -> None:
        """Move the camera to where it is at this time."""
        frames = self._frames
        if not frames:  # stopped meanwhile
            return
        at = int((now - self._began) * TICKS_A_SECOND)
        self._due = now + TICK_SECONDS
        self._move(frames[at % len(frames) if self._loop else min(at, len(frames) - 1)])
        if at >= len(frames) - 1 and not self._loop:
            self.stop()
            self._ended()
