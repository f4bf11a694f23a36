"""Cameras, boxes and the path as a browser draws them, in one window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import viser
import viser.transforms

from nerfxl.pictures import Bytes
from nerfxl.viewing.scenery import Stand, Wire
from nerfxl.viewing.sight import Array

PATH_COLOUR = (214, 20, 120)
LINE = 1.5  # pixels
CLEAR = 1.5  # sizes of a camera: around a window none is drawn
FOLDERS = ("cameras", "tiles", "root", "path")

T = TypeVar("T")


class Props:
    """What one window shows beside the picture. size: of a camera, room units."""

    def __init__(self, api: viser.SceneApi, size: float) -> None:
        self._api, self._size = api, size
        self._cameras: dict[str, viser.CameraFrustumHandle] = {}
        self._folders = {name: api.add_frame(f"/{name}", show_axes=False) for name in FOLDERS}
        self._path: list[viser.SceneNodeHandle] = []

    @property
    def names(self) -> list[str]:
        """Of the views whose cameras are drawn."""
        return list(self._cameras)

    def shown(self, folder: str, visible: bool) -> None:
        """Show or hide the cameras, the tiles, the root box or the path."""
        self._folders[folder].visible = visible

    def add_cameras(self, found: Sequence[Stand], click: Callable[[str], None]) -> None:
        """Draw cameras, without their photographs; told the name of one that is clicked."""
        for number, stand in enumerate(found):
            handle = self._api.add_camera_frustum(
                f"/cameras/{number}",
                fov=stand.fov,
                aspect=stand.aspect,
                scale=self._size,
                thickness=LINE,
                thickness_units="screen",
                color=stand.colour,
                cast_shadow=False,
                receive_shadow=False,
            )
            _place(handle, stand.pose)
            handle.on_click(_told(click, stand.shot.name))
            self._cameras[stand.shot.name] = handle

    def place_cameras(self, found: Sequence[Stand]) -> None:
        """Move the cameras to where they are known to be now."""
        for stand in found:
            if stand.shot.name in self._cameras:
                _place(self._cameras[stand.shot.name], stand.pose)

    def clear(self, place: Array) -> None:
        """Hide the cameras that a window looks through, from a place [3]; show all others."""
        for handle in self._cameras.values():
            handle.visible = bool(np.linalg.norm(handle.position - place) > CLEAR * self._size)

    def photograph(self, name: str, small: Bytes) -> None:
        """Put a small picture into a camera."""
        if name in self._cameras:
            self._cameras[name].image = small

    def add_boxes(self, found: Sequence[Wire]) -> None:
        """Draw the tiles with their numbers, and the root box."""
        for wire in found:
            folder = "root" if wire.number is None else "tiles"
            self._api.add_line_segments(
                f"/{folder}/{wire.number}",
                wire.lines.astype(np.float32),
                wire.colour,
                thickness=LINE,
                thickness_units="screen",
            )
            if wire.number is not None:
                place = tuple(wire.centre.tolist())
                self._api.add_label(
                    f"/tiles/{wire.number}/number",
                    str(wire.number),
                    position=place,
                    anchor="center-center",
                )

    def draw_path(
        self,
        line: Array,
        keyframes: Sequence[tuple[Array, float]],
        aspect: float,
    ) -> None:
        """Draw a path anew: its line [N, 3], and poses [3, 4] and fields of view of keyframes."""
        for node in self._path:
            node.remove()
        self._path = []
        if len(line) > 1:
            pairs = np.stack([line[:-1], line[1:]], axis=1).astype(np.float32)
            self._path.append(
                self._api.add_line_segments(
                    "/path/line", pairs, PATH_COLOUR, thickness=LINE, thickness_units="screen"
                )
            )
        for number, (pose, fov) in enumerate(keyframes):
            handle = self._api.add_camera_frustum(
                f"/path/{number}",
                fov=fov,
                aspect=aspect,
                scale=self._size,
                thickness=LINE,
                thickness_units="screen",
                color=PATH_COLOUR,
                variant="filled",
            )
            _place(handle, pose)
            self._path.append(handle)


def _place(handle: viser.SceneNodeHandle, pose: Array) -> None:
    handle.wxyz = viser.transforms.SO3.from_matrix(pose[:, :3]).wxyz
    handle.position = pose[:, 3]


def _told(click: Callable[[T], None], what: T) -> Callable[[object], None]:
    return lambda _: click(what)
