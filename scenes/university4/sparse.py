"""The COLMAP model: exact poses, and surface points with the frames that see them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mitsuba as mi
import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image
from render import cast
from walk import FOCAL, HEIGHT, WIDTH, directions, project

Array = NDArray[np.float64]
POINTS, TRACK = 3000, 8
REACH = 80.0  # metres


class Point(NamedTuple):
    """A surface point [3], its colour [3] and the pixels that see it by frame."""

    xyz: Array
    colour: NDArray[np.uint8]
    track: dict[int, Array]


def _candidates(
    scene: mi.Scene, poses: Array, pictures: list[NDArray[np.uint8]], rng: np.random.Generator
) -> tuple[Array, NDArray[np.uint8], NDArray[np.int64]]:
    """Return points on surfaces seen through random pixels, their colours and their frames."""
    count = 2 * POINTS
    frame = np.sort(rng.integers(0, len(poses), count))
    pixel = np.stack([rng.integers(0, WIDTH, count), rng.integers(0, HEIGHT, count)], -1)
    rays = np.concatenate(
        [directions(pose, pixel[frame == i] + 0.5) for i, pose in enumerate(poses)]
    )
    origin = poses[frame, :, 3]
    distance = cast(scene, origin, rays)
    keep = np.flatnonzero(distance < REACH)
    colours = np.array([pictures[frame[i]][pixel[i, 1], pixel[i, 0]] for i in keep])
    return origin[keep] + distance[keep, None] * rays[keep], colours, frame[keep]


def _sightings(scene: mi.Scene, pose: Array, xyz: Array) -> tuple[NDArray[np.bool_], Array]:
    """Return which points [N] a frame sees unoccluded, and where it projects them [N, 2]."""
    pixel, z = project(pose, xyz)
    inside = (z > 0.1) & (pixel > 0.5).all(-1) & (pixel < (WIDTH - 0.5, HEIGHT - 0.5)).all(-1)
    seen = np.zeros(len(xyz), bool)
    ray = xyz[inside] - pose[:, 3]
    length = np.linalg.norm(ray, axis=-1)
    hit = cast(scene, pose[:, 3], ray / length[:, None])
    seen[inside] = np.abs(hit - length) < 0.005 + 0.001 * length
    return seen, pixel


def surface_points(scene: mi.Scene, poses: Array, images: Path) -> list[Point]:
    """Return POINTS coloured surface points, each seen by 3 to TRACK frames."""
    rng = np.random.default_rng(11)
    names = [images / f"frame_{i + 1:04d}.jpg" for i in range(len(poses))]
    pictures = [np.asarray(Image.open(name)) for name in names]
    xyz, colours, source = _candidates(scene, poses, pictures, rng)
    views = [_sightings(scene, pose, xyz) for pose in poses]
    seen = np.stack([v[0] for v in views])
    points: list[Point] = []
    for n in rng.permutation(len(xyz)):
        others = np.setdiff1d(np.flatnonzero(seen[:, n]), source[n])
        if not seen[source[n], n] or len(others) < 2:
            continue
        chosen = rng.choice(others, min(len(others), TRACK - 1), replace=False)
        frames = np.sort(np.append(chosen, source[n]))
        points.append(Point(xyz[n], colours[n], {int(i): views[i][1][n] for i in frames}))
        if len(points) == POINTS:
            break
    return points


def write_sparse(scene: mi.Scene, poses: Array, out: Path) -> str:
    """Write sparse/0 in COLMAP's binary format and return a line that describes it.

    Raises
    ------
    SystemExit
        When the model read back is not the one that was written.
    """
    points = surface_points(scene, poses, out / "images")
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=WIDTH,
        height=HEIGHT,
        params=[FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2],
        camera_id=1,
    )
    model.add_camera_with_trivial_rig(camera)
    index: list[dict[int, int]] = [{} for _ in poses]
    for i, pose in enumerate(poses):
        index[i] = {n: k for k, n in enumerate(n for n, p in enumerate(points) if i in p.track)}
        image = pycolmap.Image(
            name=f"frame_{i + 1:04d}.jpg",
            keypoints=np.array([points[n].track[i] for n in index[i]]).reshape(-1, 2),
            camera_id=1,
            image_id=i + 1,
        )
        rotation = pose[:, :3].T
        world = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ pose[:, 3])
        model.add_image_with_trivial_frame(image, world)
    for n, point in enumerate(points):
        elements = [pycolmap.TrackElement(i + 1, index[i][n]) for i in point.track]
        model.add_point3D(point.xyz, pycolmap.Track(elements), point.colour)
    model.update_point_3d_errors()
    folder = out / "sparse" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    model.write(folder)
    for name in ("rigs.bin", "frames.bin"):  # one camera without a rig: the classic files suffice
        (folder / name).unlink(missing_ok=True)
    return check(folder, poses)


def check(folder: Path, poses: Array) -> str:
    """Read the model back, compare it with the poses, and return a line of figures."""
    model = pycolmap.Reconstruction(folder)
    error = model.compute_mean_reprojection_error()
    worst = 0.0
    for image in model.images.values():
        found = image.cam_from_world().inverse().matrix()
        worst = max(worst, float(np.abs(found - poses[image.image_id - 1]).max()))
    if worst > 1e-9 or error > 1e-3 or model.num_images() != len(poses):
        raise SystemExit(f"model differs: pose {worst:.2g}, reprojection {error:.2g} px")
    return (
        f"{model.num_images()} images, {model.num_points3D()} points, "
        f"{model.compute_mean_track_length():.1f} sightings a point, reprojection {error:.1g} px"
    )
