"""What the command line asks of pose."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nerfxl.posing.level import How
from nerfxl.posing.pairs import Kind

_FRAMES = 200


@dataclass(frozen=True)
class Ask:
    """What the command line asks for.

    photos: a folder of photographs, or a video. out: the folder of the capture. frames: of a video;
    None takes 200. max_size: pixels of the longer edge at which features are sought. camera: a
    camera model of pycolmap. focal: pixels, held. up: what is level. threads: None takes all cores.
    """

    photos: Path
    out: Path
    frames: int | None
    matching: Kind | Literal["auto"]
    mapping: Literal["auto", "usual", "forward"]
    max_size: int
    camera: str
    focal: float | None
    up: How
    seed: int
    threads: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on, by the options' names."""
        return {
            **({} if self.photos.is_dir() else {"--frames": self.stretches}),
            "--matching": self.matching,
            "--mapping": self.mapping,
            "--max-size": self.max_size,
            "--camera": self.camera,
            "--focal": self.focal,
            "--up": self.up,
            "--seed": self.seed,
        }

    @property
    def stretches(self) -> int:
        """Stretches of a video, of each of which a frame is taken."""
        return self.frames or _FRAMES

    @property
    def cores(self) -> int:
        """Threads to use."""
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        return self.threads or cores or 1
