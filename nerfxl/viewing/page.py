"""The server that browsers open: windows come and go, one thread makes all their pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import viser

from nerfxl.viewing.panel import Panel
from nerfxl.viewing.sight import ROOM
from nerfxl.viewing.studio import Studio
from nerfxl.viewing.visitor import Visitor

NEAR, FAR = 0.0005 * ROOM, 200 * ROOM  # room units, between which a browser draws


class _Server(viser.ViserServer):
    """A server that never lends the scene to strangers: a run never reaches for the network."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """No."""
        del verbose
        return None


@contextmanager
def serving(studio: Studio, host: str, port: int) -> Iterator[int]:
    """Serve a studio to browsers while the block lasts; the port.

    port: a free one of `host`, or 0 for any.
    """
    with redirect_stdout(io.StringIO()):  # what viser says on its own
        server = _Server(host=host, port=port, label=studio.scene.spec.name, verbose=False)
    server.gui.configure_theme(show_share_button=False, show_logo=False)
    server.scene.set_up_direction(studio.up)
    server.initial_camera.near, server.initial_camera.far = NEAR, FAR
    visitors: dict[int, Visitor] = {}

    def welcome(client: viser.ClientHandle) -> None:
        visitor = visitors[client.client_id] = Visitor(studio, client)
        visitor.props.add_boxes(studio.wires)
        Panel(visitor)
        visitor.enter()

    def farewell(client: viser.ClientHandle) -> None:
        visitors.pop(client.client_id).leave()

    server.on_client_connect(welcome)
    server.on_client_disconnect(farewell)
    try:
        yield server.get_port()
    finally:
        with redirect_stdout(io.StringIO()):
            server.stop()
