"""Frames of a video: the sharpest of each stretch of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nerfxl.errors import UserError
from nerfxl.posing.photographs import Photograph
from nerfxl.posing.stages import Tick

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_LOOK = 480  # pixels of the longer edge at which frames are judged: noise and grain are gone there
_QUALITY = 95
_WHOLE = 0.9  # of the time that a video says it lasts: sound may last a little longer than pictures
_TURNS = {  # by degrees counter-clockwise
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class Judged(NamedTuple):
    """A frame, its place in the video, and how sharp it is."""

    sharpness: float
    number: int
    frame: av.VideoFrame


class Selection(NamedTuple):
    """Frames that were written, of how many, and the words for what could not be decoded."""

    photographs: list[Photograph]
    frames: int
    damage: str


def check(video: Path) -> None:
    """Refuse what is no video.

    Raises
    ------
    UserError: PyAV is not installed, or the file cannot be read or holds no pictures.
    """
    with _opened(video):
        pass


def selected(video: Path, count: int, folder: Path, tick: Tick) -> Selection:
    """Write the sharpest frame of each of `count` equal stretches of time, upright, as JPEG.

    tick: told each stretch that is over.

    Raises
    ------
    UserError: the video cannot be read, or holds fewer than two frames.
    """
    import av

    with _opened(video) as container:
        times = _times(container)
        if len(times) < 2:
            raise UserError(f"{video}: the video has {len(times)} frames; at least 2 are needed.")
        edges = np.linspace(times[0], times[-1], count + 1)[1:-1]
        found: list[Photograph] = []
        damage = _cut_short(container, times, video)
        best: Judged | None = None
        current = 0
        try:
            for number, frame in enumerate(container.decode(video=0)):
                at = times[0] if frame.pts is None else frame.pts
                stretch = max(current, int(np.searchsorted(edges, at, side="right")))
                if stretch != current and best is not None:
                    found.append(_written(best, folder, video))
                    tick(stretch - current)
                    current, best = stretch, None
                judged = Judged(sharpness(_grey(frame)), number, frame)
                best = judged if best is None or judged.sharpness > best.sharpness else best
        except av.error.FFmpegError as error:
            if best is None:
                raise _unreadable(video, error) from error
            damage = f"{video.name} could not be decoded after frame {best.number}: {error}"
        if best is not None:
            found.append(_written(best, folder, video))
    return Selection(found, len(times), damage)


def sharpness(grey: NDArray[np.float32]) -> float:
    """Variance of the Laplacian of a picture [H, W]: blur takes it away.

    >>> edge = np.zeros((5, 6), np.float32)
    >>> edge[:, 3:] = 100
    >>> soft = edge.copy()
    >>> soft[:, 2:4] = 33, 67
    >>> sharpness(edge) > sharpness(soft) > 0
    True
    """
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var())


@contextmanager
def _opened(video: Path) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError:
        raise UserError(
            f"{video}: reading a video needs PyAV; install it: pip install 'nerfxl[video]'."
        ) from None
    try:
        container = av.open(str(video))
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(video, error) from error
    with container:
        if not container.streams.video:
            raise UserError(f"{video}: the file holds no pictures; give a video of the scene.")
        container.streams.video[0].thread_type = "AUTO"
        yield container


def _unreadable(video: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"{video}: this is no folder, and no video that can be read ({reason}); give a folder of "
        "photographs or a whole video."
    )


def _times(container: InputContainer) -> list[int]:
    """Times of all frames, in the stream's units, ascending; nothing is decoded."""
    packets = container.demux(video=0)
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    container.seek(0)
    return times


def _cut_short(container: InputContainer, times: list[int], video: Path) -> str:
    """Words for a video that ends long before the time it says it lasts; "" for a whole one."""
    import av

    unit = container.streams.video[0].time_base
    if container.duration is None or unit is None:
        return ""
    stated, there = container.duration / av.time_base, float((times[-1] - times[0]) * unit)
    usual = there / (len(times) - 1)
    if there + 2 * usual >= _WHOLE * stated:
        return ""
    return f"{video.name} says that it lasts {stated:.1f} s and ends after {there:.1f} s: cut short"


def _grey(frame: av.VideoFrame) -> NDArray[np.float32]:
    scale = min(1.0, _LOOK / max(frame.width, frame.height))
    size = (max(3, round(frame.width * scale)), max(3, round(frame.height * scale)))
    small = frame.reformat(*size, format="gray")
    return small.to_ndarray().astype(np.float32)


def _written(best: Judged, folder: Path, video: Path) -> Photograph:
    image: Image.Image = Image.fromarray(best.frame.to_ndarray(format="rgb24"))
    turn = round(best.frame.rotation) % 360
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    name = f"frame_{best.number + 1:06d}.jpg"
    image.save(folder / name, "JPEG", quality=_QUALITY, subsampling=0)
    lens = f"{image.width} x {image.height}"
    return Photograph(name, f"{video.name}#{best.number + 1}", image.width, image.height, lens)
