"""Poses and points from matches: which settings were tried, and what came of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerfxl.posing.agreement import agreeing
from nerfxl.posing.journal import fresh, moved
from nerfxl.posing.matching import Lens
from nerfxl.posing.stages import Tick, interruptible

Settings = Literal["usual", "forward", "held"]

ENOUGH = 0.9  # of the photographs registered: nothing else is tried
UNSURE = 0.005  # standard deviation of a focal length, in focal lengths, that leaves it open
ONE_THREAD = 300  # photographs; up to as many, a model is the same whatever the number of cores
WORDS = {
    "usual": "usual settings",
    "forward": "settings for motion along the line of sight",
    "held": "the same, with the focal length held",
}
_LOOKED_AT = 200  # photographs at most from which a focal length's deviation is computed
_JUMP = 5.0  # of the way between its neighbours, or of the usual step: a frame that is farther
_WORST, _ANGLE = 4.0, 0.7  # of points that are kept: pixels, degrees between their rays


@dataclass(frozen=True)
class Attempt:
    """What came of some settings. models: photographs in each model, the largest first.

    points, error: of the largest model, error in pixels. names: its photographs; agreeing: those of
    its largest part that the matches agree with; others: photographs of the other models, a list
    each.
    """

    settings: Settings
    models: tuple[int, ...]
    points: int
    error: float
    names: tuple[str, ...]
    agreeing: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as the journal keeps it."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Attempt:
        """Read `as_json`'s mapping."""
        known = {one.name: values[one.name] for one in fields(Attempt)}
        return Attempt(**known)

    def told(self, count: int) -> str:
        """What came of it, of `count` photographs, in words."""
        words = WORDS[self.settings]
        if not self.models:
            return f"{words}: no model"
        several = len(self.models) > 1 and self.models[0] < count
        more = f", in the largest of {len(self.models)} models" if several else ""
        apart = len(self.names) - len(self.agreeing)
        wrong = f"; {apart} of them contradict their matches" if apart else ""
        return (
            f"{words}: {self.models[0]} of {count} photographs{more}, {self.points:,} points, "
            f"{self.error:.2f} px{wrong}"
        )


def threads(photographs: int, cores: int) -> int:
    """Return how many threads map: the result depends on it, so one where one is enough."""
    return 1 if photographs <= ONE_THREAD else cores


def attempted(
    settings: Settings, database: Path, folder: Path, workers: int, seed: int, tick: Tick
) -> Attempt:
    """Map with some settings, and write the largest model to folder / settings.

    'forward' is for cameras that move along their line of sight, as in a street: pairs of little
    parallax may begin, and few matches at small angles are enough. 'held' does not refine focal
    lengths meanwhile. Otherwise they are refined even where they are known: distortion is not known
    at first, and focal lengths that give way to it let more photographs in.
    """
    from nerfxl.colmap import pycolmap

    options = _options(settings, workers, seed)
    part = fresh(folder / f"{settings}.part")

    def work(token: Any) -> Any:
        return pycolmap.incremental_mapping(
            database,
            folder,  # images are not looked at: colours are read later, of one model
            part,
            options,
            initial_image_pair_callback=lambda: tick(2),
            next_image_callback=lambda: tick(1),
            cancellation_token=token,
        )

    found = sorted(interruptible(work).values(), key=lambda model: -model.num_reg_images())
    written = fresh(folder / f"{settings}.part")
    names = [_names(model) for model in found]
    if found:
        found[0].write_binary(written)
    moved(written, folder / settings)
    return Attempt(
        settings,
        tuple(map(len, names)),
        found[0].num_points3D() if found else 0,
        round(float(found[0].compute_mean_reprojection_error()), 4) if found else 0.0,
        tuple(names[0]) if found else (),
        tuple(agreeing(found[0], database)) if found else (),
        tuple(tuple(one) for one in names[1:]),
    )


def _options(settings: Settings, workers: int, seed: int) -> Any:
    from nerfxl.colmap import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = workers
    options.random_seed = seed
    options.extract_colors = False
    options.min_model_size = 3
    if settings == "held":
        options.ba_refine_focal_length = False
        options.mapper.abs_pose_refine_focal_length = False
    if settings != "usual":
        mapper = options.mapper
        mapper.init_min_tri_angle = 3
        mapper.init_max_forward_motion = 1
        mapper.init_min_num_inliers = 60
        mapper.abs_pose_min_num_inliers = 15
        mapper.abs_pose_min_inlier_ratio = 0.15
        mapper.filter_min_tri_angle = _ANGLE
        mapper.ba_local_min_tri_angle = _ANGLE
        options.triangulation.min_angle = _ANGLE
    return options


def _names(model: Any) -> list[str]:
    return sorted(model.image(number).name for number in model.reg_image_ids())


def focal_deviation(model: Any) -> float | None:
    """Return the standard deviation of the first camera's focal length, in focal lengths.

    The camera is the one of most photographs; None where the deviation cannot be computed. It is
    what errors of the features alone leave open: errors of the model come on top, and are larger.
    """
    from nerfxl.colmap import pycolmap

    config = pycolmap.BundleAdjustmentConfig()
    by_name = sorted(model.reg_image_ids(), key=lambda number: model.image(number).name)
    for number in by_name[:_LOOKED_AT]:
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    copy = pycolmap.Reconstruction(model)
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(_adjustment(held=False), config, copy)
    adjuster.solve()
    wanted = pycolmap.BACovarianceOptions()
    wanted.params = pycolmap.BACovarianceOptionsParams.ALL
    covariance = pycolmap.estimate_ba_covariance(wanted, copy, adjuster)
    camera = copy.cameras[_main_camera(copy)]
    found = None if covariance is None else covariance.get_other_params_cov(camera.params)
    if found is None:
        return None
    pixels = float(np.sqrt(max(0.0, found[0, 0]))) * copy.compute_mean_reprojection_error()
    return float(pixels / camera.mean_focal_length())


def _main_camera(model: Any) -> int:
    used = [int(model.image(number).camera_id) for number in model.reg_image_ids()]
    return max(sorted(set(used)), key=used.count)


def strays(model: Any) -> list[str]:
    """Names of photographs of a walk that were mistaken for another place.

    Things that look alike carry them there: they lie far from both of their neighbours, and most of
    their points are seen by one other photograph alone.
    """
    images = sorted((model.image(n) for n in model.reg_image_ids()), key=lambda one: one.name)
    places = np.array([image.projection_center() for image in images])
    found = []
    for row in jumps(places):
        seen = [point.point3D_id for point in images[row].points2D if point.has_point3D()]
        if np.median([model.points3D[point].track.length() for point in seen]) <= 2:
            found.append(images[row].name)
    return found


def jumps(places: NDArray[np.float64]) -> list[int]:
    """Rows of places [N, 3], in the order of a walk, that lie far from both of their neighbours.

    >>> jumps(np.array([[0, 0, 0], [1, 0, 0], [20, 0, 0], [3, 0, 0], [4, 1, 0], [5, 1, 0.0]]))
    [2]
    """
    if len(places) < 5:
        return []
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    across = np.linalg.norm(places[2:] - places[:-2], axis=1)
    far = np.minimum(steps[:-1], steps[1:]) > _JUMP * np.maximum(across, np.median(steps))
    return [int(row) + 1 for row in np.flatnonzero(far)]


def without(model: Any, names: Collection[str]) -> None:
    """Take photographs out of a model, and adjust the rest, in place."""
    for number in list(model.reg_image_ids()):
        image = model.image(number)
        if image.name in names:
            model.deregister_frame(image.frame_id)
    _adjust(model, held=False)


def adjusted_to(model: Any, lenses: Sequence[Lens]) -> None:
    """Give cameras the focal lengths that are known, and adjust all else to them, in place."""
    known = {name: lens.focal for lens in lenses for name in lens.members if lens.focal}
    for number in model.reg_image_ids():
        image = model.image(number)
        if image.name in known:
            camera = model.cameras[image.camera_id]
            params = camera.params
            params[list(camera.focal_length_idxs())] = known[image.name]
            camera.params = params
    _adjust(model, held=True)


def _adjust(model: Any, held: bool) -> None:
    """Adjust poses, points and distortion, and focal lengths unless they are held, in place."""
    from nerfxl.colmap import pycolmap

    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_ceres_bundle_adjuster(_adjustment(held), config, model).solve()
    pycolmap.ObservationManager(model).filter_all_points3D(_WORST, _ANGLE)
    model.update_point_3d_errors()


def _adjustment(held: bool) -> Any:
    from nerfxl.colmap import pycolmap

    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = not held
    options.print_summary = False
    options.ceres.solver_options.num_threads = 1
    return options
