"""Features of photographs and their matches, in a COLMAP database that survives interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.posing.photographs import Photograph
from nerfxl.posing.stages import Tick, interruptible

FOCAL = 1.0  # longer edges: where nothing is known; between a phone and the usual zoom
MODELS = (  # of pycolmap's, those whose focal length and distortion are learned from photographs
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "FULL_OPENCV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
Item = TypeVar("Item")

MOST_FEATURES = 4096  # of a photograph
_BYTES = 300  # of a feature, its place and its matches
_SHARED = 0.05  # of the features of a photograph
_AT_ONCE = 64  # pairs between two looks at the clock


@dataclass(frozen=True)
class Lens:
    """Photographs that share a camera. focal: pixels, or None; source: who says so."""

    width: int
    height: int
    members: tuple[str, ...]
    focal: float | None
    source: str

    @property
    def start(self) -> float:
        """The focal length to start from."""
        return self.focal or FOCAL * max(self.width, self.height)


def lenses(photographs: Sequence[Photograph], given: float | None) -> list[Lens]:
    """Sort photographs by the lens they were taken through, those of most photographs first.

    given: the focal length in pixels that the user knows; None, what the photographs say.

    Raises
    ------
    UserError: a focal length is given, and the photographs are of several sizes.
    """
    ordered = sorted(photographs, key=lambda one: one.lens)
    groups = [list(members) for _, members in groupby(ordered, key=lambda one: one.lens)]
    sizes = {tuple(sorted((one.width, one.height))) for one in photographs}
    if given is not None and len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:3])
        raise UserError(
            f"--focal {given:g}: the photographs are of {len(sizes)} sizes ({shown}), and pixels "
            "count for one only: pose them by size, or leave it out."
        )
    found = []
    for group in groups:
        first = group[0]
        names = tuple(one.name for one in group)
        focal = first.focal if given is None else given
        source = "--focal" if given is not None else "EXIF" if first.focal else "none"
        found.append(Lens(first.width, first.height, names, focal, source))
    return sorted(found, key=lambda lens: -len(lens.members))


def check_room(folder: Path, photographs: int) -> None:
    """Refuse to begin on a disk that the features will not fit on.

    Raises
    ------
    UserError: there is too little room; in the middle of its work pycolmap would end the process.
    """
    needed = photographs * MOST_FEATURES * _BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: features of {photographs} photographs take up to {needed / 2**30:.1f} GiB, "
            f"and {free / 2**30:.1f} GiB are free: make room, or name another disk by --out."
        )


def begin(path: Path, found: Sequence[Lens], model: str) -> None:
    """Write a database of all photographs, with a camera a lens; whole or not at all."""
    from nerfxl.colmap import pycolmap

    part = path.with_suffix(".part")
    for file in (part, path, *path.parent.glob(f"{path.name}-*"), *path.parent.glob("*.part-*")):
        file.unlink(missing_ok=True)
    camera_kind = pycolmap.SensorType.CAMERA
    rigs: dict[str, tuple[int, Any, int]] = {}
    with _opened(part) as database:
        for lens in found:
            camera = pycolmap.Camera.create_from_model_name(
                camera_id=pycolmap.INVALID_CAMERA_ID,
                model_name=model,
                focal_length=lens.start,
                width=lens.width,
                height=lens.height,
            )
            camera.has_prior_focal_length = False  # see `trust`
            number = database.write_camera(camera)
            sensor = pycolmap.sensor_t(camera_kind, number)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(sensor)
            rigs |= dict.fromkeys(lens.members, (number, sensor, database.write_rig(rig)))
        for name in sorted(rigs):
            number, sensor, rig_number = rigs[name]
            image = database.write_image(pycolmap.Image(name=name, camera_id=number))
            frame = pycolmap.Frame()
            frame.rig_id = rig_number
            frame.add_data_id(pycolmap.data_t(sensor, image))
            database.write_frame(frame)
    part.rename(path)


def trust(path: Path, found: Sequence[Lens]) -> None:
    """Mark focal lengths as known, for mapping.

    Matches are verified without: a fundamental matrix takes up some of the distortion that is not
    known yet, for which an essential matrix at the true focal length would refuse good pairs.
    """
    known = {name for lens in found if lens.focal is not None for name in lens.members}
    with _opened(path) as database:
        trusted = {one.camera_id for one in database.read_all_images() if one.name in known}
        for camera in database.read_all_cameras():
            camera.has_prior_focal_length = camera.camera_id in trusted
            database.update_camera(camera)


def numbers(path: Path) -> dict[str, int]:
    """Return the database's number of each photograph."""
    with _opened(path) as database:
        return {image.name: image.image_id for image in database.read_all_images()}


def keypoints(path: Path) -> dict[str, int]:
    """Return how many features each photograph has of which they were sought."""
    with _opened(path) as database:
        return {
            image.name: database.num_keypoints_for_image(image.image_id)
            for image in database.read_all_images()
            if database.exists_keypoints(image.image_id)
        }


def extract(path: Path, images: Path, max_size: int, threads: int, tick: Tick) -> None:
    """Find features in those photographs that have none yet, at `max_size` pixels at most."""
    from nerfxl.colmap import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = max_size
    options.num_threads = threads
    options.use_gpu = False
    options.sift.max_num_features = MOST_FEATURES

    def work(token: Any) -> None:
        pycolmap.extract_features(
            path, images, some, extraction_options=options, cancellation_token=token
        )

    done = keypoints(path)
    tick(len(done))
    for some in _batches(sorted(set(numbers(path)) - set(done)), 4 * threads):
        interruptible(work)
        tick(len(some))


def inliers(path: Path) -> dict[tuple[str, str], int]:
    """Return how many matches of each pair that was compared agree with one geometry."""
    from nerfxl.colmap import pycolmap

    with _opened(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        pairs, counts = database.read_two_view_geometry_num_inliers()
    both = map(pycolmap.pair_id_to_image_pair, pairs)
    return {(names[a], names[b]): count for (a, b), count in zip(both, counts, strict=True)}


@dataclass(frozen=True, eq=False)
class Seen:
    """Pixels [N, 2] of photograph `one` and the pixels [N, 2] of the same things in `other`."""

    one: str
    other: str
    here: NDArray[np.float64]
    there: NDArray[np.float64]


def verified(path: Path, names: Collection[str]) -> list[Seen]:
    """Return the matches, of one geometry, of all pairs of the photographs named."""
    from nerfxl.colmap import pycolmap

    with _opened(path) as database:
        pixels = {
            image.image_id: (
                image.name,
                np.asarray(database.read_keypoints(image.image_id))[:, :2].astype(np.float64),
            )
            for image in database.read_all_images()
            if image.name in names
        }
        pairs, geometries = database.read_two_view_geometries()
    found = []
    for pair, geometry in zip(pairs, geometries, strict=True):
        a, b = pycolmap.pair_id_to_image_pair(pair)
        rows = np.asarray(geometry.inlier_matches)
        if len(rows) and a in pixels and b in pixels:
            (one, here), (other, there) = pixels[a], pixels[b]
            found.append(Seen(one, other, here[rows[:, 0]], there[rows[:, 1]]))
    return found


def match(
    path: Path, pairs: Sequence[tuple[str, str]], threads: int, seed: int, tick: Tick
) -> None:
    """Compare those pairs of photographs, by name, that were not compared yet."""
    from nerfxl.colmap import pycolmap

    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = threads
    options.use_gpu = False
    geometry = pycolmap.TwoViewGeometryOptions()
    geometry.ransac.random_seed = seed
    listing = pycolmap.ImportedPairingOptions()
    file = path.with_name("pairs.txt")
    listing.match_list_path = file

    def work(token: Any) -> None:
        pycolmap.match_image_pairs(path, options, listing, geometry, cancellation_token=token)

    done = {frozenset(pair) for pair in inliers(path)}
    todo = [pair for pair in pairs if frozenset(pair) not in done]
    tick(len(pairs) - len(todo))
    for some in _batches(todo, _AT_ONCE):
        file.write_text("".join(f"{a} {b}\n" for a, b in some), encoding="utf-8")
        interruptible(work)
        tick(len(some))
    file.unlink(missing_ok=True)


def drop_weak(path: Path, pairs: Sequence[tuple[str, str]]) -> int:
    """Take pairs that share too little out of the database, and return how many were.

    A place that is come back to shares more than two walls with the same windows do: pairs that are
    far apart in a walk must share a twentieth of the features of the poorer photograph.
    """
    found, features, known = inliers(path), keypoints(path), numbers(path)
    weak = [
        pair
        for pair in pairs
        if 0
        < found.get(pair, found.get(pair[::-1], 0))
        < _SHARED * min(features[name] for name in pair)
    ]
    with _opened(path) as database:
        for one, other in weak:
            database.delete_two_view_geometry(known[one], known[other])
    return len(weak)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from nerfxl.colmap import pycolmap

    try:
        database = pycolmap.Database.open(path)
    except RuntimeError as error:
        raise UserError(
            f"{path} could not be opened: the disk is full, or another program has it open; mend "
            "that, and start again."
        ) from error
    with database:
        yield database


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
