"""`nerfxl view`: opens a run in a browser until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nerfxl.errors import UserError
from nerfxl.opened import open_run
from nerfxl.processes.cluster import LAUNCHER, device_kind, die_with_parent
from nerfxl.runs import RunFolder, leaving_on_sigterm
from nerfxl.viewing.extra import check_extra
from nerfxl.viewing.studio import Studio

PORT = 8080
TRIED = 100  # ports that follow the one that was asked for
_TAKEN = (errno.EADDRINUSE, errno.EACCES)  # the latter, of ports below 1024

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where to serve, and whether to start a browser there."""

    host: str = "127.0.0.1"
    port: int = PORT
    browser: bool = False


def view(
    run_path: Path | None,
    output_dir: Path,
    device: str,
    memory: float | None,
    place: Place,
    say: Say,
) -> None:
    """Serve a run to browsers until Ctrl-C, or SIGTERM.

    Raises
    ------
    UserError: viser is missing, there is no such run or device, or nothing can listen at the place.
    """
    check_extra()
    if LAUNCHER in os.environ:  # started beside a run
        die_with_parent()
    kind = device_kind(device)
    run = RunFolder.newest(output_dir) if run_path is None else RunFolder.open(run_path)
    port = free_port(place.host, place.port)
    studio = Studio(run, lambda: open_run(run.path, device=kind, memory=memory))
    from nerfxl.viewing.page import serving  # with viser, which may be missing

    say(f"run        {run.path}")
    with serving(studio, place.host, port) as served:
        url = _url(place.host, served)
        say(f"viewer     {url}, until Ctrl-C")
        if not _is_loopback(place.host):
            say("warning    whoever can reach this port can look: there is no password")
        if place.browser:
            webbrowser.open(url)
        try:
            with leaving_on_sigterm(), suppress(KeyboardInterrupt):  # which is how it ends
                studio.desk.run()
        finally:
            say("viewer     ended")


def free_port(host: str, port: int) -> int:
    """The port, or the first free one after it.

    Raises
    ------
    UserError: this machine has no such address, or none of the ports is free.
    """
    for candidate in range(port, min(port + TRIED, 65536)):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except socket.gaierror as error:
            raise UserError(
                f"--host {host}: there is no such address: {error.strerror}."
            ) from error
        except OSError as error:
            if error.errno not in _TAKEN:
                raise UserError(
                    f"--host {host} --port {candidate}: nothing can listen there: "
                    f"{error.strerror}; use --host 127.0.0.1, or another port."
                ) from error
    raise UserError(f"--port {port}: this and the {TRIED - 1} ports after it are taken.")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(one[4][0]).is_loopback for one in found)


def _url(host: str, port: int) -> str:
    """What to open in a browser on this machine; `host` may stand for all of its addresses."""
    address = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
