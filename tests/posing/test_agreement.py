"""Parts of a model that were linked wrongly are found by its own matches."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pycolmap
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.posing.agreement import adrift, largest_part, ties_of
from nerfxl.posing.matching import Seen
from tests.posing.made import dataset, turned


def test_poses_agree_with_the_matches_of_a_model_that_is_right() -> None:
    """Every photograph of the dataset sees every point; then three of them are moved aside."""
    model = dataset()
    images = sorted(model.images.values(), key=lambda image: image.name)
    pixels = {image.name: np.array([point.xy for point in image.points2D]) for image in images}
    rows = {
        image.name: {p.point3D_id: n for n, p in enumerate(image.points2D) if p.has_point3D()}
        for image in images
    }
    pairs = []
    for one, other in combinations(pixels, 2):
        both = sorted(rows[one].keys() & rows[other].keys())
        here = pixels[one][[rows[one][point] for point in both]]
        there = pixels[other][[rows[other][point] for point in both]]
        pairs.append(Seen(one, other, here, there))
    names = list(pixels)
    shares = [share for _, share in ties_of(model, pairs).values()]
    assert min(shares) > 0.9
    assert largest_part(names, ties_of(model, pairs)) == set(names)
    aside = pycolmap.Sim3d(np.column_stack([turned((1, 2, 3), 0.4), (3, 2, 1)]))
    moved = pycolmap.Reconstruction(model)
    moved.transform(aside)
    for image in images[:3]:
        model.frames[image.frame_id].rig_from_world = moved.images[image.image_id].cam_from_world()
    assert largest_part(names, ties_of(model, pairs)) == set(names[3:])


def test_many_weak_ties_do_not_outvote_the_strong_ones_that_they_contradict() -> None:
    """Seen of frames 59 to 87 of the rendered walk, whose windows look like others.

    Six pairs with the rest have 211 matches, 166 of the true neighbours contradict them.
    """
    before, aside, after = range(39, 58, 2), range(59, 88, 2), range(89, 110, 2)
    ties = {(str(a), str(a + 2)): (300, 1.0) for a in range(39, 108, 2) if a not in (57, 87)}
    ties |= {("55", "89"): (150, 0.9)}  # the walk comes back
    ties |= {("57", "59"): (54, 0.02), ("87", "89"): (112, 0.0)}
    ties |= {("39", "59"): (27, 0.96), ("55", "75"): (29, 0.31), ("57", "75"): (42, 0.79)}
    ties |= {("57", "77"): (33, 0.79), ("69", "89"): (48, 0.96), ("71", "89"): (32, 0.75)}
    names = [str(number) for number in (*before, *aside, *after)]
    assert largest_part(names, ties) == {str(number) for number in (*before, *after)}


@given(
    st.integers(5, 60),
    st.floats(1e-3, 1e3),
    st.floats(-3, 3),
    st.tuples(*[st.floats(-1e4, 1e4)] * 3),
)
def test_only_what_lies_out_of_all_proportion_is_adrift(
    count: int, scale: float, angle: float, shift: tuple[float, float, float]
) -> None:
    """Of a walk, however long, far, and in whatever axes; then its last frame is sent away."""
    walk = np.column_stack([np.arange(count), np.zeros(count), np.ones(count)])
    turn, away = turned((1, 2, 3), angle).T, np.array(shift)
    assert not adrift(scale * (walk @ turn + away)).any()
    walk[-1] += (0, 0, 200 * count)
    assert adrift(scale * (walk @ turn + away)).tolist() == [False] * (count - 1) + [True]
