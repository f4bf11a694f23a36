"""The laws behind posing: which way is up, where GPS puts things, which pairs are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nerfxl.cameras import look_at
from nerfxl.captures import read_capture
from nerfxl.exporting.geometry import Geometry
from nerfxl.exporting.ply import ply
from nerfxl.filming.paths import orbit
from nerfxl.posing import mapping
from nerfxl.posing.exif import read_exif
from nerfxl.posing.finish import settled_focal
from nerfxl.posing.georeference import fit_horizontal, georeference
from nerfxl.posing.gps import Place, located, plane, read_table
from nerfxl.posing.level import level
from nerfxl.posing.matching import Lens, drop_weak, inliers, lenses
from nerfxl.posing.outcome import is_flight, write_scene
from nerfxl.posing.pairs import FEW, NEIGHBOURS, choose
from nerfxl.posing.photographs import Photograph
from nerfxl.posing.report import reasons
from nerfxl.scene.file import load_scene
from tests.posing.made import SEED, dataset, turned

Array = NDArray[np.float64]
numbers = st.floats(-5, 5)


def off(found: Array, true: Array) -> float:
    return float(np.degrees(np.arccos(np.clip(found @ true, -1, 1))))


def street(random: np.random.Generator) -> tuple[Array, Array]:
    """Cameras that walk along x and look ahead, and points on both sides."""
    eyes = np.column_stack(
        [np.arange(20.0), random.normal(0, 0.1, 20), random.normal(1.6, 0.02, 20)]
    )
    ahead = np.column_stack([np.full(20, 10), random.normal(0, 0.2, 20), random.normal(0, 0.3, 20)])
    poses = [look_at(eye, eye + way) for eye, way in zip(eyes, ahead, strict=True)]
    points = random.uniform((0, -8, 0), (40, 8, 10), (500, 3))
    return np.array(poses), points


def flight(random: np.random.Generator) -> tuple[Array, Array]:
    """Two strips 50 above uneven ground, the second back again; the drone leans by 3 degrees."""
    poses = []
    for strip, heading in ((0, 1), (30, -1)):
        for step in range(8):
            eye = np.array([10.0 * step, strip, 50])
            lean = random.normal(0, np.radians(3), 2)
            down = np.array([np.sin(lean[0]), np.sin(lean[1]), -1])
            poses.append(look_at(eye, eye + down, (heading, 0, 0)))
    points = random.uniform((-20, -30, 0), (100, 60, 6), (800, 3))
    return np.array(poses), points


def circle(random: np.random.Generator) -> tuple[Array, Array]:
    """Cameras around an object; two were held upright."""
    poses = np.array(orbit((0, 0, 0), 5, 2, 16))
    for one in (3, 9):
        poses[one, :, :2] = np.column_stack([poses[one, :, 1], -poses[one, :, 0]])
    return poses, random.normal(0, 1, (300, 3))


@pytest.mark.parametrize(
    ("made", "how", "limit"),
    [(street, "cameras", 3.0), (flight, "ground", 1.5), (circle, "cameras", 0.5)],
)
@settings(max_examples=20)
@given(axis=st.tuples(numbers, numbers, st.just(1.0)), angle=st.floats(-3, 3))
def test_up_is_found_in_any_axes(
    made: object, how: str, limit: float, axis: tuple[float, float, float], angle: float
) -> None:
    assert callable(made)
    poses, points = made(np.random.default_rng(SEED))
    turn = turned(axis, angle)
    found = level(turn @ poses, points @ turn.T)
    assert found.how == how
    assert off(found.up, turn[:, 2]) < limit


def test_the_user_says_what_is_up() -> None:
    poses, points = flight(np.random.default_rng(SEED))
    assert level(poses, points, "cameras").how == "cameras"
    poses, points = circle(np.random.default_rng(SEED))
    assert level(poses, points, "ground").how == "ground"


@settings(max_examples=20)
@given(
    st.floats(0.01, 100),
    st.floats(-3.1, 3.1),
    st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
)
def test_gps_with_a_third_of_it_wrong(
    scale: float, heading: float, shift: tuple[float, float]
) -> None:
    random = np.random.default_rng(SEED)
    here = random.normal(0, 10, (30, 2))
    factor = scale * np.exp(1j * heading)
    moved = factor * (here[:, 0] + 1j * here[:, 1]) + complex(*shift)
    there = np.column_stack([moved.real, moved.imag])
    there[::3] += random.normal(0, 300 * scale, (10, 2))
    found = fit_horizontal(here, there, seed=1)
    good = np.arange(30) % 3 != 0
    assert found.factor == pytest.approx(factor, rel=1e-3)
    assert np.median(found.residuals[good]) < 0.02 * scale


def places(metres: Array) -> list[Place | None]:
    """GPS near the equator, where a degree has 110.574 km northwards and 111.320 eastwards."""
    return [(1e-3 + y / 110_574, 9 + x / 111_320, float(z)) for x, y, z in metres]


def test_gps_gives_metres_east_and_north() -> None:
    poses, points = street(np.random.default_rng(SEED))
    known = places(poses[:, :, 3] * [1, 1, 1] + [0, 0, 100])
    small = poses.copy()
    small[:, :, 3] *= 0.2
    found = georeference(small, points * 0.2, known, "auto", seed=1)
    assert found.told["metric"]
    assert found.transform.scale == pytest.approx(5, rel=0.01)
    placed = found.transform.poses(small)[:, :, 3]
    assert np.abs(np.diff(placed[:, 0]) - np.diff(poses[:, 0, 3])).max() < 0.05
    assert placed[:, 2].mean() == pytest.approx(0, abs=0.1)  # the origin's altitude is the median
    assert not found.warning


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ([(1.0, 9.0, None)] * 20, "GPS gives nearly all photographs the same place"),
        ([(1.0, 9.0, None), (1.0, 9.1, None)] + [None] * 18, "only 2 registered photographs"),
        ("scattered", "it says neither scale nor heading"),
    ],
)
def test_gps_that_says_nothing_is_not_believed(known: object, why: str) -> None:
    random = np.random.default_rng(SEED)
    poses, points = street(random)
    given_places = places(random.normal(0, 50, (20, 3))) if known == "scattered" else known
    assert isinstance(given_places, list)
    found = georeference(poses, points, given_places, "auto", seed=1)
    assert not found.told["metric"]
    assert why in found.warning


def test_a_table_of_places_is_read_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "gps.csv"
    path.write_text("\ufeffLatitude, Longitude ,File\n-33.5,151.25,a.jpg\n\n48,2,b\n")
    table = read_table(path)
    assert table == {"a.jpg": (-33.5, 151.25, None), "b": (48.0, 2.0, None)}
    taken = [
        Photograph(name, name, 9, 9, "", gps=(1.0, 2.0, 3.0))
        for name in ("a.jpg", "b.jpg", "c.jpg")
    ]
    assert located(taken, table) == [table["a.jpg"], table["b"], (1.0, 2.0, 3.0)]


def names(count: int, form: str = "img_{:04}.jpg") -> list[str]:
    return [form.format(number) for number in range(3010, 3010 + count)]


def test_the_choice_of_pairs_and_its_reason() -> None:
    row = np.column_stack([np.arange(100.0), np.zeros(100)])
    few = choose(names(FEW), None, False, "auto")
    assert (few.kind, len(few.pairs)) == ("exhaustive", FEW * (FEW - 1) // 2)
    near = choose(names(100), row, False, "auto")
    assert near.kind == "spatial"
    assert max(b - a for a, b in near.pairs) == NEIGHBOURS  # at the ends of the row
    assert choose(names(100), None, False, "auto").kind == "sequential"
    assert choose(names(100, "{0:x}{0:04}.jpg"), None, False, "auto").kind == "exhaustive"
    assert choose(names(9), None, True, "auto").kind == "sequential"
    assert choose(names(9), None, False, "sequential").reason == "--matching"
    assert plane([None, None]) is None


@settings(max_examples=30)
@given(st.integers(2, 400), st.sampled_from(["sequential", "exhaustive", "spatial"]))
def test_pairs_are_of_two_photographs_once_and_link_all(count: int, kind: str) -> None:
    random = np.random.default_rng(count)
    where = random.normal(0, 100, (count, 2))
    where[2::3] = np.nan
    pairs = choose(names(count), where, False, kind).pairs  # type: ignore[arg-type]
    assert all(0 <= a < b < count for a, b in pairs)
    assert len(set(pairs)) == len(pairs)
    assert {(one, one + 1) for one in range(count - 1)} <= set(pairs)


def with_exif(path: Path, **tags: object) -> Path:
    exif = Image.Exif()
    inner, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    numbers_of = {"f35": 0xA405, "mm": 0x920A}
    for name, value in tags.items():
        if name == "gps":
            assert isinstance(value, dict)
            gps.update(value)
        else:
            inner[numbers_of[name]] = value
    exif[0x010F] = "Maker"
    Image.new("RGB", (800, 600)).save(path, exif=exif)
    return path


def test_a_focal_length_stays_true_when_a_photograph_is_made_smaller(tmp_path: Path) -> None:
    """35 mm on film of 43.27 mm from corner to corner; here 1000 pixels from corner to corner."""
    path = with_exif(tmp_path / "a.jpg", f35=35, mm=4.28)
    with Image.open(path) as image:
        found = read_exif(image)
    assert found.focal == pytest.approx(1000 * 35 / 43.267, rel=1e-3)
    assert found.lens == "Maker 4.28 35"
    with Image.open(with_exif(tmp_path / "b.jpg", mm=4.28)) as image:
        assert read_exif(image).focal is None  # millimetres alone are of an unknown sensor


@pytest.mark.parametrize(
    ("tags", "place"),
    [
        (
            {1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 15.0, 0.0), 6: 12.5},
            (-33.5, 151.25, 12.5),
        ),
        ({1: "N", 2: (1.0, 0.0, 36.0), 3: "W", 4: (2.0, 0.0, 0.0)}, (1.01, -2.0, None)),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, None),
        ({1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, None),
        ({1: "N"}, None),
    ],
)
def test_gps_of_exif(tmp_path: Path, tags: object, place: Place | None) -> None:
    with Image.open(with_exif(tmp_path / "a.jpg", gps=tags)) as image:
        found = read_exif(image).gps
    assert found == (None if place is None else pytest.approx(place))


def test_photographs_share_a_camera_by_size_and_lens() -> None:
    rows = [
        ("a", 80, "x 35", 70.0),
        ("b", 80, "x 35", 70.0),
        ("c", 80, "x 50", 100.0),
        ("d", 60, "", None),
    ]
    taken = [Photograph(name, name, width, 60, lens, focal) for name, width, lens, focal in rows]
    found = lenses(taken, None)
    assert [one.members for one in found] == [("a", "b"), ("d",), ("c",)]
    assert [one.source for one in found] == ["EXIF", "none", "EXIF"]
    assert [one.start for one in found] == [70.0, 60.0, 100.0]


def test_every_photograph_left_out_has_its_reason() -> None:
    inliers = {("a", "b"): 200, ("a", "c"): 40, ("d", "e"): 90, ("a", "d"): 9, ("f", "g"): 30}
    counts = dict.fromkeys("abcdefgh", 1000) | {"h": 12}
    found = reasons(["c", "d", "f", "g", "h", "i"], ["a", "b"], [["d", "e", "x"]], counts, inliers)
    assert "40 with the best of the registered" in found["c"]
    assert "separate model of 3" in found["d"]
    assert "matches only photographs that are not registered" in found["f"]
    assert "too few features, 12" in found["h"]
    counts["i"] = 500
    (only,) = reasons(["i"], ["a"], [], counts, inliers).values()
    assert "matches no other photograph" in only


def test_a_focal_length_that_many_directions_tell_is_refined() -> None:
    deviation = mapping.focal_deviation(dataset())
    assert deviation is not None
    assert 0 < deviation < mapping.UNSURE


def test_a_known_focal_length_is_held_where_motion_leaves_it_open() -> None:
    model = dataset()
    names = tuple(image.name for image in model.images.values())
    lens = [Lens(1024, 768, names, 1300.0, "EXIF")]
    told, doubt = settled_focal(model, given="", deviation=0.02, lenses=lens)
    (camera,) = model.cameras.values()
    assert camera.focal_length == 1300.0
    assert model.compute_mean_reprojection_error() < 3
    assert (told, doubt) == ("held, by EXIF: motion leaves it open to 2.0% and more", "")
    unknown = [Lens(1024, 768, names, None, "none")]
    assert settled_focal(model, "--focal", None, lens) == ("held, by --focal", "")
    told, doubt = settled_focal(model, given="", deviation=0.02, lenses=unknown)
    assert doubt.startswith("the focal length is a guess")
    assert camera.focal_length == 1300.0


def test_a_pair_of_a_walk_that_shares_little_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "database.db"
    with pycolmap.Database.open(path) as database:
        options = pycolmap.SyntheticDatasetOptions()
        options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 4, 100
        options.num_points2D_without_point3D = 3000
        pycolmap.set_random_seed(SEED)
        pycolmap.synthesize_dataset(options, database)
    found = inliers(path)
    assert set(found.values()) == {100}  # of 3,100 features, of which 155 are a twentieth
    far = list(found)[:2]
    assert drop_weak(path, far) == 2
    assert inliers(path).keys() == found.keys() - set(far)


def test_photographs_that_were_taken_out_are_not_in_the_files(tmp_path: Path) -> None:
    model = dataset()
    names = sorted(image.name for image in model.images.values())
    mapping.without(model, names[:2])
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    model.write_binary(tmp_path / "sparse" / "0")
    for name in names:
        (tmp_path / "images" / name).touch()
    assert [view.name for view in read_capture(tmp_path).views] == names[2:]


def posed_capture(root: Path, poses: NDArray[np.float64]) -> Path:
    """A capture as posing leaves it: cameras of 90 degrees, points on the ground near (0, 0)."""
    images = root / "images"
    images.mkdir(parents=True)
    frames = []
    for number, pose in enumerate(poses):
        Image.new("RGB", (32, 24)).save(images / f"{number}.png")
        matrix = np.vstack([pose * [1, -1, -1, 1], [0, 0, 0, 1]])  # OpenGL's axes
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": matrix.tolist()})
    draw = np.random.default_rng(3)
    ground = np.column_stack([draw.uniform(-6, 6, (200, 2)), draw.uniform(0, 0.5, 200)])
    cloud = ply(Geometry(ground, np.zeros((200, 3), np.uint8)))
    (root / "points.ply").write_bytes(b"".join(cloud))
    lens = {"w": 32, "h": 24, "fl_x": 16, "fl_y": 16, "cx": 16, "cy": 12}
    document = lens | {"ply_file_path": "points.ply", "frames": frames}
    (root / "transforms.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(
    ("ahead", "flight"),
    [((0.0, 0.1, -5.0), True), ((0.0, 5.0, -1.0), False)],
    ids=["down", "ahead"],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_scene_of_a_flight_says_that_rays_end_on_the_ground(
    ahead: tuple[float, float, float], flight: bool, device: Literal["cpu", "cuda"], tmp_path: Path
) -> None:
    places = [(x, y, 5.0) for x in (-4.0, 0.0, 4.0) for y in (-4.0, 0.0, 4.0)]
    poses = np.array([look_at(place, np.add(place, ahead)) for place in places])
    root = posed_capture(tmp_path / "made", poses)
    assert is_flight(root) == flight
    spec = load_scene(write_scene(root, 32, 24, flight=flight), device=device).spec
    assert spec.train.losses.depth == 0.1
    assert spec.train.losses.solid == (0.001 if flight else 0)
