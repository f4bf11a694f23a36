"""A posed capture: its views, its points, and the checks that every format shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import MODELS, Camera
from nerfxl.errors import UserError

EVERY = 8  # the usual share of held-out images, where the capture and the scene say nothing
FARTHEST = 1e9  # source units; float64 knows a ten-millionth of a unit there
_ORTHONORMAL = 1e-3
_LONGEST_NAME, _LONGEST_PATH = 255, 1000  # what file systems take
_FOCAL = (1e-3, 1e6)  # of a lens, in longer edges of the picture

Sight = Callable[[], NDArray[np.float64]]  # reads [S, 5]: pixel of the file, point


@dataclass(frozen=True, eq=False)
class View:
    """One photograph and where it was taken.

    name: as the capture lists it. camera: at the size at which the image is loaded. pose: [3, 4]
    camera-to-world, OpenCV axes, source coordinates. image, mask: files, or None. test: held out.
    divisor: the file's pixels along one edge of a loaded pixel. file_size: of the file (width,
    height), where it is not the camera's size times the divisor. sky: file of the mask of the sky,
    or None. seen: reads the points that were seen, see `sightings`; None where none were.
    """

    name: str
    camera: Camera
    pose: NDArray[np.float64]
    image: Path | None
    mask: Path | None
    test: bool
    divisor: int = 1
    file_size: tuple[int, int] | None = None
    sky: Path | None = None
    seen: Sight | None = None

    def sightings(self) -> NDArray[np.float64]:
        """Read which of the capture's points the photograph saw, and where.

        Returns
        -------
        [S, 5]: pixel x, y at the size of the camera, the centre of the first being (0.5, 0.5), and
        the point, source coordinates. Those outside the picture, in a border that `Camera.reduced`
        leaves out, are not among them.

        Raises
        ------
        UserError: the capture's files are damaged there.
        """
        if self.seen is None:
            return np.empty((0, 5))
        found = self.seen()
        found[:, :2] /= self.divisor
        pixel, size = found[:, :2], (self.camera.width, self.camera.height)
        return found[((pixel >= 0) & (pixel < size)).all(axis=1)]

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height that the image file must have."""
        whole = (self.camera.width * self.divisor, self.camera.height * self.divisor)
        return self.file_size or whole


@dataclass(frozen=True, eq=False)
class Capture:
    """Views sorted by name, in source coordinates; at least two, at least one of them to fit.

    points: [P, 3], may be empty. point_colours: [P, 3], black where the file has none.
    isolated: the images hold one object and nothing behind it. skipped: names of the views that
    were left out because their image is missing.
    """

    root: Path
    format: str
    views: tuple[View, ...]
    points: NDArray[np.float64]
    point_colours: NDArray[np.uint8]
    note: str
    isolated: bool = False
    skipped: tuple[str, ...] = ()

    @property
    def train(self) -> tuple[View, ...]:
        """The views to fit."""
        return tuple(view for view in self.views if not view.test)

    @property
    def test(self) -> tuple[View, ...]:
        """The views held out."""
        return tuple(view for view in self.views if view.test)

    def poses(self) -> NDArray[np.float64]:
        """Camera-to-world of all views, source coordinates: [N, 3, 4]."""
        return np.stack([view.pose for view in self.views])

    def sights(self, count: int = 5) -> NDArray[np.float64]:
        """Rays spread over each view's picture from corner to corner.

        Returns
        -------
        [N, count^2, 3]: unit vectors, source coordinates; NaN where the camera has no ray.
        """
        fans: dict[Camera, NDArray[np.float64]] = {}
        for view in self.views:
            if view.camera not in fans:
                fans[view.camera] = view.camera.fan(count)
        return np.stack([fans[view.camera] @ view.pose[:, :3].T for view in self.views])


@dataclass(frozen=True)
class Split:
    """Which views are held out.

    every: sorted index % every == 0. train, test: names; views in neither are not used. Neither:
    the capture's own lists where it has them, otherwise every 8th.
    """

    every: int | None = None
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Photograph:
    """A view as a reader found it: camera at the file's size; held_out None: in no own list.

    seen: reads the points that were seen, at the file's size; None where none were.
    """

    name: str
    camera: Camera
    pose: NDArray[np.float64]
    image: Path
    mask: Path | None = None
    held_out: bool | None = None
    seen: Sight | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a reader found.

    source: the file that errors speak of. divisor: how much smaller the images are to be loaded.
    own_split: `held_out` of the photographs is the capture's own split.
    """

    format: str
    source: Path
    photographs: Sequence[Photograph]
    divisor: int
    points: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    point_colours: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 3), np.uint8))
    own_split: bool = False
    isolated: bool = False
    skipped: tuple[str, ...] = ()


def assemble(
    root: Path, found: Found, split: Split, max_megapixels: float, note: str, sky: str = ""
) -> Capture:
    """Check what a reader found, divide it and put it in order.

    sky: the folder of the masks of the sky, which are looked for if it is given.

    Raises
    ------
    UserError: too few views, a name listed twice, a split that names no view, an image above the
    limit, a camera that cannot be, a point that is not finite, a mask that lies elsewhere.
    """
    photographs = sorted(found.photographs, key=lambda photograph: photograph.name)
    _check_names([photograph.name for photograph in photographs], found)
    for photograph in photographs:
        _check_camera(photograph, found, max_megapixels)
        _check_place(photograph, found)
    if not np.isfinite(found.points).all():
        row = int(np.flatnonzero(~np.isfinite(found.points).all(axis=1))[0])
        raise UserError(
            f"{found.source}: point {row} of {len(found.points)} has a coordinate that is not a "
            "finite number; remove it."
        )
    if len(found.points) and (far := np.abs(found.points).max(axis=1)).max() > FARTHEST:
        raise UserError(
            f"{found.source}: point {int(far.argmax())} of {len(found.points)} has the coordinate "
            f"{far.max():.4g}, beyond {FARTHEST:g}; remove it, or move the origin near the scene."
        )
    held_out = _divide(photographs, found, split)
    views = tuple(
        View(
            name=photograph.name,
            camera=photograph.camera.reduced(found.divisor)
            if found.divisor > 1
            else photograph.camera,
            pose=photograph.pose,
            image=photograph.image,
            mask=photograph.mask,
            test=held_out[photograph.name],
            divisor=found.divisor,
            file_size=(photograph.camera.width, photograph.camera.height),
            sky=_sky(root, sky, photograph.name),
            seen=photograph.seen,
        )
        for photograph in photographs
        if photograph.name in held_out
    )
    _check_counts(views, found)
    return Capture(
        root=root,
        format=found.format,
        views=views,
        points=found.points,
        point_colours=found.point_colours,
        note=note,
        isolated=found.isolated,
        skipped=tuple(sorted(found.skipped)),
    )


def present(
    source: Path, images: Iterable[tuple[str, Path]], skip_missing: bool
) -> tuple[set[str], tuple[str, ...]]:
    """Names whose file exists, and the names whose file does not.

    Raises
    ------
    UserError: a file is missing and is not to be skipped, or none is there at all.
    """
    listed = list(images)
    missing = [(name, path) for name, path in listed if not path.is_file()]
    absent = {name for name, _ in missing}
    if missing and len(missing) == len(listed):
        raise UserError(
            f"{source}: none of the {len(listed)} images is there, the first would be "
            f"{missing[0][1]}; put them there."
        )
    if missing and not skip_missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(listed)} images are missing, the first is "
            f"{missing[0][1]}; put them there, or go on without them by --skip-missing."
        )
    return {name for name, _ in listed} - absent, tuple(sorted(absent))


def inside(root: Path, name: str, where: str) -> Path:
    """Return root / name, for a relative name that does not lead out of root.

    root and a folder right in it may be links, to photographs on a larger disk; what lies deeper
    may not lead out of these.

    Raises
    ------
    UserError: the name is empty, absolute, has '..', a backslash or a NUL, or a link leads out.
    """
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    if not _is_relative(name):
        raise UserError(
            f"{where}: {shown!r} is no path inside the capture's folder; write it relative to the "
            "folder, with forward slashes and without '..'."
        )
    path = PurePosixPath(name)
    base = os.path.realpath(root / path.parts[0] if len(path.parts) > 1 else root)
    if not Path(os.path.realpath(root / path)).is_relative_to(base):
        raise UserError(
            f"{where}: {shown!r} is a link that leads out of the capture's folder; put the file "
            "itself there."
        )
    return root / path


def _is_relative(name: str) -> bool:
    path = PurePosixPath(name)
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except UnicodeEncodeError:  # half of a character
        return False
    fits = 0 < longest <= _LONGEST_NAME and len(name) <= _LONGEST_PATH
    strange = "\\" in name or "\0" in name
    return fits and not strange and not path.is_absolute() and ".." not in path.parts


def rigid(matrix: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Return the pose [3, 4] whose rotation is exact, from one that is so to 1e-3.

    Raises
    ------
    UserError: not finite, scaled, sheared or mirrored.
    """
    pose = np.asarray(matrix, dtype=np.float64)[:3]
    if not np.isfinite(pose).all():
        raise UserError(
            f"{where}: the pose has a value that is not a finite number; "
            "correct it or remove the image."
        )
    linear = pose[:, :3]
    if np.abs(linear.T @ linear - np.eye(3)).max() > _ORTHONORMAL:
        lengths = ", ".join(f"{length:.4g}" for length in np.linalg.norm(linear, axis=0))
        raise UserError(
            f"{where}: the pose is no rotation and translation, its columns are {lengths} long "
            "or not at right angles; take scale and shear out of the pose."
        )
    if np.linalg.det(linear) < 0:
        raise UserError(
            f"{where}: the pose is a mirror image, its determinant is -1; "
            "correct the handedness of the axes."
        )
    left, _, right = np.linalg.svd(linear)
    return np.concatenate([left @ right, pose[:, 3:]], axis=1)


def _sky(root: Path, folder: str, name: str) -> Path | None:
    """The mask of the sky of an image, where it is wanted and there."""
    mask = inside(root, f"{folder}/{name}.png", "capture.sky") if folder else None
    return mask if mask and mask.is_file() else None


def _check_names(names: list[str], found: Found) -> None:
    for first, second in pairwise(names):
        if first == second:
            raise UserError(f"{found.source}: image {first!r} is listed twice; remove one of them.")


def _check_camera(photograph: Photograph, found: Found, max_megapixels: float) -> None:
    camera, where = photograph.camera, f"{found.source}: the camera of {photograph.name!r}"
    megapixels = camera.width * camera.height / 1e6
    if len(camera.params) != MODELS.get(camera.model):
        raise UserError(f"{where} is of model {camera.model!r}, which is not supported.")
    if min(camera.width, camera.height) < found.divisor:
        raise UserError(
            f"{where} has {camera.width} x {camera.height} pixels, fewer than one at "
            f"capture.downscale {found.divisor}; correct the one or lower the other."
        )
    if not np.isfinite(camera.params).all() or camera.params[0] <= 0:
        raise UserError(
            f"{where} has the parameters {list(camera.params)}; "
            "they must be finite and the focal length above 0."
        )
    if megapixels > max_megapixels:
        raise UserError(
            f"{photograph.image}: the image has {megapixels:.1f} megapixels "
            f"({camera.width} x {camera.height}), above capture.max_megapixels "
            f"{max_megapixels:g}; raise the limit or shrink the image."
        )
    focal = camera.params[0] / max(camera.width, camera.height)
    if not _FOCAL[0] <= focal <= _FOCAL[1]:
        raise UserError(
            f"{where} has a focal length of {camera.params[0]:.4g} pixels in pictures of "
            f"{camera.width} x {camera.height}: no lens has; correct it."
        )


def _check_place(photograph: Photograph, found: Found) -> None:
    far = float(np.abs(photograph.pose[:, 3]).max())
    if far > FARTHEST:
        raise UserError(
            f"{found.source}: the camera of {photograph.name!r} stands at the coordinate {far:.4g},"
            f" beyond {FARTHEST:g}; correct its pose, or move the origin near the scene."
        )


def _divide(photographs: Sequence[Photograph], found: Found, split: Split) -> dict[str, bool]:
    """Name -> held out, for the views that are used."""
    if split.train or split.test:
        names = {photograph.name for photograph in photographs}
        listed = {**dict.fromkeys(split.train, False), **dict.fromkeys(split.test, True)}
        for name in listed:
            if name not in names and name not in found.skipped:
                raise UserError(
                    f"capture.split names {name!r}, which is none of the {len(names)} images of "
                    f"{found.source}; the first of them is {photographs[0].name!r}."
                    if names
                    else f"{found.source}: no images are listed."
                )
        both = sorted(set(split.train) & set(split.test))
        if both:
            raise UserError(f"capture.split has {both[0]!r} in train and in test; remove one.")
        return {name: test for name, test in listed.items() if name in names}
    if found.own_split and split.every is None:
        return {p.name: p.held_out for p in photographs if p.held_out is not None}
    # missing images keep their places, so that leaving them out moves no other across the split
    places = sorted([*(photograph.name for photograph in photographs), *found.skipped])
    tests = set(places[:: split.every or EVERY])
    return {photograph.name: photograph.name in tests for photograph in photographs}


def _check_counts(views: Sequence[View], found: Found) -> None:
    if not views:
        raise UserError(f"{found.source}: no images are listed, or the split uses none of them.")
    if len(views) == 1:
        raise UserError(
            f"{found.source}: {views[0].name!r} is the only image; at least two are needed."
        )
    if all(view.test for view in views):
        raise UserError(
            f"{found.source}: all {len(views)} images are held out and none is left to fit; "
            "change capture.split."
        )
