"""The store through which processes find each other; it listens on one address, not on all."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from nerfxl.errors import UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

T = TypeVar("T")

START_SECONDS = 600.0
_POLL_SECONDS = 0.05
_GREETING_SECONDS = 30.0


def host(address: str, port: int = 0) -> TCPStore:
    """Keep a store for others to join; it listens on `address` alone, on any port if 0.

    It has no authentication: an address other than the loopback belongs on a trusted network.

    Raises
    ------
    OSError
        If the address is not this machine's, or the port is taken.

    """
    from torch._C._distributed_c10d import TCPStore

    family, kind, _, _, where = _resolved(address, port)
    listener = socket.socket(family, kind)
    with closing(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(1024)
        return TCPStore(
            where[0],
            listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=START_SECONDS),
            master_listen_fd=listener.detach(),  # torch, left to itself, binds to all interfaces
        )


def join(address: str, port: int, seconds: float = START_SECONDS) -> TCPStore:
    """Join the store that another process keeps, as soon as it is there.

    Raises
    ------
    UserError
        If nobody answers within `seconds`, or what answers is not such a store.

    """
    from torch._C._distributed_c10d import TCPStore

    def answered() -> bool:
        try:
            where = _resolved(address, port)[4]
            socket.create_connection(where[:2], timeout=5).close()
        except OSError:
            return False
        return True

    if not until(answered, seconds):
        raise UserError(
            f"{address}:{port} did not answer within {seconds:g} s: start rank 0, or the first "
            "machine, there, and let the network reach it."
        )

    def greet() -> TCPStore:
        greeting = timedelta(seconds=_GREETING_SECONDS)
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=greeting)

    try:
        store = answer(greet, 2 * _GREETING_SECONDS)
    except StoreLostError as error:
        raise UserError(
            f"{address}:{port} does not answer as nerfxl would: another program has this port, so "
            "choose another."
        ) from error
    store.set_timeout(timedelta(seconds=START_SECONDS))
    return store


def until(happened: Callable[[], bool], seconds: float) -> bool:
    """Wait until something has happened; False after `seconds`.

    In small steps: a signal gets through, which it does not while a store is waited for.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class StoreLostError(UserError):
    """Whoever keeps the store has ended, is stopped, or cannot be reached."""


def answer(ask: Callable[[], T], seconds: float) -> T:
    """Ask a store something; a stopped keeper would never answer.

    Raises
    ------
    StoreLostError
        If there is no answer within `seconds`, or the connection is lost.

    """
    answers: list[T] = []

    def call() -> None:
        with suppress(RuntimeError):  # a lost connection
            answers.append(ask())

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(seconds)
    if not answers:
        raise StoreLostError("the store through which the ranks meet does not answer.")
    return answers[0]


def missing(store: Store, prefix: str, members: Iterable[int], seconds: float) -> list[int]:
    """Members that have not set `prefix/<member>` within `seconds`."""
    absent = list(members)

    def all_here() -> bool:
        absent[:] = [one for one in absent if not store.check([f"{prefix}/{one}"])]
        return not absent

    until(all_here, seconds)
    return absent


def is_loopback(address: str) -> bool:
    """Whether an address, or what a name stands for on this machine, is this machine's own."""
    try:
        return ipaddress.ip_address(_resolved(address, 0)[4][0]).is_loopback
    except OSError:
        return False


def check_reachable(address: str) -> None:
    """Refuse a host name that stands for the loopback here: other machines would not find it.

    Raises
    ------
    UserError
        Names the address; the loopback itself, 127.0.0.1 or localhost, is taken to be meant.

    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if address != "localhost" and is_loopback(address):
            raise UserError(
                f"the name {address} stands for {_resolved(address, 0)[4][0]} on this machine, "
                "which other machines cannot reach: give the address itself."
            ) from None


def interface_towards(address: str) -> str | None:
    """The network interface that leads to an address; None where it cannot be told.

    >>> interface_towards("127.0.0.1") if sys.platform == "linux" else "lo"
    'lo'
    """
    if sys.platform != "linux":
        return None
    try:
        family, _, _, _, where = _resolved(address, 9)
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect(where)  # sends nothing: a datagram socket only chooses its route
            own = probe.getsockname()[0]
    except OSError:
        return None
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if own in _addresses(name)), None)


def _addresses(interface: str) -> list[str]:
    """The addresses of one of Linux's interfaces."""
    import fcntl
    from pathlib import Path

    found = []
    request_address = 0x8915  # SIOCGIFADDR
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            query = struct.pack("256s", interface.encode())
            answer = fcntl.ioctl(probe.fileno(), request_address, query)
            found.append(socket.inet_ntoa(answer[20:24]))
        except OSError:
            pass  # it has no address of version 4
    six = Path("/proc/net/if_inet6")
    for line in six.read_text().splitlines() if six.exists() else ():
        digits, *_, name = line.split()
        if name == interface:
            found.append(str(ipaddress.ip_address(int(digits, 16).to_bytes(16))))
    return found


_Resolved = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]


def _resolved(address: str, port: int) -> _Resolved:
    """The first of the address's meanings, version 4 before 6."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    return min(found, key=lambda one: one[0] != socket.AF_INET)  # type: ignore[return-value]
