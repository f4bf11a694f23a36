"""Sightings and skies: read, drawn, and learned from, the same however the scene is cut."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nerfxl import commands
from nerfxl.captures import View, load_sky, read_capture
from nerfxl.crew import Launching
from nerfxl.ensemble import assemble
from nerfxl.errors import UserError
from nerfxl.filming.stills import picture
from nerfxl.losses import CERTAIN, depth, loss, sky, solid
from nerfxl.pixels import PixelPool, dealt, set_aside
from nerfxl.prepare import read_back
from nerfxl.processes.ranks import Ranks
from nerfxl.progress import Speaker
from nerfxl.rays import Truth
from nerfxl.runs import RunFolder
from nerfxl.scene.training import LossSpec
from nerfxl.storage.checkpoint import Origin, load
from tests.conftest import Array, Here, WriteScene
from tests.test_losses import pixels
from tests.test_pixels import VIEWS, WORLD, numbered
from tests.test_render import Recorder, cut_in, fog, renderer, show, some_rays
from tests.test_train import same_tensors

Harm = Callable[[Path], object]  # done to the folder of a capture

SEEN = 40  # keypoints an image, of which a quarter made no point


def distances(origin: Array, directions: Array) -> Array:
    """How far the cube of the tests' capture is along rays [..., 3]; inf where it is missed."""
    with np.errstate(divide="ignore"):
        sides = np.sort([(side - origin) / directions for side in (-0.5, 0.5)], axis=0)
    enter, leave = sides[0].max(-1), sides[1].min(-1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def write_model(root: Path) -> Path:
    """The tests' capture as a COLMAP model whose images saw points of the cube."""
    found = read_capture(root, format="transforms")
    draw, camera = np.random.default_rng(0), found.views[0].camera
    images, points = list[str](), list[str]()
    for index, view in enumerate(found.views, start=1):
        pixel = draw.uniform((6, 3), (camera.width - 6, camera.height - 3), (SEEN, 2))
        ray = camera.directions_at(pixel) @ view.pose[:, :3].T
        away = distances(view.pose[:, 3], ray)
        keypoints = []
        for place, ((x, y), t) in enumerate(zip(pixel, away, strict=True)):
            number = -1
            if place % 4 and np.isfinite(t):
                number = 7 * len(points) % 9973 + 1  # not in order
                xyz = " ".join(map(repr, (view.pose[:, 3] + t * ray[place]).tolist()))
                points.append(f"{number} {xyz} 200 100 150 0.5 {index} {place}")
            keypoints.append(f"{float(x)!r} {float(y)!r} {number}")
        turn = view.pose[:, :3].T
        x, y, z, w = pycolmap.Rotation3d(turn).quat
        shift = " ".join(map(str, -turn @ view.pose[:, 3]))
        images += [f"{index} {w} {x} {y} {z} {shift} 1 {Path(view.name).name}", " ".join(keypoints)]
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    numbers = " ".join(map(str, camera.params))
    (model / "cameras.txt").write_text(f"1 PINHOLE {camera.width} {camera.height} {numbers}\n")
    (model / "images.txt").write_text("\n".join(images) + "\n")
    (model / "points3D.txt").write_text("\n".join(points) + "\n")
    return root


def as_binary(root: Path) -> Path:
    """The same model once more, in the kind that is read first."""
    model = root / "sparse" / "0"
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    return model


def write_skies(root: Path, folder: str = "sky") -> None:
    for view in read_capture(root).views:
        rays = view.camera.directions().astype(np.float64) @ view.pose[:, :3].T
        path = root / folder / f"{view.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.isinf(distances(view.pose[:, 3], rays))).save(path)


def check_projections(view: View) -> None:
    """The ray of each sighting's pixel meets its point."""
    found = view.sightings()
    rays = view.camera.directions_at(found[:, :2]) @ view.pose[:, :3].T
    away = found[:, 2:] - view.pose[:, 3]
    towards = away / np.linalg.norm(away, axis=1, keepdims=True)
    np.testing.assert_allclose(rays, towards, rtol=0, atol=1e-9)


def test_sightings_are_the_same_in_both_kinds_of_model(own_capture: Path) -> None:
    write_model(own_capture)
    text = read_capture(own_capture).views
    as_binary(own_capture)
    binary = read_capture(own_capture).views
    for one, other in zip(text, binary, strict=True):
        assert 10 < len(one.sightings()) <= SEEN * 3 / 4
        np.testing.assert_allclose(one.sightings(), other.sightings(), rtol=0, atol=1e-12)
        check_projections(one)


def test_sightings_follow_the_size_of_the_images(own_capture: Path) -> None:
    write_model(own_capture)
    whole = read_capture(own_capture).views
    # 24 x 18 pixels: blocks of seven leave the last three columns and four rows out.
    for divisor, left_out in ((2, False), (7, True)):
        views = read_capture(own_capture, downscale=divisor).views
        cut = 0
        for view, full in zip(views, whole, strict=True):
            found, every = view.sightings(), full.sightings()
            size = np.array([24 // divisor, 18 // divisor])
            kept = (every[:, :2] < size * divisor).all(axis=1)
            cut += int((~kept).sum())
            np.testing.assert_array_equal(found[:, :2], every[kept, :2] / divisor)
            check_projections(view)
        assert bool(cut) == left_out
    # Made smaller by others, and not alike along x and y.
    (own_capture / "images_4").mkdir()
    for view in whole:
        Image.new("RGB", (6, 5)).save(own_capture / "images_4" / view.name)
    for view in read_capture(own_capture, downscale=4).views:
        assert (view.camera.width, view.camera.height) == (6, 5)
        assert len(view.sightings())
        check_projections(view)


def test_sightings_are_read_when_they_are_asked_for(own_capture: Path) -> None:
    """A capture of very many keypoints opens as fast as one without."""
    write_model(own_capture)
    images = own_capture / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    first = lines[1]

    def refused(keypoints: str) -> str:
        images.write_text("\n".join([lines[0], keypoints, *lines[2:]]) + "\n")
        view, other = read_capture(own_capture).views[:2]
        assert len(other.sightings())
        with pytest.raises(UserError) as caught:
            view.sightings()
        return str(caught.value)

    for damaged in (first[:-3] + " 7 7", "1 2 three", "nan 2 3", "1 2 1e30"):
        assert refused(damaged) == (
            f"{images}, line 2: this is no list of keypoints as COLMAP writes it."
        )
    points = len((images.with_name("points3D.txt")).read_text().splitlines())
    assert refused("1 2 9999") == (
        f"{images}: image '0.png' sees point 9999, which is not among the {points} of "
        "points3D.txt; write the model again, or set train.losses.depth to 0."
    )


def test_keypoints_that_are_not_finite(own_capture: Path) -> None:
    model = as_binary(write_model(own_capture))
    data = bytearray((model / "images.bin").read_bytes())
    at = data.index(b"0.png\0") + 6 + 8  # behind the name and the number of keypoints
    data[at : at + 8] = struct.pack("<d", np.nan)
    at = data.index(b"1.png\0") + 6 + 8 + 24  # of the second, the first made no point
    data[at : at + 8] = struct.pack("<d", np.nan)
    (model / "images.bin").write_bytes(data)
    first, second = read_capture(own_capture).views[:2]
    assert len(first.sightings())
    with pytest.raises(UserError) as caught:
        second.sightings()
    assert str(caught.value) == (
        f"{model / 'images.bin'}: image '1.png' has a keypoint that is not finite; copy the model "
        "again."
    )


def test_without_keypoints_there_are_no_sightings(own_capture: Path) -> None:
    assert not len(read_capture(own_capture).views[0].sightings())
    write_model(own_capture)
    images = own_capture / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    lines[1::2] = [""] * len(lines[1::2])
    images.write_text("\n".join(lines) + "\n")
    views = read_capture(own_capture).views
    assert [view.seen for view in views] == [None] * 6
    assert views[0].sightings().shape == (0, 5)


def test_a_sky_is_seen_where_all_of_a_block_is_marked(own_capture: Path) -> None:
    assert read_capture(own_capture, sky="sky").views[0].sky is None
    marked = np.full((18, 24), 255, np.uint8)
    marked[0, 3] = 0
    path = own_capture / "sky" / "images" / "0.png.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(marked).save(path)
    view, other = read_capture(own_capture, downscale=2, sky="sky").views[:2]
    found = load_sky(view)
    assert found is not None
    assert found.shape == (9, 12)
    assert np.argwhere(~found).tolist() == [[0, 1]]
    assert load_sky(other) is None
    assert read_capture(own_capture).views[0].sky is None  # not looked for
    Image.new("RGB", (24, 18)).save(path)
    with pytest.raises(UserError) as caught:
        load_sky(view)
    assert str(caught.value) == (
        f"{path}: the mask has pixels of kind 'RGB'; store a single-channel image, above 0 where "
        "the sky is seen."
    )


# The first of three photographs of 4 x 3, 2 x 2 and 4 x 3 pixels saw two points, the last one.
SIGHTINGS: dict[str, list[list[float]]] = {
    "0.png": [[2.9, 1.2, 0.5, 0.0, 0.0], [0.5, 0.5, 1.0, 0.0, 0.0]],
    "2.png": [[3.5, 2.5, 0.0, 0.0, 1.0]],
}


def sighted(index: int) -> View:
    rows = SIGHTINGS.get(VIEWS[index].name)
    return replace(VIEWS[index], seen=(lambda: np.array(rows)) if rows else None)


def pool(
    parts: int = 1,
    loads: tuple[int, ...] = (0,),
    share: float = 0.25,
    keep: NDArray[np.bool_] | None = None,
) -> PixelPool:
    views = dealt([sighted(index) for index in range(3)], parts, loads)
    images = (numbered(int(view.name[0]), view.camera) for _, view in views)
    masks = [keep if view.name == "0.png" else None for _, view in views]
    made = PixelPool(views, images, masks, WORLD, None, torch.device("cpu"), depth_rays=share)
    made.agree([12, 4, 12, 0][:parts] if parts > 1 else made.totals)
    return made


def test_rays_set_aside_go_through_sightings_and_the_others_stay() -> None:
    count, plain = 400, pool(share=0.0)
    without, bare = plain.batch(1, 5, count)
    batch, truth = pool().batch(1, 5, count)
    assert not bare.distance.any()
    assert not len(plain.sighted)
    aside = set_aside(1, 5, count, 0.25)
    assert int(aside.sum()) == 100
    assert truth.distance.bool().equal(aside)
    assert batch.rays.directions[~aside].equal(without.rays.directions[~aside])
    assert truth.colour[~aside].equal(bare.colour[~aside])
    assert batch.jitter.equal(without.jitter)
    expected = {
        (int(name[0]), int(y), int(x)): np.linalg.norm(point - sighted(int(name[0])).pose[:, 3])
        for name, rows in SIGHTINGS.items()
        for x, y, *point in rows
    }
    places = [tuple(place) for place in (truth.colour[aside] * 255).round().long().tolist()]
    assert set(places) == {(0, 1, 2), (0, 0, 0), (2, 2, 3)}  # view, row, column
    away = torch.tensor([expected[place] for place in places]).float() * WORLD.scale
    torch.testing.assert_close(truth.distance[aside], away)


def test_sightings_drawn_do_not_depend_on_who_loads_what() -> None:
    """Three parts, of which the second has none; its rays go through ordinary pixels."""
    count, K = 57, 4
    whole, truth = pool(K, tuple(range(K))).batch(1, 5, count)
    parts = {part: truth.distance[rows] for part, rows in whole.parts}
    assert (parts[0] > 0).any()
    assert not (parts[1] > 0).any()
    assert (parts[2] > 0).any()
    for share in ((0, 3), (1, 2), (0,), (2,)):
        batch, found = pool(K, share).batch(1, 5, count)
        assert truth.distance[batch.number].equal(found.distance)
        assert truth.colour[batch.number].equal(found.colour)
        assert whole.rays.directions[batch.number].equal(batch.rays.directions)


def test_each_ray_takes_its_turn_at_being_set_aside() -> None:
    """Parts of a ray or two would otherwise never look at their sightings."""
    turns = torch.stack([set_aside(3, step, 21, 0.125) for step in range(400)]).double()
    assert set(turns.sum(1).tolist()) <= {2, 3}  # 21 / 8 = 2.6
    # A proportion of 400 draws deviates by sqrt(1/8 7/8 / 400) = 0.017.
    assert (turns.mean(0) - 0.125).abs().max() < 5 * 0.017


def test_sightings_in_pixels_that_are_not_used_are_left_out() -> None:
    keep = np.ones((3, 4), np.bool_)
    keep[1, 2] = False
    batch, truth = pool(keep=keep).batch(1, 5, 400)
    assert len(batch.rays) == 400
    aimed = (truth.colour[truth.distance > 0] * 255).round().long().tolist()
    assert {tuple(place) for place in aimed} == {(0, 0, 0), (2, 2, 3)}


def test_every_ray_knows_whether_it_sees_the_sky() -> None:
    marks = [None, None, np.arange(12).reshape(3, 4) % 2 == 0]
    images = [numbered(index, view.camera) for index, view in enumerate(VIEWS)]
    views = [(0, view) for view in VIEWS]
    nowhere = [None] * 3
    made = PixelPool(views, images, nowhere, WORLD, None, torch.device("cpu"), skies=marks)
    _, truth = made.batch(1, 1, 400)
    view, row, column = (truth.colour * 255).round().long().unbind(1)
    assert truth.sky.equal((view == 2) & ((4 * row + column) % 2 == 0))
    plain = PixelPool(views, images, nowhere, WORLD, None, torch.device("cpu"))
    assert plain.sky is None
    assert not plain.batch(1, 1, 400)[1].sky.any()


def test_depth_by_hand() -> None:
    """t(m) = 0.1 sinh(m): where first is 0 and span 1, m = asinh(10 t)."""
    m = torch.tensor([0.5, 0.5 + CERTAIN / 2])
    found = replace(pixels(), mean=m.clone().requires_grad_())
    at = 0.1 * torch.sinh(torch.tensor([0.3, 0.5]))
    # Beyond CERTAIN c: |x| - c / 2. Within: x^2 / 2c = (c / 2)^2 / 2c = c / 8.
    assert depth(found, at).item() == pytest.approx(0.2 - CERTAIN / 2 + CERTAIN / 8, rel=1e-4)
    assert depth(found, torch.zeros(2)).item() == 0
    beyond = 0.1 * torch.sinh(torch.tensor([7.0, 1.0]))  # the far end is at 1
    expected = 2 - float(m.sum()) - CERTAIN
    assert depth(found, beyond).item() == pytest.approx(expected, rel=1e-5)
    path = found.path._replace(first=torch.tensor([0.6, 0.0]))
    behind = replace(found, path=path)  # the first ray starts behind its point
    assert depth(behind, at).item() == pytest.approx(CERTAIN / 8, rel=1e-3)


def test_sky_by_hand() -> None:
    found = replace(pixels(), tau=torch.tensor([0.0, 3.0]).requires_grad_())
    both = torch.tensor([True, True])
    assert sky(found, both).item() == pytest.approx(np.log(4))
    assert sky(found, ~both).item() == 0


def test_solid_by_hand() -> None:
    """Half transparent: log 2, and a gradient by the log of densities of -log(2) / (2 - 1)."""
    tau = torch.tensor([np.log(2), 40.0, 0.0], dtype=torch.float64).requires_grad_()
    found = replace(pixels(), tau=tau)
    one = solid(found, torch.tensor([True, True, False]))
    assert one.item() == pytest.approx(np.log(2))
    (gradient,) = torch.autograd.grad(one, tau)
    assert (gradient * tau).tolist() == pytest.approx([-np.log(2), 0, 0], abs=1e-12)
    empty = solid(found, torch.tensor([False, False, True]))  # a ray that met no sample
    assert np.isfinite(empty.item())
    assert torch.autograd.grad(empty, tau)[0].tolist() == [0, 0, 0]


def test_weights_and_shares_of_depth_and_sky() -> None:
    """Each is a mean over a number of rays that all ranks know: 2 rays, half of them aside."""
    found = replace(pixels(), tau=torch.tensor([0.0, 3.0]), mean=torch.tensor([0.5, 0.9]))
    at = 0.1 * torch.sinh(torch.tensor([0.0, 0.5]))
    truth = Truth(found.colour.detach(), at, torch.tensor([True, True]))
    spec = LossSpec.model_validate({"distortion": 0, "depth": 3, "depth_rays": 0.5, "sky": 5})
    total, _ = loss(found, truth, spec, 2)
    expected = 3 * (0.4 - CERTAIN / 2) / (0.5 * 2) + 5 * np.log(4) / 2
    assert total.item() == pytest.approx(expected, rel=1e-5)
    below = Truth(found.colour.detach(), at, torch.tensor([True, False]))
    spec = LossSpec.model_validate({"distortion": 0, "solid": 7})
    total, _ = loss(found, below, spec, 2)  # the other ray sees the sky
    assert total.item() == pytest.approx(-7 * np.log(1 - np.exp(-3)) / 2, rel=1e-5)


ALL = LossSpec.model_validate({"distortion": 0, "depth": 0.7, "sky": 0.4, "solid": 0.3})


def marked(count: int) -> Truth:
    """Half the rays have a point somewhere, a third see the sky."""
    number = torch.arange(count)
    at = torch.where(number % 2 == 0, 0.3 + 0.05 * number.double(), 0)
    return Truth(torch.full((count, 3), 0.5, dtype=torch.float64), at, number % 3 == 0)


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("tiles", [1, 4])
def test_depth_sky_and_solid_of_tiles_are_those_of_all_samples_in_one_row(
    tiles: int, is_open: bool
) -> None:
    """The losses and their gradient, of a field that is seen through one tile or four."""
    rays, cut = some_rays(), cut_in(tiles, is_open)
    strength = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    made = Recorder(renderer(cut, lambda place: strength * fog(place), "occupancy", bins=48))
    found, truth = show(made, rays), marked(len(rays))
    above, below = truth.sky, ~truth.sky
    losses = torch.stack([depth(found, truth.distance), sky(found, above), solid(found, below)])
    (found_gradient,) = torch.autograd.grad(losses.sum(), strength)

    at, path = made.sorted_samples(len(rays)), made.casts[0].path
    m = (at["m0"] + at["m1"]) / 2
    t = path.scale * torch.sinh(path.first[:, None] + m * path.span[:, None])
    place = rays.origins[:, None] + t[..., None] * rays.directions[:, None]  # [N, S, 3]
    tau = strength * fog(place) * (at["t1"] - at["t0"])
    w = torch.exp(tau - tau.cumsum(1)) * -torch.expm1(-tau)
    whole = tau.sum(1)
    row = replace(found, mean=(w * m).sum(1) + torch.exp(-whole), tau=whole)
    expected = torch.stack([depth(row, truth.distance), sky(row, above), solid(row, below)])
    (gradient,) = torch.autograd.grad(expected.sum(), strength)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-10, atol=0)
    assert (losses[:2] > 1).all()
    assert is_open or losses[2] > 0.1  # to infinity, all light ends


@pytest.mark.parametrize("tiles", [1, 4])
def test_gradients_of_depth_sky_and_solid_are_finite_differences(tiles: int) -> None:
    """Through moment and optical depth, composed over tiles."""
    rays, cut = some_rays(20), cut_in(tiles)

    def total(wave: Tensor) -> Tensor:
        def density(place: Tensor) -> Tensor:
            return 1.5 * torch.nn.functional.softplus(3 * torch.sin(place * wave).sum(-1))

        found = show(renderer(cut, density, "occupancy", bins=32), rays)
        return loss(found, marked(len(rays)), ALL, len(rays))[0]

    wave = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (wave,))


def fitted(scene: Path, folder: Path, *overrides: str, ranks: int = 1) -> Path:
    speaker = Speaker(quiet=True)
    summary = commands.fit(scene, folder, "cpu", overrides, False, speaker, Launching(ranks))
    return Path(summary["run"])


def depth_error(path: Path) -> float:
    """Median relative error of the depth of the cube, in the held-out views; of none, 1."""
    run = RunFolder.open(path)
    scene, ranks = read_back(run), Ranks()
    ensemble = assemble(scene, ranks)
    origin = Origin.of(run, scene.spec.name, scene.plan)
    ensemble.load(load(run.checkpoints, origin, ensemble.tiles, ranks))
    errors = []
    for shot in (shot for shot in scene.shots if shot.test):
        found = picture(ensemble, shot.camera, shot.pose, scene).depth.numpy()
        rays = shot.camera.directions().astype(np.float64) @ shot.pose[:, :3].T
        truth = distances(shot.pose[:, 3], rays)
        hit = np.isfinite(truth)
        errors.append(np.nan_to_num(np.abs(found - truth)[hit] / truth[hit], nan=1.0))
    return float(np.median(np.concatenate(errors)))


@pytest.mark.long
@pytest.mark.usefixtures("one_core")
def test_points_and_sky_make_depth_better(
    scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    write_skies(write_model(own_capture))
    steps = {"steps": 100, "rays": 256, "learning_rate": 0.03, "checkpoint_every": 0}
    scene = scene_file(folder=own_capture, sampling={"budget": 8192}, train=steps)
    points, skies = "train.losses.depth=0.3", "train.losses.sky=0.1"
    without, seen, both = (
        depth_error(fitted(scene, tmp_path / "runs", *losses))
        for losses in ((), (points,), (points, skies))
    )
    assert seen < 0.7 * without
    assert both < 0.5 * seen


@pytest.mark.long
@pytest.mark.usefixtures("one_core")
def test_processes_make_no_difference(
    scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    """Each of two loads half the photographs, and draws its share of the sightings."""
    write_skies(write_model(own_capture))
    losses = {"depth": 0.3, "depth_rays": 0.25, "sky": 0.1, "solid": 0.1}
    scene = scene_file(folder=own_capture, train={"losses": losses}, exchange="owner")
    alone = fitted(scene, tmp_path / "alone")
    same_tensors(alone, fitted(scene, tmp_path / "shared", ranks=2))


def no_keypoints(root: Path) -> None:
    images = write_model(root) / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    images.write_text("".join(f"{line}\n\n" for line in lines[::2]))


def no_points(root: Path) -> None:
    """As a matcher leaves it that has not triangulated yet."""
    images = write_model(root) / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    lines[1::2] = [" ".join(["3 4 -1"] * SEEN)] * 6
    images.write_text("\n".join(lines) + "\n")


def fewer_points(root: Path) -> None:
    """As a tool leaves it that thins the points and forgets the images."""
    points = write_model(root) / "sparse" / "0" / "points3D.txt"
    points.write_text("".join(points.read_text().splitlines(keepends=True)[::2]))


def mask(size: tuple[int, int], kind: str = "L") -> Harm:
    def act(root: Path) -> None:
        write_skies(root)
        Image.new(kind, size).save(root / "sky" / "images" / "1.png.png")

    return act


DEPTH, SKY = "train.losses.depth=0.1", "train.losses.sky=0.1"
REFUSED: dict[str, tuple[Harm, str, str]] = {
    "no sightings in the format": (
        lambda _: None,
        DEPTH,
        "SCENE: train.losses.depth is 0.1, and the capture ROOT (transforms) does not say which "
        "image saw which point; give a COLMAP model with its keypoints, or set "
        "train.losses.depth to 0.",
    ),
    "no keypoints": (
        no_keypoints,
        DEPTH,
        "SCENE: train.losses.depth is 0.1, and the capture ROOT (colmap) does not say which image "
        "saw which point; give a COLMAP model with its keypoints, or set train.losses.depth to 0.",
    ),
    "no points": (
        no_points,
        DEPTH,
        "RUN/scene.yaml: train.losses.depth is 0.1, and no keypoint of the 4 images to fit of ROOT "
        "belongs to a point; give a COLMAP model whose images name their points, or set "
        "train.losses.depth to 0.",
    ),
    "fewer points": (
        fewer_points,
        DEPTH,
        "ROOT/sparse/0/images.txt: image '1.png' sees point 218, which is not among the 83 of "
        "points3D.txt; write the model again, or set train.losses.depth to 0.",
    ),
    "no sky": (
        lambda _: None,
        SKY,
        "SCENE: train.losses.sky is 0.1, and none of the 4 images to fit has a mask of the sky, "
        "the first would be ROOT/sky/images/1.png.png; put them there, name their folder by "
        "capture.sky, or set train.losses.sky to 0.",
    ),
    "a sky elsewhere": (
        write_skies,
        SKY + " capture.sky=../sky",
        "capture.sky: '../sky/images/0.png.png' is no path inside the capture's folder; write it "
        "relative to the folder, with forward slashes and without '..'.",
    ),
    "a sky of another size": (
        mask((48, 36)),
        SKY,
        "ROOT/sky/images/1.png.png: the file is 48 x 36 pixels, the camera of 'images/1.png' is "
        "for 24 x 18; it is the whole picture at 2 times that size: shrink the images to the "
        "camera's size, or give the cameras at the size of the images.",
    ),
    "a sky in colour": (
        mask((24, 18), "RGB"),
        SKY,
        "ROOT/sky/images/1.png.png: the mask has pixels of kind 'RGB'; store a single-channel "
        "image, above 0 where the sky is seen.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_losses_without_what_they_need_are_refused(
    name: str, here: Here, scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    harm, overrides, words = REFUSED[name]
    harm(own_capture)
    scene, runs = scene_file(folder=own_capture), tmp_path / "runs"
    options = [word for override in overrides.split() for word in ("--set", override)]
    said = here("fit", scene, "--output-dir", runs, "--quiet", "--nproc", 1, *options)
    assert said.code == 2
    found = said.err.replace(str(own_capture), "ROOT").replace(str(scene), "SCENE")
    assert re.sub(f"{runs}/cube/[^/]*", "RUN", found) == f"nerfxl: {words}\n"
    assert not runs.exists()


def test_a_plan_needs_no_keypoints(
    here: Here, scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    """What is wrong with them, the ranks find, as with photographs."""
    fewer_points(own_capture)
    scene = scene_file(folder=own_capture)
    out = ("--output-dir", tmp_path / "runs", "--set", DEPTH)
    assert here("plan", scene, *out).code == 0
