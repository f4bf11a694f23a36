"""A film of pictures that lie on disk: MP4 by PyAV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from nerfxl.errors import UserError

QUALITY = 18  # libx264's constant rate factor: 17 or 18 is visually lossless


def check_film() -> None:
    """See that films can be written.

    Raises
    ------
    UserError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a film needs PyAV, which is not installed: pip install 'nerfxl[video]', or leave out "
            "--video and take the pictures."
        ) from error


def write_film(pictures: Sequence[Path], path: Path, fps: float) -> None:
    """Write pictures of one size as H.264 in an MP4, whole or not at all.

    Players want even sizes: an odd last row or column is left out.

    Raises
    ------
    UserError: PyAV is missing, or a file cannot be read or written.
    """
    check_film()
    import av

    with Image.open(pictures[0]) as first:
        width, height = (side // 2 * 2 for side in first.size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as film:
            stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(QUALITY), "preset": "medium"}
            for file in pictures:
                with Image.open(file) as picture:
                    colours = np.asarray(picture.convert("RGB"))[:height, :width]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colours), format="rgb24")
                film.mux(stream.encode(frame))
            film.mux(stream.encode())
        temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path} could not be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
