"""All that windows share: the run, its pictures in the making, its photographs, its path."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from nerfxl.filming.paths import CameraPath
from nerfxl.opened import Opened
from nerfxl.pictures import Bytes
from nerfxl.prepare import Shot, read_back
from nerfxl.runs import RunFolder
from nerfxl.viewing import track
from nerfxl.viewing.canvas import Easel
from nerfxl.viewing.desk import Desk
from nerfxl.viewing.following import Following
from nerfxl.viewing.photographs import Photographs, Thumbnails
from nerfxl.viewing.scenery import Stand, Wire, size_of, stands, wires
from nerfxl.viewing.sight import room, upward


class Window(Protocol):
    """What is told of what happens; by the desk's thread, but for `path_changed`."""

    def news(self, new: bool) -> None:
        """`following.words` have changed; new: there is another step on the easel."""

    def thumbnail(self, name: str, small: Bytes) -> None:
        """A view has a small picture."""

    def path_changed(self) -> None:
        """The path was edited, by this window or by another."""


class Studio:
    """A run, and the desk at which its pictures are made.

    open_newest: opens the run at its newest checkpoint. path: in the making, one for all windows,
    so that it survives a page that is loaded anew. path_name: of its file, "" if it has none.
    """

    def __init__(self, run: RunFolder, open_newest: Callable[[], Opened]) -> None:
        self.run = run
        self.scene = read_back(run)
        self.room = room(self.scene.world)
        self.easel, self.desk = Easel(), Desk()
        self.photographs = Photographs(run, self.scene)
        self.thumbnails = Thumbnails(self.photographs, self._small)
        self.following = Following(run, self.scene, self.easel, open_newest, self._news)
        self.path, self.path_name = track.EMPTY, ""
        self._windows: list[Window] = []
        for job in (self.following, self.thumbnails):
            self.desk.add(job)

    def open(self, window: Window) -> None:
        """Tell a window what happens from now on."""
        self._windows = [*self._windows, window]

    def close(self, window: Window) -> None:
        """Tell it no more."""
        self._windows = [one for one in self._windows if one is not window]

    def edit(self, path: CameraPath, name: str | None = None) -> None:
        """Take an edited path, or one that was read from or saved to a file of this name."""
        self.path = path
        self.path_name = self.path_name if name is None else name
        for window in self._windows:
            window.path_changed()

    @property
    def shots(self) -> list[Shot]:
        """The run's views, with their poses as they are known by now."""
        opened = self.easel.opened
        return opened.shots() if opened else list(self.scene.shots)

    @property
    def stands(self) -> list[Stand]:
        """The cameras that are drawn."""
        return stands(self.scene, self.shots)

    @cached_property
    def camera_size(self) -> float:
        """How large to draw a camera."""
        return size_of(self.stands)

    @cached_property
    def wires(self) -> list[Wire]:
        """The boxes that are drawn."""
        return wires(self.scene)

    @cached_property
    def up(self) -> tuple[float, float, float]:
        """Which way is up in the room."""
        poses = self.scene.world.poses(np.stack([shot.pose for shot in self.scene.shots]))
        return upward(poses, self.scene.spec.capture.orientation != "keep")

    @property
    def home(self) -> Shot:
        """The view that a window begins with: the first that was learned from."""
        shots = self.shots
        return next((shot for shot in shots if not shot.test), shots[0])

    @property
    def paths(self) -> Path:
        """The folder of camera paths."""
        return self.run.path / "paths"

    @property
    def looks(self) -> list[str]:
        """Photographs whose look was learned; none where no look is learned."""
        look = self.scene.spec.appearance
        if "on" not in (look.embedding, look.exposure):
            return []
        return [shot.name for shot in self.scene.shots if not shot.test]

    def _news(self, new: bool) -> None:
        for window in self._windows:
            window.news(new)

    def _small(self, name: str, small: Bytes) -> None:
        for window in self._windows:
            window.thumbnail(name, small)
