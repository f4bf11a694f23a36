"""The camera path: its keyframes, how it is filmed, its file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from nerfxl.filming.paths import CameraPath
from nerfxl.viewing import track
from nerfxl.viewing.controls import guarded, notify, put, when_pressed, when_set
from nerfxl.viewing.visitor import Visitor

NONE = "no keyframe yet"
NO_FILE = "no path saved yet"


class PathTab:
    """Edits the studio's path; `fill` shows it as it is, whoever has edited it."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.gui, self.studio = visitor, visitor.client.gui, visitor.studio
        self._at = 0  # the keyframe that is chosen
        self._build_keyframes()
        self._build_film()
        self._build_file()
        self.fill()

    def add(self) -> None:
        """A keyframe where the camera is, at the end of the path."""
        path = track.added(self.studio.path, self.visitor.pose, self.visitor.fov)
        self._edit(path, len(path.keyframes) - 1)

    def play(self) -> None:
        """Play the path, or stop playing it."""
        if self.visitor.player.playing:
            self.visitor.player.stop()
        elif self.studio.path.keyframes:
            self.visitor.player.play(self.studio.path, time.monotonic())
        self.fill()
        self.studio.desk.wake()

    def fill(self) -> None:
        """Show the path as it is now."""
        path = self.studio.path
        names = [
            f"{k + 1}: {one.time:.1f} s, {one.fov:.0f}°" for k, one in enumerate(path.keyframes)
        ]
        at = self._at = max(0, min(self._at, len(names) - 1))
        self._list.options = tuple(names or [NONE])
        put(self._list, names[at] if names else NONE)
        for handle in self._needing:
            handle.disabled = not names
        if names:
            before = path.keyframes[at - 1].time if at else 0.0
            put(self._fov, path.keyframes[at].fov)
            put(self._gap, path.keyframes[at].time - before)
            self._gap.disabled = at == 0
            put(self._seconds, path.seconds)
        put(self._fps, path.fps)
        put(self._loop, path.loop)
        put(self._width, path.width)
        put(self._height, path.height)
        self._play.label = "Stop" if self.visitor.player.playing else "Play"
        put(self._name, self.studio.path_name or self._name.value)
        self._saved.options = tuple(track.saved(self.studio.paths) or [NO_FILE])

    def _build_keyframes(self) -> None:
        gui = self.gui
        when_pressed(gui.add_button("Add a keyframe here"), self.add)
        self._list = gui.add_dropdown("Keyframe", [NONE])
        when_set(self._list, self._choose)
        self._fov = gui.add_number("Field of view", 50.0, min=1.0, max=170.0, step=1.0)
        self._gap = gui.add_number("Seconds to it", 2.0, min=track.SHORTEST, step=0.1)
        place = gui.add_button_group("Place", ["go there", "put here"])
        order = gui.add_button_group("Order", ["earlier", "later", "delete"])
        do: dict[str, Callable[[], None]] = {
            "go there": self._go,
            "put here": self._put,
            "earlier": lambda: self._move(-1),
            "later": lambda: self._move(1),
            "delete": self._delete,
        }
        for group in (place, order):
            group.on_click(lambda event: self._ordered(do[event.target.value]))
        when_set(self._fov, self._widen)
        when_set(self._gap, self._delay)
        self._needing = [self._list, self._fov, self._gap]

    def _build_film(self) -> None:
        gui = self.gui
        with gui.add_folder("Film"):
            self._play = gui.add_button("Play")
            self._seconds = gui.add_number("Seconds", 0.0, min=0.0, step=0.5)
            self._fps = gui.add_number("Frames a second", 30.0, min=1.0, max=1000.0, step=1.0)
            self._loop = gui.add_checkbox("Back to its start", False)
            self._width = gui.add_number("Width", 1280, min=16, max=16384, step=1)
            self._height = gui.add_number("Height", 720, min=16, max=16384, step=1)
        when_pressed(self._play, self.play)
        when_set(self._seconds, self._last)
        for handle in (self._fps, self._loop, self._width, self._height):
            when_set(handle, self._form)
        self._needing += [self._play, self._seconds]

    def _build_file(self) -> None:
        gui = self.gui
        with gui.add_folder("File"):
            self._name = gui.add_text("Name", "path")
            when_pressed(gui.add_button("Save in the run's folder"), self._save)
            when_pressed(gui.add_button("Download"), self._download)
            self._saved = gui.add_dropdown("Saved", [NO_FILE])
            when_pressed(gui.add_button("Load"), self._load)

    def _edit(self, path: CameraPath, at: int) -> None:
        """Take an edited path, with one of its keyframes chosen."""
        self._at = at
        self.studio.edit(path)

    def _choose(self) -> None:
        self._at = list(self._list.options).index(self._list.value)
        self.fill()

    def _ordered(self, do: Callable[[], None]) -> None:
        if self.studio.path.keyframes:  # a group of buttons cannot be switched off
            do()

    def _go(self) -> None:
        self.visitor.move(self.studio.path.keyframes[self._at])

    def _put(self) -> None:
        visitor = self.visitor
        self._edit(track.placed(self.studio.path, self._at, visitor.pose, visitor.fov), self._at)

    def _move(self, by: int) -> None:
        path = track.moved(self.studio.path, self._at, by)
        self._edit(path, self._at + by if path is not self.studio.path else self._at)

    def _delete(self) -> None:
        self._edit(track.removed(self.studio.path, self._at), self._at)

    def _widen(self) -> None:
        self._edit(track.widened(self.studio.path, self._at, self._fov.value), self._at)

    def _delay(self) -> None:
        self._edit(track.delayed(self.studio.path, self._at, self._gap.value), self._at)

    def _last(self) -> None:
        self._edit(track.lasting(self.studio.path, self._seconds.value), self._at)

    def _form(self) -> None:
        path = replace(self.studio.path, fps=self._fps.value, loop=self._loop.value)
        width, height = self._width.value, self._height.value
        self._edit(replace(path, width=width, height=height), self._at)

    def _save(self) -> None:
        guarded(self.visitor.client, self._write)

    def _write(self) -> None:
        studio, name = self.studio, self._name.value
        file = track.save(studio.path, studio.paths, name, studio.path_name)
        studio.edit(studio.path, name)
        notify(self.visitor.client, f"Saved as {file.name}", "In paths/ of the run's folder.")

    def _download(self) -> None:
        client, path = self.visitor.client, self.studio.path
        if not path.keyframes:
            notify(client, "Nothing to download", "The path has no keyframe yet.")
            return
        client.send_file_download(
            f"{self._name.value}.json", path.to_json().encode(), save_immediately=True
        )

    def _load(self) -> None:
        guarded(self.visitor.client, self._read)

    def _read(self) -> None:
        name = self._saved.value
        if name != NO_FILE:
            self._at = 0
            self.studio.edit(CameraPath.load(self.studio.paths / f"{name}.json"), name)
            put(self._name, name)
