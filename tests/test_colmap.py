"""A library that would handle signals in its own way does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, threading, time
signal.signal(signal.SIGTERM, lambda *_: print("a last checkpoint", flush=True))
from nerfxl.cameras import Camera
camera = Camera("SIMPLE_RADIAL", 8, 6, (7.0, 4.0, 3.0, 0.05))
thread = threading.Thread(target=camera.directions)
thread.start()
thread.join()
assert "pycolmap" in __import__("sys").modules
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
"""


def test_who_is_asked_to_stop_still_hears_it() -> None:
    """Also where a thread is the first to need it: Python sets handlers in its main thread only."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a last checkpoint\n", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_waits_until_it_is_loaded(name: str, tmp_path: Path) -> None:
    """Seen: after Ctrl-C `pose` ended with pycolmap's advice to install it, and exit code 1."""
    (tmp_path / "pycolmap.py").write_text(
        "import os, signal, types\n"
        f"os.kill(os.getpid(), signal.{name})\n"
        "for _ in range(1000):\n"
        "    pass  # where Python would hear it\n"
        "print('loaded', flush=True)\n"
        "logging = types.SimpleNamespace(FATAL=types.SimpleNamespace(value=3))\n"
    )
    script = (
        f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "def leave(*_): raise SystemExit\n"
        f"signal.signal(signal.{name}, leave)\n"
        "try:\n"
        "    import nerfxl.colmap\n"
        "except SystemExit:\n"
        "    print('left')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "loaded\nleft\n", "")
