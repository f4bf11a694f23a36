"""The server that browsers open: windows come and go, one thread makes all their pictures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import viser

from nerfxl.viewing.panel import Panel
from nerfxl.viewing.sight import ROOM, field_of_view
from nerfxl.viewing.studio import Studio
from nerfxl.viewing.visitor import Visitor

PANEL = 320  # pixels, wide
NEAR, FAR = 0.0005 * ROOM, 200 * ROOM  # room units, between which a browser draws


class _Server(viser.ViserServer):
    """A server that never lends the scene to strangers: a run never reaches for the network."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """No."""
        del verbose
        return None


def _begin_at_home(camera: viser.InitialCameraConfig, studio: Studio) -> None:
    """Where the camera of a new window is, and where the client's own reset takes it."""
    home = studio.home
    pose = studio.room.poses(home.pose[None])[0]
    camera.position, camera.up = pose[:, 3], np.array(studio.up)
    camera.look_at = pose[:, 3] + pose[:, 2]
    camera.fov, camera.near, camera.far = field_of_view(home.camera), NEAR, FAR


@contextmanager
def serving(studio: Studio, host: str, port: int) -> Iterator[int]:
    """Serve a studio to browsers while the block lasts; the port.

    port: a free one of `host`, or 0 for any.
    """
    with redirect_stdout(io.StringIO()):  # what viser says on its own
        server = _Server(host=host, port=port, label=studio.scene.spec.name, verbose=False)
    server.gui.configure_theme(show_share_button=False, show_logo=False)
    server.gui.main_panel.dock_right()
    server.gui.main_panel.set_width(PANEL)
    server.scene.set_up_direction(studio.up)
    _begin_at_home(server.initial_camera, studio)
    visitors: dict[int, Visitor] = {}

    def welcome(client: viser.ClientHandle) -> None:
        visitor = visitors[client.client_id] = Visitor(studio, client)
        visitor.props.add_boxes(studio.wires)
        Panel(visitor)
        visitor.enter()
        if client.client_id not in server.get_clients():  # it has left meanwhile
            visitor.leave()

    def farewell(client: viser.ClientHandle) -> None:
        visitor = visitors.pop(client.client_id, None)
        if visitor is not None:
            visitor.leave()

    server.on_client_connect(welcome)
    server.on_client_disconnect(farewell)
    try:
        with warnings.catch_warnings():
            # Its browser may leave while a picture is made for it.
            warnings.filterwarnings("ignore", "Queued a .* on a closed connection")
            yield server.get_port()
    finally:
        with redirect_stdout(io.StringIO()):
            server.stop()
