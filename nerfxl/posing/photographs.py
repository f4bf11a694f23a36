"""Photographs in a folder: found, checked to their last byte, and put into the capture."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nerfxl.cameras import Camera
from nerfxl.captures import View, load_image
from nerfxl.captures.images import opened
from nerfxl.errors import UserError
from nerfxl.posing.exif import Exif, read_exif
from nerfxl.posing.stages import Tick

KINDS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mts", ".lrv")
_RAW = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
_POSED = ("sparse", "transforms.json", "transforms_train.json")
_LEAST, _MOST = 64, 200e6  # pixels: of the shorter edge, and in all (what scene files take)
_ENDS = 1 << 16  # bytes of each end of a file that tell it from others
_QUALITY = 95  # of JPEGs that have to be written anew


@dataclass(frozen=True)
class Photograph:
    """A photograph of the capture.

    name: in DIR/images. source: where it was taken from, in PHOTOS. width, height: pixels, upright.
    lens: photographs with the same words here were taken through the same lens at the same focal
    length. focal: pixels, by what the file says of itself, or None. gps: latitude and longitude in
    degrees, and altitude in metres or None; None where it has none.
    """

    name: str
    source: str
    width: int
    height: int
    lens: str
    focal: float | None = None
    gps: tuple[float, float, float | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the journal keeps it."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Photograph:
        """Read `as_json`'s mapping."""
        gps = tuple(values["gps"]) if values["gps"] else None
        return Photograph(**{**values, "gps": gps})


@dataclass(frozen=True)
class Files:
    """What a folder holds. ignored: names of files that are no photographs; tables aside."""

    root: Path
    photographs: tuple[Path, ...]
    ignored: tuple[str, ...]


def listed(root: Path, out: Path) -> Files:
    """Find the photographs of a folder, or, where it has none itself, of the folders in it.

    Raises
    ------
    UserError: there are fewer than two, or the folder is a posed capture.
    """
    posed = next((name for name in _POSED if (root / name).exists()), None)
    if posed:
        raise UserError(
            f"{root}: this is a posed capture, it has {posed}: nerfxl plan reads it as it is; to "
            "pose it anew, give its folder of photographs."
        )
    files = _files(root.iterdir())
    if not any(file.suffix.lower() in KINDS for file in files):
        ours = out.resolve()
        below = (file for file in root.rglob("*") if not file.resolve().is_relative_to(ours))
        files = _files(below)
    photographs = [file for file in files if file.suffix.lower() in KINDS]
    others = [file for file in files if file.suffix.lower() not in (*KINDS, ".csv")]
    if len(photographs) < 2:
        raise UserError(f"{root}: {_what_is_there(photographs, others)}")
    names = tuple(str(file.relative_to(root)) for file in others)
    return Files(root, tuple(photographs), names)


def digest(files: Iterable[Path], root: Path) -> str:
    """Tell photographs from others by name, size and both ends; the same wherever they lie."""
    total = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        total.update(f"{file.relative_to(root)}\0{size}\0".encode(errors="surrogateescape"))
        with file.open("rb") as stream:
            total.update(stream.read(_ENDS))
            stream.seek(max(0, size - _ENDS))
            total.update(stream.read(_ENDS))
    return total.hexdigest()


def collected(files: Files, folder: Path, tick: Tick) -> list[Photograph]:
    """Check all photographs, and put them into a folder: links where possible, copies elsewhere.

    What is not upright, or of a kind that pycolmap does not read, is written anew, upright and as
    JPEG.

    Raises
    ------
    UserError: a photograph is broken, too small or too large; it names the first, and how many.
    """
    found, faults = [], []
    names = _names([str(file.relative_to(files.root)) for file in files.photographs])
    for file, name in zip(files.photographs, names, strict=True):
        try:
            exif = _checked(file)
        except UserError as fault:
            faults.append(str(fault))
            tick(1)
            continue
        found.append(_collected(file, files.root, folder, name, exif))
        tick(1)
    if faults:
        more = f" ({len(faults) - 1} more are like it)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0].removesuffix('.')}, or take it out of the folder{more}.")
    return found


def _files(found: Iterable[Path]) -> list[Path]:
    """Files by name, those that are hidden, or in hidden folders, aside."""
    return sorted(
        file for file in found if file.is_file() and not file.name.startswith((".", "._"))
    )


def _what_is_there(photographs: list[Path], others: list[Path]) -> str:
    kinds = "JPEG, PNG, TIFF or WebP"
    raw = sorted({file.suffix for file in others if file.suffix.lower() in _RAW})
    videos = [file for file in others if file.suffix.lower() in VIDEOS]
    if photographs:
        return "a single photograph cannot be posed; take more, from other places."
    if raw:
        return f"the photographs are {', '.join(raw)}, which is not read; convert them to JPEG."
    if videos:
        return f"no photograph but a video is there; give the video itself: {videos[0]}."
    return f"no photograph is there; looked for {kinds}."


def _names(sources: Sequence[str]) -> list[str]:
    """Names that pycolmap's lists of pairs can hold, which end at white space; all different.

    >>> _names(["a b.jpg", "a_b.jpg", "#1/c.webp"])
    ['a_b.jpg', 'a_b_2.jpg', '_1/c.jpg']
    """
    taken: set[str] = set()
    names = []
    for source in sources:
        plain = re.sub(r"[^\w./+-]", "_", source.replace(os.sep, "/"))
        path = Path(plain).with_suffix(".jpg") if plain.lower().endswith(".webp") else Path(plain)
        name, count = path, 1
        while name.as_posix().lower() in taken:
            count += 1
            name = path.with_stem(f"{path.stem}_{count}")
        taken.add(name.as_posix().lower())
        names.append(name.as_posix())
    return names


def _checked(file: Path) -> Exif:
    """Decode a photograph, as a fit would, and read what it says of itself."""
    with opened(file) as image:
        (width, height), exif = image.size, read_exif(image)
    if min(width, height) < _LEAST:
        raise UserError(
            f"{file}: {width} x {height} pixels are too few, at least {_LEAST} are needed along "
            "each edge; use the original."
        )
    if width * height > _MOST:
        raise UserError(
            f"{file}: {width} x {height} pixels are more than the {_MOST / 1e6:.0f} megapixels "
            "that are read; make it smaller."
        )
    camera = Camera("PINHOLE", width // 8, height // 8, (1.0, 1.0, 0.0, 0.0))
    load_image(View(file.name, camera, np.eye(3, 4), file, None, False, 8, (width, height)))
    return exif


def _collected(file: Path, root: Path, folder: Path, name: str, exif: Exif) -> Photograph:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if exif.turned or file.suffix.lower() == ".webp":
        target = _upright(file, target)
    else:
        _linked(file, target)
    width, height = exif.size
    return Photograph(
        target.relative_to(folder).as_posix(),
        str(file.relative_to(root)),
        width,
        height,
        f"{width} x {height} {exif.lens}".strip(),
        exif.focal,
        exif.gps,
    )


def _upright(file: Path, target: Path) -> Path:
    with opened(file) as image:
        upright = ImageOps.exif_transpose(image)
        if target.suffix.lower() in (".jpg", ".jpeg"):
            upright.convert("RGB").save(target, "JPEG", quality=_QUALITY, subsampling=0)
        else:
            upright.save(target, exif=Image.Exif())
    return target


def _linked(file: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(file), target)
    except OSError:  # another disk, or one without links, or not ours
        try:
            shutil.copyfile(file, target)
        except OSError as error:
            raise UserError(f"{target} could not be written: {error.strerror}.") from error
