"""Readers of posed captures: one file a format, one `Capture` out."""

from __future__ import annotations

from pathlib import Path

from nerfxl.captures.capture import Capture, Split, View, assemble
from nerfxl.captures.colmap import FOLDERS, model_folder, read_colmap
from nerfxl.captures.images import check_image, image_size, load_image, load_mask, load_sky
from nerfxl.captures.synthetic import TRAIN, read_synthetic
from nerfxl.captures.transforms import FILE, read_transforms
from nerfxl.errors import UserError

__all__ = [
    "Capture",
    "Split",
    "View",
    "check_image",
    "image_size",
    "load_image",
    "load_mask",
    "load_sky",
    "read_capture",
]

FORMATS = {"colmap": read_colmap, "transforms": read_transforms, "synthetic": read_synthetic}
_DEFAULT_SPLIT = Split()


def read_capture(
    root: Path,
    *,
    format: str = "auto",  # noqa: A002
    downscale: int = 1,
    split: Split = _DEFAULT_SPLIT,
    max_megapixels: float = 200.0,
    skip_missing: bool = False,
    note: str = "",
    sky: str = "",
) -> Capture:
    """Read cameras, poses and points of a capture; no image is decoded.

    Parameters
    ----------
    root: the capture's folder. format: 'colmap', 'transforms', 'synthetic', or 'auto', which takes
    the first of these that is there: a COLMAP model comes before a transforms.json beside it, since
    it has points. downscale: images are loaded at 1 / downscale, their size rounded down.
    max_megapixels: larger images are refused. skip_missing: leave out the views whose image is
    missing, the capture's `skipped` names them. note: kept with the capture. sky: folder of the
    masks of the sky, <name of the image>.png, which are looked for if it is given.

    Raises
    ------
    UserError: no capture, or one that cannot be used; the sentence names the file.
    """
    if not root.is_dir():
        raise UserError(f"{root}: this is no folder; give the folder of a capture.")
    if format != "auto" and format not in FORMATS:
        raise UserError(f"capture.format {format!r} is not one of auto, {', '.join(FORMATS)}.")
    if downscale < 1:
        raise UserError(f"capture.downscale is {downscale}; it must be 1 or more.")
    reader = FORMATS[_detect(root) if format == "auto" else format]
    return assemble(root, reader(root, downscale, skip_missing), split, max_megapixels, note, sky)


def _detect(root: Path) -> str:
    if model_folder(root):
        return "colmap"
    if (root / FILE).is_file():
        return "transforms"
    if (root / TRAIN).is_file():
        return "synthetic"
    models = ", ".join(str(Path(folder) / "images.bin") for folder in FOLDERS)
    raise UserError(
        f"{root}: no capture found; looked for a COLMAP model ({models}, the same as .txt), "
        f"{FILE} and {TRAIN}."
    )
