"""Rendered captures of the NeRF-synthetic kind: transforms_train.json and transforms_test.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nerfxl.captures.capture import Found
from nerfxl.captures.transforms import load, read_frames

TRAIN, TEST = "transforms_train.json", "transforms_test.json"


def read_synthetic(root: Path, downscale: int, skip_missing: bool) -> Found:
    """Read the training and, where there are any, the test views; transforms_val.json is not used.

    Images are RGBA, cameras pinholes of one `camera_angle_x`; there are no points. An object is
    all that the images hold, so that the capture is `isolated`.

    Raises
    ------
    UserError: as `read_transforms`.
    """
    photographs, skipped = [], list[str]()
    for file, test in ((TRAIN, False), (TEST, True)):
        path = root / file
        if test and not path.is_file():
            continue
        found, left_out = read_frames(root, path, load(path), skip_missing)
        photographs += [replace(photograph, held_out=test) for photograph in found]
        skipped += left_out
    return Found(
        "synthetic",
        root / TRAIN,
        photographs,
        downscale,
        own_split=True,
        isolated=True,
        skipped=tuple(skipped),
    )
