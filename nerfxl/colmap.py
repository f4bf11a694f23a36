"""pycolmap, kept from handling our signals and from talking: import it from here, where needed.

It is heavy. Loaded, it takes SIGTERM and the signals of crashes for itself, and answers with a
stack trace and an end: a run that is asked to stop could not write its last checkpoint.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["pycolmap"]

_TAKEN = ("SIGTERM", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")
_ACTION_BYTES = 512  # struct sigaction has 152 on Linux, 16 on macOS; what is in it is not ours


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put handlers of signals back; by libc, for Python can in the main thread alone."""
    c = ctypes.CDLL(None)
    kept = {getattr(signal, name): ctypes.create_string_buffer(_ACTION_BYTES) for name in _TAKEN}
    for number, action in kept.items():
        c.sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            c.sigaction(number, action, None)


@contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    """Let a signal wait: what its handler raises, pycolmap takes for a broken installation."""
    before = signal.getsignal(number)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield  # no handler of Python's is called here
        return
    asked: list[int] = []
    signal.signal(number, lambda found, _: asked.append(found))
    try:
        yield
    finally:
        signal.signal(number, before)
    if asked:
        signal.raise_signal(number)


with _held(signal.SIGINT), _held(signal.SIGTERM), _handlers_kept():
    import pycolmap

pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value  # its log is for its developers
