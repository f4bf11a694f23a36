"""Captures: every format gives the same world, every bad file one clear sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from nerfxl.cameras import Camera
from nerfxl.captures import Split, View, load_image, load_mask, read_capture
from nerfxl.captures.ply import read_ply
from nerfxl.errors import UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
CAPTURES = ("odm_brighton", "odm_ochota", "odm_ochota/undistorted", "opensfm_lund")

W, H = 6, 4
# camera axes of OpenGL at the identity, i.e. OpenCV's turned about x, one step to the right each
POSES = [[[1, 0, 0, i], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] for i in range(20)]


def frames(count: int, folder: str = "images") -> list[dict[str, Any]]:
    return [
        {"file_path": f"{folder}/{i:02}.png", "transform_matrix": POSES[i]} for i in range(count)
    ]


def write_images(root: Path, count: int, size: tuple[int, int] = (W, H)) -> None:
    (root / "images").mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (i, 0, 0)).save(root / "images" / f"{i:02}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images with a transforms.json that a test may change."""
    write_images(tmp_path, 10)
    write(tmp_path, {"w": W, "h": H, "fl_x": 5.0, "frames": frames(10)})
    return tmp_path


def write(root: Path, document: dict[str, Any]) -> None:
    (root / "transforms.json").write_text(json.dumps(document))


def change(root: Path, **values: Any) -> None:
    document = json.loads((root / "transforms.json").read_text())
    write(root, {**document, **values})


def refusal(action: Callable[[], object], root: Path) -> str:
    """Return the sentence of a UserError, the capture's folder written as ROOT."""
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value).replace(str(root), "ROOT")


def refused(root: Path, **options: Any) -> str:
    return refusal(lambda: read_capture(root, **options), root)


def synthesize(root: Path, count: int, **values: Any) -> pycolmap.Reconstruction:
    """Make a COLMAP model of one camera with five points; its images are empty files."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig = 1, 1
    options.num_frames_per_rig, options.num_points3D = count, 5
    for key, value in values.items():
        setattr(options, key, value)
    made = pycolmap.synthesize_dataset(options)
    for image in made.images.values():
        path = root / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return made


@pytest.mark.parametrize("name", CAPTURES)
def test_colmap_and_transforms_describe_one_world(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip("the shared captures are not here")
    colmap = read_capture(DATA / name)
    transforms = read_capture(DATA / name, format="transforms")
    assert colmap.format == "colmap"
    assert len(colmap.points) == len(colmap.point_colours) > 1000
    assert [f"images/{view.name}" for view in colmap.views] == [v.name for v in transforms.views]
    np.testing.assert_allclose(colmap.poses(), transforms.poses(), atol=1e-6)
    for one, other in zip(colmap.views, transforms.views, strict=True):
        assert one.camera == other.camera
        assert one.test == other.test
    assert load_image(colmap.views[0]).shape == (
        colmap.views[0].camera.height,
        colmap.views[0].camera.width,
        3,
    )


@pytest.mark.parametrize("kind", ["binary", "text"])
@pytest.mark.parametrize("folder", ["sparse/0", "sparse", "."])
def test_a_colmap_model_is_read_as_pycolmap_reads_it(
    tmp_path: Path, kind: str, folder: str
) -> None:
    made = synthesize(tmp_path, 3, num_rigs=2, num_cameras_per_rig=2, num_points3D=20)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    getattr(made, f"write_{kind}")(str(tmp_path / folder))
    capture = read_capture(tmp_path)
    assert len(capture.views) == made.num_images() == 12
    by_name = {image.name: image for image in made.images.values()}
    for view in capture.views:
        image = by_name[view.name]
        expected = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(view.pose, expected, atol=1e-6)  # text rounds to 17 digits
        assert view.camera.model == made.camera(image.camera_id).model_name
        np.testing.assert_allclose(view.camera.params, made.camera(image.camera_id).params)
    expected = np.array([made.points3D[key].xyz for key in sorted(made.points3D)])
    order = np.lexsort(expected.T)
    found = capture.points[np.lexsort(capture.points.T)]
    np.testing.assert_allclose(found, expected[order], atol=1e-6)


def test_axes_are_turned_from_opengl_to_opencv(root: Path) -> None:
    view = read_capture(root).views[3]
    assert view.name == "images/03.png"
    # OpenGL's identity looks along -z with y up: x right stays, down is -y, forward is -z
    np.testing.assert_array_equal(view.pose, [[1, 0, 0, 3], [0, -1, 0, 0], [0, 0, -1, 0]])


def test_applied_transform_is_undone(root: Path) -> None:
    # nerfstudio's own: y and z change places, one turns round
    applied = np.array([[1, 0, 0, 2], [0, 0, 1, -1], [0, -1, 0, 0.5]], dtype=np.float64)
    source = read_capture(root).poses()
    cloud = np.array([[1.0, 2, 3], [4, 5, 6]])
    full = np.vstack([applied, [0, 0, 0, 1]])
    scale = np.array([4, 4, 4, 1.0])
    moved = []
    for frame in frames(10):
        matrix = full @ np.array(frame["transform_matrix"])
        matrix[:3, 3] *= 4
        moved.append({**frame, "transform_matrix": matrix.tolist()})
    stored = scale[:3] * (cloud @ applied[:, :3].T + applied[:, 3])
    rows = "\n".join(" ".join(map(repr, map(float, row))) for row in stored)
    (root / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        f"property float z\nend_header\n{rows}\n"
    )
    change(
        root,
        frames=moved,
        applied_transform=applied.tolist(),
        applied_scale=4,
        ply_file_path="points.ply",
    )
    capture = read_capture(root)
    np.testing.assert_allclose(capture.poses(), source, atol=1e-12)
    np.testing.assert_allclose(capture.points, cloud, atol=1e-12)
    assert capture.point_colours.tolist() == [[0, 0, 0], [0, 0, 0]]


CAMERAS: list[tuple[dict[str, Any], Camera]] = [
    ({}, Camera("PINHOLE", W, H, (5.0, 5.0, 3.0, 2.0))),
    ({"fl_y": 4, "cx": 2.5, "cy": 1}, Camera("PINHOLE", W, H, (5.0, 4.0, 2.5, 1.0))),
    (
        {"camera_model": "OPENCV", "k1": 0.1, "p2": 0.01},
        Camera("OPENCV", W, H, (5.0, 5.0, 3.0, 2.0, 0.1, 0.0, 0.0, 0.01)),
    ),
    (
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.01},
        Camera("OPENCV_FISHEYE", W, H, (5.0, 5.0, 3.0, 2.0, 0.1, 0.0, 0.0, 0.01)),
    ),
    ({"is_fisheye": True}, Camera("OPENCV_FISHEYE", W, H, (5.0, 5.0, 3.0, 2.0, 0, 0, 0, 0))),
    (
        {"k3": 0.1},
        Camera("FULL_OPENCV", W, H, (5.0, 5.0, 3.0, 2.0, 0, 0, 0, 0, 0.1, 0, 0, 0)),
    ),
    (
        {"distortion_params": [0.1, 0.2, 0, 0, 0.3, 0.4]},
        Camera("OPENCV", W, H, (5.0, 5.0, 3.0, 2.0, 0.1, 0.2, 0.3, 0.4)),
    ),
    # tan(angle / 2) = 1: the focal length is half the side
    (
        {"fl_x": None, "camera_angle_x": np.pi / 2},
        Camera("PINHOLE", W, H, (3.0000000000000004, 3.0000000000000004, 3.0, 2.0)),
    ),
]


@pytest.mark.parametrize(("values", "camera"), CAMERAS)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "per frame"])
def test_intrinsics_of_transforms(
    root: Path, values: dict[str, Any], camera: Camera, own: bool
) -> None:
    if own:
        change(root, frames=[{**frame, **values} for frame in frames(10)])
    else:
        change(root, **values)
    assert read_capture(root).views[0].camera == camera


def test_names_without_suffix_and_sizes_from_the_file(root: Path) -> None:
    listed = [{**frame, "file_path": f"./images/{i:02}"} for i, frame in enumerate(frames(10))]
    write(root, {"camera_angle_x": 1.0, "frames": listed})
    view = read_capture(root).views[0]
    assert view.name == "images/00.png"
    assert view.stored == (W, H)


def test_a_rendered_capture(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 2)):
        (tmp_path / part).mkdir()
        listed = []
        for i in range(count):
            Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / part / f"r_{i}.png")
            listed.append({"file_path": f"./{part}/r_{i}", "transform_matrix": POSES[i]})
        document = {"camera_angle_x": 0.7, "frames": listed}
        (tmp_path / f"transforms_{part}.json").write_text(json.dumps(document))
    capture = read_capture(tmp_path)
    assert capture.format == "synthetic"
    assert capture.isolated
    assert [view.name for view in capture.test] == ["test/r_0.png", "test/r_1.png"]
    assert [view.name for view in capture.train] == [f"train/r_{i}.png" for i in range(3)]
    assert capture.points.shape == (0, 3)
    assert load_image(capture.views[0]).shape == (8, 8, 4)


def test_colmap_comes_before_transforms(root: Path) -> None:
    made = synthesize(root, 10)
    (root / "sparse").mkdir()
    made.write_binary(str(root / "sparse"))
    assert read_capture(root).format == "colmap"
    assert read_capture(root, format="transforms").format == "transforms"


def held_out(root: Path, **options: Any) -> list[str]:
    return [view.name[-6:-4] for view in read_capture(root, **options).test]


def test_the_split(root: Path) -> None:
    names = [frame["file_path"] for frame in frames(10)]
    assert held_out(root) == ["00", "08"]
    assert held_out(root, split=Split(every=3)) == ["00", "03", "06", "09"]
    lists = Split(train=(names[1], names[4]), test=(names[2],))
    capture = read_capture(root, split=lists)
    assert [(view.name, view.test) for view in capture.views] == [
        (names[1], False),
        (names[2], True),
        (names[4], False),
    ]
    change(root, train_filenames=names[:6], val_filenames=names[6:8])
    assert held_out(root) == ["06", "07"]
    assert len(read_capture(root).views) == 8
    assert held_out(root, split=Split(every=8)) == ["00", "08"]
    change(root, test_filenames=names[9:])
    assert held_out(root) == ["09"]


def test_missing_images_do_not_move_the_split(root: Path) -> None:
    (root / "images" / "02.png").unlink()
    (root / "images" / "08.png").unlink()
    assert refused(root) == (
        "ROOT/transforms.json: 2 of 10 images are missing, the first is ROOT/images/02.png; "
        "put them there, or go on without them by --skip-missing."
    )
    capture = read_capture(root, skip_missing=True)
    assert capture.skipped == ("images/02.png", "images/08.png")
    assert held_out(root, skip_missing=True, split=Split(every=4)) == ["00", "04"]


def view_of(path: Path, width: int = W, height: int = H, divisor: int = 1) -> View:
    camera = Camera("PINHOLE", width // divisor, height // divisor, (5.0, 5.0, 3.0, 2.0))
    return View("a", camera, np.eye(4)[:3], path, path, False, divisor, (width, height))


@pytest.mark.parametrize("divisor", [1, 2, 3])
def test_a_small_image_is_the_mean_of_whole_blocks(tmp_path: Path, divisor: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_image(view_of(tmp_path / "a.png", 11, 7, divisor))
    h, w = 7 // divisor, 11 // divisor
    blocks = pixels[: h * divisor, : w * divisor].reshape(h, divisor, w, divisor, 3)
    assert found.shape == (h, w, 3)
    assert np.abs(found - blocks.mean(axis=(1, 3))).max() <= 0.56  # fixed-point arithmetic


@pytest.mark.parametrize("divisor", [1, 2, 3, 4, 6, 8, 12])
def test_jpegs_are_decoded_small_and_stay_in_place(tmp_path: Path, divisor: int) -> None:
    y, x = np.mgrid[:101, :153]  # a ramp, whose block means are known, on sides that do not divide
    pixels = np.stack([x, 2 * y, x + y], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    found = load_image(view_of(tmp_path / "a.jpg", 153, 101, divisor)).astype(np.float64)
    h, w = 101 // divisor, 153 // divisor
    blocks = pixels[: h * divisor, : w * divisor].reshape(h, divisor, w, divisor, 3)
    assert found.shape == (h, w, 3)
    assert np.abs(found - blocks.mean(axis=(1, 3))).mean() < 0.6
    assert np.abs(found - blocks.mean(axis=(1, 3))).max() < 5


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (W, H)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(view_of(tmp_path / "a.jpg")).shape == (H, W, 3)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 3), ("1", 3), ("P", 3), ("RGB", 3), ("LA", 4), ("RGBA", 4)],
)
def test_every_kind_of_pixel_becomes_rgb_or_rgba(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new(mode, (W, H)).save(tmp_path / "a.png")
    assert load_image(view_of(tmp_path / "a.png")).shape == (H, W, channels)


def test_alpha_weighs_the_mean(tmp_path: Path) -> None:
    # an opaque 200 beside a transparent 0: half transparent, and still 200
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    for row in range(2):
        image.putpixel((0, row), (200, 200, 200, 255))
    image.save(tmp_path / "a.png")
    (pixel,) = load_image(view_of(tmp_path / "a.png", 2, 2, 2))[0]
    assert np.abs(pixel.astype(int) - (200, 200, 200, 128)).max() <= 2


def test_a_mask_keeps_blocks_that_are_used_throughout(root: Path) -> None:
    mask = np.full((H, W), 1, dtype=np.uint8)
    mask[0, 0] = 0
    Image.fromarray(mask).save(root / "mask.png")
    listed = frames(10)
    listed[0]["mask_path"] = "mask.png"
    change(root, frames=listed)
    first, second = read_capture(root, downscale=2).views[:2]
    found = load_mask(first)
    assert found is not None
    assert found.tolist() == [[False, True, True], [True, True, True]]
    assert load_mask(second) is None


def test_images_made_smaller_by_others(tmp_path: Path) -> None:
    small = {"camera_width": 30, "camera_height": 21, "camera_params": [25.0, 15.0, 10.0, 0.05]}
    made = synthesize(tmp_path, 4, **small)
    (tmp_path / "sparse").mkdir()
    made.write_binary(str(tmp_path / "sparse"))
    for folder, size in (("images", (30, 21)), ("images_4", (8, 5))):
        for image in made.images.values():
            path = tmp_path / folder / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(path)
    four = read_capture(tmp_path, downscale=4).views[0]
    assert four.image is not None
    assert four.image.parent.name == "images_4" or "images_4" in four.image.parts
    # 30 -> 8 and 21 -> 5: fx = 25 * 8 / 30, fy = 25 * 5 / 21
    assert four.camera.model == "OPENCV"
    np.testing.assert_allclose(four.camera.params[:4], (25 * 8 / 30, 25 * 5 / 21, 4, 50 / 21))
    assert load_image(four).shape == (5, 8, 3)
    two = read_capture(tmp_path, downscale=2).views[0]
    assert two.image is not None
    assert "images" in two.image.parts
    assert (two.camera.width, two.camera.height) == (15, 10)
    assert load_image(two).shape == (10, 15, 3)
    Image.new("RGB", (9, 5)).save(four.image)
    assert refused(tmp_path, downscale=4) == (
        f"ROOT/images_4/{four.name}: the file is 9 x 5 pixels, 1/4 of its camera would be "
        "7.5 x 5.25; make the folder anew, or remove it and the images are loaded smaller from "
        "images/."
    )


def test_colmap_masks_are_found_by_their_names(tmp_path: Path) -> None:
    made = synthesize(tmp_path, 2)
    made.write_binary(str(tmp_path))
    (tmp_path / "masks").mkdir()
    for image in made.images.values():
        (tmp_path / "masks" / f"{image.name}.png").touch()
    for view in read_capture(tmp_path).views:
        assert view.mask == tmp_path / "masks" / f"{view.name}.png"


def image_error(path: Path, **size: int) -> str:
    return refusal(lambda: load_image(view_of(path, **size)), path.parent)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's words for a short TIFF
def test_broken_images(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert image_error(path) == "ROOT/a.jpg: the file is missing."
    path.write_bytes(b"")
    assert image_error(path) == "ROOT/a.jpg: the file is empty; copy the image again."
    path.write_bytes(b"GIF89a....")
    assert image_error(path) == "ROOT/a.jpg: this is not a JPEG, PNG, TIFF or WebP image."
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        whole = path.read_bytes()
        load_image(view_of(path, 64, 64))
        for length in (20, len(whole) // 2):
            path.write_bytes(whole[:length])
            sentence = image_error(path, width=64, height=64)
            assert sentence.startswith(f"ROOT/a.{suffix}: the image cannot be decoded (")
            assert sentence.endswith("); copy it again.")


def test_images_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (50, 40)).save(path)
    start = "ROOT/a.png: the file is 50 x 40 pixels, the camera of 'a' is for "
    assert image_error(path, width=60, height=40) == (
        start + "60 x 40; use the images that the cameras were made for."
    )
    assert image_error(path, width=100, height=81) == (
        start + "100 x 81; it is the whole picture at 0.5 of that size: put the original images "
        "there and set capture.downscale instead."
    )
    assert image_error(path, width=25, height=20) == (
        start + "25 x 20; it is the whole picture at 2 times that size: shrink the images to the "
        "camera's size, or give the cameras at the size of the images."
    )


def test_images_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("I;16", (W, H)).save(path)
    assert image_error(path) == (
        "ROOT/a.png: pixels of kind 'I;16' are not read; store 8 bits a channel, RGB or RGBA."
    )
    Image.new("RGB", (W, H)).save(path)
    assert refusal(lambda: load_mask(view_of(path)), tmp_path) == (
        "ROOT/a.png: the mask has pixels of kind 'RGB'; store a single-channel image, "
        "above 0 where pixels are used."
    )


def test_a_bomb_is_refused_before_it_is_decoded(root: Path) -> None:
    # 400 megapixels of zeros: the header is enough to refuse, whatever Pillow's own limit is
    Image.new("1", (20_000, 20_000)).save(root / "images" / "00.png")
    view = read_capture(root).views[0]
    assert refusal(lambda: load_image(view), root) == (
        "ROOT/images/00.png: the file is 20000 x 20000 pixels, the camera of 'images/00.png' is "
        "for 6 x 4; use the images that the cameras were made for."
    )
    write(root, {"fl_x": 5.0, "frames": frames(10)})  # now the file says how large the camera is
    assert refused(root) == (
        "ROOT/images/00.png: the image has 400.0 megapixels (20000 x 20000), above "
        "capture.max_megapixels 200; raise the limit or shrink the image."
    )


def test_nothing_there(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        "ROOT: no capture found; looked for a COLMAP model (sparse/0/images.bin, "
        "sparse/images.bin, images.bin, the same as .txt), transforms.json and "
        "transforms_train.json."
    )
    assert refused(tmp_path / "a") == "ROOT: this is no folder; give the folder of a capture."
    assert refused(tmp_path, format="nuscenes") == (
        "capture.format 'nuscenes' is not one of auto, colmap, transforms, synthetic."
    )
    assert refused(tmp_path, downscale=0) == "capture.downscale is 0; it must be 1 or more."
    assert refused(tmp_path, format="colmap") == (
        "ROOT: no COLMAP model; looked for sparse/0/images.bin, sparse/images.bin, images.bin "
        "and the same as .txt."
    )
    assert refused(tmp_path, format="transforms") == "ROOT/transforms.json: the file is missing."
    assert refused(tmp_path, format="synthetic") == (
        "ROOT/transforms_train.json: the file is missing."
    )


def pose(*rows: list[float]) -> list[dict[str, Any]]:
    return [{**frames(1)[0], "transform_matrix": [*rows, [0, 0, 0, 1]]}, *frames(10)[1:]]


NAN = float("nan")
FRAME = "ROOT/transforms.json: frame 'images/00.png': "
TOP = "ROOT/transforms.json: "
BAD: list[tuple[dict[str, Any], str]] = [
    ({"frames": []}, TOP + "no images are listed, or the split uses none of them."),
    (
        {"frames": frames(1)},
        TOP + "'images/00.png' is the only image; at least two are needed.",
    ),
    (
        {"frames": frames(2), "train_filenames": [], "val_filenames": ["images/00.png"]},
        TOP + "'images/00.png' is the only image; at least two are needed.",
    ),
    (
        {"frames": frames(2), "val_filenames": ["images/00.png", "images/01.png"]},
        TOP + "all 2 images are held out and none is left to fit; change capture.split.",
    ),
    (
        {"frames": frames(2) + frames(1)},
        TOP + "image 'images/00.png' is listed twice; remove one of them.",
    ),
    ({"frames": 3}, TOP + "the key 'frames' must be a list with a mapping for each image."),
    (
        {"frames": [{}]},
        "ROOT/transforms.json: frame 0: file_path is None; it must be the name of a file.",
    ),
    (
        {"frames": [{"file_path": "../a.png"}]},
        "ROOT/transforms.json: frame 0: '../a.png' is no path inside the capture's folder; write "
        "it relative to the folder, with forward slashes and without '..'.",
    ),
    (
        {"frames": [{"file_path": "/etc/passwd"}]},
        "ROOT/transforms.json: frame 0: '/etc/passwd' is no path inside the capture's folder; "
        "write it relative to the folder, with forward slashes and without '..'.",
    ),
    (
        {"frames": frames(3, "photos")},
        TOP + "none of the 3 images is there, the first would be ROOT/photos/00.png; "
        "put them there.",
    ),
    (
        {"frames": pose([1, 0, 0, NAN], [0, 1, 0, 0], [0, 0, 1, 0])},
        FRAME + "the pose has a value that is not a finite number; correct it or remove the image.",
    ),
    (
        {"frames": pose([2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0])},
        FRAME + "the pose is no rotation and translation, its columns are 2, 2, 2 long or not at "
        "right angles; take scale and shear out of the pose.",
    ),
    (
        {"frames": pose([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0])},
        FRAME + "the pose is a mirror image, its determinant is -1; "
        "correct the handedness of the axes.",
    ),
    (
        {"frames": pose([1, 0, 0, 0])},
        FRAME + "transform_matrix must be 4 rows (or 3) of 4 numbers.",
    ),
    (
        {"frames": [{**frames(1)[0], "transform_matrix": [[1, 0, 0, 0]] * 4}]},
        FRAME + "the last row of transform_matrix must be 0, 0, 0, 1.",
    ),
    (
        {"frames": [{**frames(1)[0], "mask_path": "m.png"}]},
        FRAME + "the mask ROOT/m.png is missing; put it there.",
    ),
    ({"fl_x": None}, FRAME + "there is neither fl_x nor camera_angle_x; give one of them."),
    ({"fl_x": "5"}, FRAME + "fl_x is '5'; it must be a finite number."),
    ({"fl_x": NAN}, FRAME + "fl_x is nan; it must be a finite number."),
    (
        {"fl_x": -5},
        TOP + "the camera of 'images/00.png' has the parameters [-5.0, -5.0, 3.0, 2.0]; "
        "they must be finite and the focal length above 0.",
    ),
    (
        {"fl_x": None, "camera_angle_x": 180},
        FRAME + "camera_angle_x is 180; it must be an angle in radians below pi.",
    ),
    ({"w": 6.5}, FRAME + "w and h are 6.5 and 4; they must count pixels."),
    (
        {"camera_model": "FISHEYE624"},
        FRAME + "camera_model 'FISHEYE624' is not read; known are PINHOLE, SIMPLE_PINHOLE, "
        "SIMPLE_RADIAL, RADIAL, OPENCV, OPENCV_FISHEYE, SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE.",
    ),
    ({"k4": 0.1}, FRAME + "k4 = 0.1 has no agreed meaning for OPENCV; undistort first."),
    (
        {"is_fisheye": True, "p1": 0.1},
        FRAME + "OPENCV_FISHEYE has no p1 and p2; remove them or set them to 0.",
    ),
    (
        {"train_filenames": ["b.png"]},
        TOP + "train_filenames has 'b.png', which is the file_path of no frame.",
    ),
    ({"applied_scale": 0}, TOP + "applied_scale is 0; it must be above 0."),
    (
        {"applied_transform": [[1, 0, 0, 0]]},
        TOP + "applied_transform: applied_transform must be 4 rows (or 3) of 4 numbers.",
    ),
    (
        {"ply_file_path": "a.ply"},
        "ROOT/a.ply: the file cannot be read: No such file or directory.",
    ),
]


@pytest.mark.parametrize(("values", "sentence"), BAD, ids=[s[-40:] for _, s in BAD])
def test_bad_transforms(root: Path, values: dict[str, Any], sentence: str) -> None:
    change(root, **values)
    assert refused(root) == sentence


def test_bad_json(root: Path) -> None:
    (root / "transforms.json").write_text('{"frames":\n [}')
    assert refused(root) == (
        "ROOT/transforms.json, line 2, column 3: this is not JSON: Expecting value."
    )
    (root / "transforms.json").write_text("[" * 100_000)
    assert refused(root).startswith("ROOT/transforms.json: this is not JSON: ")
    (root / "transforms.json").write_text("[]")
    assert refused(root) == (
        "ROOT/transforms.json: the top of the file must be a mapping with the key 'frames'."
    )


def test_bad_options(root: Path) -> None:
    assert refused(root, downscale=5) == (
        "ROOT/transforms.json: the camera of 'images/00.png' has 6 x 4 pixels, fewer than one at "
        "capture.downscale 5; correct the one or lower the other."
    )
    assert refused(root, max_megapixels=1e-6) == (
        "ROOT/images/00.png: the image has 0.0 megapixels (6 x 4), above capture.max_megapixels "
        "1e-06; raise the limit or shrink the image."
    )
    assert refused(root, split=Split(train=("a",))) == (
        "capture.split names 'a', which is none of the 10 images of ROOT/transforms.json; the "
        "first of them is 'images/00.png'."
    )
    assert refused(root, split=Split(train=("images/00.png",), test=("images/00.png",))) == (
        "capture.split has 'images/00.png' in train and in test; remove one."
    )
    assert refused(root, split=Split(every=1)) == (
        "ROOT/transforms.json: all 10 images are held out and none is left to fit; "
        "change capture.split."
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Make a COLMAP model of four images, text and binary."""
    made = synthesize(tmp_path, 4)
    (tmp_path / "sparse").mkdir()
    made.write_binary(str(tmp_path / "sparse"))
    made.write_text(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("file", "record"), [("cameras", 1), ("images", 4), ("points3D", 5)])
def test_damaged_binary_models(model: Path, file: str, record: int) -> None:
    path = model / "sparse" / f"{file}.bin"
    kind = {"cameras": "camera", "images": "image", "points3D": "point"}[file]
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):  # wherever it is cut, it is noticed
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"the file (is empty|ends in the middle of)"):
            read_capture(model)
    path.write_bytes(b"")
    assert refused(model) == f"ROOT/sparse/{file}.bin: the file is empty; copy it again."
    path.write_bytes(whole[:-1])
    assert refused(model) == (
        f"ROOT/sparse/{file}.bin: the file ends in the middle of {kind} {record} of {record}; "
        "copy it again."
    )
    path.write_bytes(whole + b"abc")
    assert refused(model) == (
        f"ROOT/sparse/{file}.bin: 3 bytes follow after the last {kind}; copy the file again."
    )
    path.write_bytes(b"\xff" * 8 + whole[8:])
    assert refused(model).startswith(f"ROOT/sparse/{file}.bin: the file ends in the middle of ")
    path.unlink()
    if file != "images":
        assert refused(model) == (
            f"ROOT/sparse/{file}.bin: the file is missing; a model has cameras, images, points3D."
        )


def test_damaged_binary_values(model: Path) -> None:
    cameras, images = (model / "sparse" / f"{name}.bin" for name in ("cameras", "images"))
    whole = cameras.read_bytes()
    cameras.write_bytes(whole[:12] + b"\x63\0\0\0" + whole[16:])
    assert refused(model) == (
        "ROOT/sparse/cameras.bin: camera 1 is of model number 99, which is not one of COLMAP's; "
        "copy the model again."
    )
    cameras.write_bytes(whole[:8] + b"\x63\0\0\0" + whole[12:])
    assert "has camera 1, which is not among the 1 of cameras.bin." in refused(model)
    cameras.write_bytes(whole)
    whole = images.read_bytes()
    images.write_bytes(whole[:12] + b"\0" * 32 + whole[44:])
    assert "is no quaternion; remove the image." in refused(model)


@pytest.mark.parametrize(
    ("file", "kind", "line"),
    [("cameras", "camera", 4), ("images", "image", 5), ("points3D", "point", 4)],
)
def test_damaged_text_models(model: Path, file: str, kind: str, line: int) -> None:
    (model / "sparse" / "images.bin").unlink()
    path = model / f"{file}.txt"
    lines = path.read_text().splitlines()
    lines[line - 1] = "1 two three"
    path.write_text("\n".join(lines))
    assert refused(model) == (
        f"ROOT/{file}.txt, line {line}: this is no {kind} as COLMAP writes it."
    )


HEADER = "ply\nformat {form} 1.0\ncomment by hand\nelement vertex {count}\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
RGB = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
FACES = "element face 0\nproperty list uchar int vertex_indices\n"


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_ply(tmp_path: Path, form: str) -> None:
    header = HEADER.format(form=form, count=2) + XYZ + "property double nx\n" + RGB + FACES
    kinds = [*((axis, "<f4") for axis in "xyz"), ("nx", "<f8")]
    kinds += [(name, "u1") for name in ("r", "g", "b")]
    rows = np.array([(1, 2, 3, 0.5, 10, 20, 30), (4, 5, 6, 0.5, 40, 50, 60)], dtype=kinds)
    body = (
        "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode()
        if form == "ascii"
        else rows.tobytes()
    )
    (tmp_path / "a.ply").write_bytes(header.encode() + b"end_header\n" + body)
    points, colours = read_ply(tmp_path / "a.ply")
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert colours.tolist() == [[10, 20, 30], [40, 50, 60]]


BAD_PLY = [
    ("obj", "ROOT/a.ply: this is no PLY file; its first line is not 'ply'."),
    (
        HEADER.format(form="binary_big_endian", count=1) + XYZ + "end_header\n",
        "ROOT/a.ply: the PLY format 'binary_big_endian' is not read; store it as ascii or "
        "binary_little_endian.",
    ),
    (
        HEADER.format(form="ascii", count=1) + RGB + "end_header\n",
        "ROOT/a.ply: the PLY header must start with a vertex element of distinct properties with "
        "x, y and z.",
    ),
    (
        HEADER.format(form="ascii", count=1) + "property list uchar int a\nend_header\n",
        "ROOT/a.ply: the vertex property 'list uchar int a' is not read.",
    ),
    (
        HEADER.format(form="ascii", count=2) + XYZ + "end_header\n1 2 3\n1 b 3\n",
        "ROOT/a.ply: vertex 2 of 2 is not 3 numbers; write the file again.",
    ),
    (
        HEADER.format(form="binary_little_endian", count=10**15) + XYZ + "end_header\n" + "a" * 13,
        "ROOT/a.ply: the file ends in the middle of vertex 2 of 1000000000000000; copy it again.",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_PLY)
def test_bad_ply(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.ply").write_text(text)
    assert refusal(lambda: read_ply(tmp_path / "a.ply"), tmp_path) == sentence


def test_points_that_are_not_finite(root: Path) -> None:
    header = HEADER.format(form="ascii", count=2) + XYZ + "end_header\n"
    (root / "a.ply").write_text(header + "1 2 3\n1 nan 3\n")
    change(root, ply_file_path="a.ply")
    assert refused(root) == (
        "ROOT/transforms.json: point 1 of 2 has a coordinate that is not a finite number; "
        "remove it."
    )


def test_sights_are_the_corners_in_source_coordinates(root: Path) -> None:
    sights = read_capture(root).sights(3)
    assert sights.shape == (10, 9, 3)
    np.testing.assert_allclose(sights[4, 4], (0, 0, -1), atol=1e-12)
    # the first corner is 3 / 5 to the left and 2 / 5 up, which is +y here
    np.testing.assert_allclose(sights[4, 0] / -sights[4, 0, 2], (-0.6, 0.4, -1), atol=1e-12)
