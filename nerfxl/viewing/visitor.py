"""One window: its camera, its picture, what it shows, and where it is asked to go."""

from __future__ import annotations

import time
from math import degrees, radians
from typing import Protocol

import numpy as np
import viser
import viser.transforms

from nerfxl.filming.paths import Keyframe
from nerfxl.pictures import Bytes
from nerfxl.prepare import Shot
from nerfxl.viewing.canvas import Canvas, Frame
from nerfxl.viewing.photographs import Comparing, Comparison
from nerfxl.viewing.player import Player
from nerfxl.viewing.props import Props
from nerfxl.viewing.scenery import overview
from nerfxl.viewing.shows import Legend, Show
from nerfxl.viewing.sight import WIDEST, Array, Sight, hiding, window_onto
from nerfxl.viewing.studio import Studio

QUALITY = {False: 80, True: 95}  # of JPEG, of a picture that a finer one follows, and of the last
OVERVIEW = 50.0  # degrees
SAME = 1e-3  # room units, and of axes: poses that are this near are one
ORBIT = (1.0, 20.0)  # room units: how far ahead of the camera the mouse's orbit has its centre


class Listener(Protocol):
    """The panel of a window: hears what changes, mostly from the desk's thread."""

    def shown(self, frame: Frame, legend: Legend | None) -> None:
        """A picture was shown."""

    def compared(self, found: Comparison) -> None:
        """A view was compared with its photograph."""

    def news(self) -> None:
        """The run has something new to say."""

    def path_changed(self) -> None:
        """The path was edited, or has been played."""


class Visitor:
    """A window of a studio. Its methods may be called from any thread."""

    def __init__(self, studio: Studio, client: viser.ClientHandle) -> None:
        self.studio, self.client = studio, client
        self.show = Show(studio.scene)
        self.canvas = Canvas(studio.easel, self._frame)
        self.comparing = Comparing(studio.easel, studio.photographs, self._compared)
        self.player = Player(self.move, self._changed)
        self.props = Props(client.scene, studio.camera_size)
        self.like: str | None = None
        self.hides = True  # whether the scene hides cameras and boxes that are behind it
        self.visited: Shot | None = None
        self._size = (client.camera.image_width, client.camera.image_height)
        self.listener: Listener | None = None
        client.camera.on_update(lambda _: self.look())

    @property
    def jobs(self) -> tuple[Canvas, Comparing, Player]:
        """What the desk does for this window."""
        return self.canvas, self.comparing, self.player

    @property
    def pose(self) -> Array:
        """The camera's pose now: [3, 4], source coordinates."""
        camera = self.client.camera
        turn = viser.transforms.SO3(camera.wxyz).as_matrix()
        pose = np.concatenate([turn, camera.position[:, None]], axis=1)
        return np.asarray(self.studio.room.inverse().poses(pose[None])[0])

    @property
    def fov(self) -> float:
        """The camera's vertical field of view, degrees."""
        return degrees(self.client.camera.fov)

    def look(self) -> None:
        """Ask for a picture of what the camera sees."""
        camera = self.client.camera
        width, height = camera.image_width, camera.image_height
        if (width, height) != self._size:
            self._size = (width, height)
            self._fit()
        if width and height:  # a window may be hidden
            sight = Sight(self.pose, min(camera.fov, WIDEST), width, height, self.like)
            self.canvas.look(sight, time.monotonic())
            self.props.clear(camera.position)
            self.studio.desk.wake()

    def go(self, pose: Array, fov: float) -> None:
        """Move the camera. pose: [3, 4], source coordinates. fov: vertical, degrees."""
        there = self.studio.room.poses(pose[None])[0]
        forward, place = there[:, 2], there[:, 3]
        # The mouse turns about what lies ahead of the camera as far as the middle of the scene.
        ahead = float(np.clip(-(place @ forward), *ORBIT))
        camera = self.client.camera
        with self.client.atomic():
            camera.position = place
            camera.wxyz = viser.transforms.SO3.from_matrix(there[:, :3]).wxyz
            camera.look_at = place + ahead * forward
            camera.fov = radians(fov)
        self.client.flush()

    def move(self, keyframe: Keyframe) -> None:
        """Move the camera to a keyframe of a path."""
        self.go(keyframe.pose, keyframe.fov)

    def visit(self, shot: Shot) -> None:
        """Go where a photograph was taken, with a window that shows all of it."""
        self.visited = shot
        self.go(shot.pose, self._showing(shot))

    def home(self) -> None:
        """Go where a window begins."""
        self.visit(self.studio.home)

    def overview(self) -> None:
        """Go where all boxes are seen."""
        self.visited = None
        pose = overview(self.studio.scene, self.studio.up)
        self.go(self.studio.room.inverse().poses(pose[None])[0], OVERVIEW)

    def again(self) -> None:
        """Show the last picture once more: it is to be shown in another way."""
        self.canvas.repaint()
        self.studio.desk.wake()

    def level(self) -> None:
        """Turn the camera upright."""
        self.client.camera.up_direction = self.studio.up

    def enter(self) -> None:
        """The window is open: begin at the beginning."""
        self.studio.open(self)
        for job in self.jobs:
            self.studio.desk.add(job)
        self.path_changed()
        if self.studio.easel.opened is None:  # there are only boxes and cameras to see
            self.overview()
        else:
            self.home()
        self.look()
        self.studio.thumbnails.want(self.props.names)

    def leave(self) -> None:
        """The window is closed."""
        self.studio.close(self)
        for job in self.jobs:
            self.studio.desk.remove(job)

    def news(self, new: bool) -> None:
        """The run has another step, or something else to say."""
        if new:
            self.canvas.again()
            self.comparing.again()
            if self.studio.scene.spec.cameras.refine != "off":
                self.props.place_cameras(self.studio.stands)
        if self.listener:
            self.listener.news()

    def thumbnail(self, name: str, small: Bytes) -> None:
        """A camera gets its photograph."""
        self.props.photograph(name, small)

    def path_changed(self) -> None:
        """Draw the path anew."""
        path, room = self.studio.path, self.studio.room
        line, frames = np.zeros((0, 3)), path.keyframes
        if len(frames) > 1:
            count = 12 * len(frames)
            line = room.points(np.stack([one.pose[:, 3] for one in path.frames(count)]))
        poses = [(room.poses(one.pose[None])[0], radians(one.fov)) for one in frames]
        self.props.draw_path(line, poses, path.width / path.height)
        self._changed()

    def _showing(self, shot: Shot) -> float:
        """The field of view of the window that shows all of a photograph, degrees."""
        width, height = self._size
        return degrees(window_onto(shot.camera, max(width, 1) / max(height, 1)))

    def _fit(self) -> None:
        """The window has another shape: show all of the photograph that it shows, if it does."""
        shot = self.visited
        if shot is not None and self._is_at(shot.pose):
            self.client.camera.fov = radians(self._showing(shot))

    def _is_at(self, pose: Array) -> bool:
        room = self.studio.room
        here, there = room.poses(np.stack([self.pose, pose]))
        return bool(np.abs(here - there).max() < SAME)

    def _changed(self) -> None:
        if self.listener:
            self.listener.path_changed()

    def _frame(self, frame: Frame) -> None:
        image, legend = self.show(frame)
        depth = hiding(frame.picture, frame.camera, self.studio.room.scale) if self.hides else None
        self.client.scene.set_background_image(
            image, format="jpeg", jpeg_quality=QUALITY[frame.whole], depth=depth
        )
        self.client.flush()
        if self.listener:
            self.listener.shown(frame, legend)

    def _compared(self, found: Comparison) -> None:
        if self.listener:
            self.listener.compared(found)
