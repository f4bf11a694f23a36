"""Bad input, at the real command line: one sentence, exit code 2, and nothing is left behind."""

from __future__ import annotations

import json
import math
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycolmap
import pytest
from PIL import Image

from nerfxl import cli
from nerfxl.captures import read_capture
from nerfxl.runs import RunFolder

WriteScene = Callable[..., Path]
Frames = list[dict[str, Any]]
Change = Callable[[dict[str, Any]], object]
Harm = Callable[[Path], object]  # done to the folder of a capture

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `nerfxl fit` here: exit code, and what stands on stderr."""

    def run(scene: Path, *options: object) -> tuple[int, str]:
        out = ["--output-dir", tmp_path / "runs", "--device", "cpu", "--quiet"]
        words = ["nerfxl", "fit", scene, *out, *(options or ("--nproc", 1))]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        capfd.readouterr()
        try:
            cli.main()
        except SystemExit as stopped:
            return int(stopped.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


def frames(change: Callable[[Frames], object]) -> Harm:
    """Change the frames of transforms.json."""
    return document(lambda values: change(values["frames"]))


def document(change: Change) -> Harm:
    """Change transforms.json."""

    def act(root: Path) -> None:
        values = json.loads((root / "transforms.json").read_text())
        change(values)
        (root / "transforms.json").write_text(json.dumps(values))

    return act


def text(content: str) -> Harm:
    return lambda root: (root / "transforms.json").write_text(content)


def moved(by: float) -> Harm:
    def act(all_frames: Frames) -> None:
        for frame in all_frames:
            frame["transform_matrix"][0][3] += by

    return frames(act)


def turned(all_frames: Frames) -> None:
    """Back to front, as by a mistaken axis."""
    for frame in all_frames:
        for row in frame["transform_matrix"][:3]:
            row[0], row[2] = -row[0], -row[2]


def named(name: str) -> Harm:
    return frames(lambda all_frames: all_frames[2].update(file_path=name))


def bomb(root: Path) -> None:
    """A PNG of 900 megapixels in 109 KB, in place of a held-out photograph."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(30_000 * 3751), 9)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    assert len(png) < 150_000
    (root / "images" / "0.png").write_bytes(png)


def bomb_of_its_own_size(root: Path) -> None:
    bomb(root)
    document(lambda values: [values.pop(side) for side in "wh"])(root)


def jpeg(view: int, damage: Callable[[bytes], bytes]) -> Harm:
    """A photograph as a damaged JPEG; views 0 and 3 are held out."""

    def act(root: Path) -> None:
        file = root / "images" / f"{view}.jpg"
        with Image.open(root / "images" / f"{view}.png") as image:
            image.save(file, quality=95)
        file.write_bytes(damage(file.read_bytes()))
        frames(lambda found: found[view].update(file_path=f"images/{view}.jpg"))(root)

    return act


def garbage(data: bytes) -> bytes:
    """Two hundred bytes of the Huffman tables, a third of the file in, are lost."""
    at = data.index(b"\xff\xc4") + 10
    return data[:at] + b"\xee" * 200 + data[at + 200 :]


def flipped(root: Path) -> None:
    file = root / "images" / "1.png"
    data = bytearray(file.read_bytes())
    middle = data.index(b"IDAT") + 60
    data[middle : middle + 20] = bytes(20)
    file.write_bytes(data)


def all_masked(root: Path) -> None:
    Image.new("L", (24, 18)).save(root / "mask.png")
    frames(lambda found: [frame.update(mask_path="mask.png") for frame in found])(root)


def link(root: Path, target: str) -> None:
    (root / "images" / "1.png").rename(root.parent / "elsewhere.png")
    (root / "images" / "1.png").symlink_to(target)


def points(change: Callable[[str], str]) -> Harm:
    def act(root: Path) -> None:
        (root / "points.ply").write_text(change((root / "points.ply").read_text()))

    return act


def colmap(binary: bool) -> Harm:
    """The same capture as a COLMAP model."""

    def act(root: Path) -> None:
        found = read_capture(root)
        model = root / "sparse" / "0"
        model.mkdir(parents=True)
        camera = found.views[0].camera
        numbers = " ".join(map(str, camera.params))
        (model / "cameras.txt").write_text(
            "# Camera list with one line of data per camera:\n# Number of cameras: 1\n"
            f"1 PINHOLE {camera.width} {camera.height} {numbers}\n"
        )
        lines = [f"# Number of images: {len(found.views)}, mean observations per image: 0"]
        for number, view in enumerate(found.views, start=1):
            turn = view.pose[:, :3].T
            x, y, z, w = pycolmap.Rotation3d(turn).quat
            shift = " ".join(map(str, -turn @ view.pose[:, 3]))
            lines += [f"{number} {w} {x} {y} {z} {shift} 1 {Path(view.name).name}", ""]
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        rows = [f"# Number of points: {len(found.points)}, mean track length: 0"]
        for number, (x, y, z) in enumerate(found.points, start=1):
            rows.append(f"{number} {x} {y} {z} 200 100 150 0.5")
        (model / "points3D.txt").write_text("\n".join(rows) + "\n")
        if binary:
            pycolmap.Reconstruction(str(model)).write_binary(str(model))
            for file in model.glob("*.txt"):
                file.unlink()

    return act


def cut(file: str, length: Callable[[bytes], int]) -> Harm:
    """A file of the COLMAP model, cut short."""

    def act(root: Path) -> None:
        colmap(binary=file.endswith(".bin"))(root)
        path = root / "sparse" / "0" / file
        data = path.read_bytes()
        path.write_bytes(data[: length(data)])

    return act


def half(data: bytes) -> int:
    return len(data) // 2


def but_one(data: bytes) -> int:
    return len(data) - 1


def a_line(data: bytes) -> int:
    """Without the last line that says anything."""
    return data.rstrip(b"\n").rindex(b"\n") + 1


NOT_INSIDE = "is no path inside the capture's folder; write it relative to the folder"
NO_PHOTOGRAPH = "images are missing, the first is "
CAPTURES: dict[str, tuple[Harm, str]] = {
    "a path upwards": (named("../elsewhere.png"), NOT_INSIDE),
    "an absolute path": (named("/etc/hostname"), NOT_INSIDE),
    "a path with NUL": (named("images/1\0.png"), NOT_INSIDE),
    "a path with a backslash": (named("images\\1.png"), NOT_INSIDE),
    "a path without end": (named("a" * 5000), NOT_INSIDE),
    "half a character": (named("images/\ud800.png"), NOT_INSIDE),
    "a link out of the capture": (
        lambda root: link(root, str(root.parent / "elsewhere.png")),
        "'images/1.png' is a link that leads out of the capture's folder; put the file itself",
    ),
    "a link in a circle": (lambda root: link(root, "1.png"), NO_PHOTOGRAPH),
    "a folder for a photograph": (named("images"), NO_PHOTOGRAPH),
    "an image bomb": (bomb, "0.png: the file is 30000 x 30000 pixels, the camera of 'images/0"),
    "an image bomb of its own size": (
        bomb_of_its_own_size,
        "the image has 900.0 megapixels (30000 x 30000), above capture.max_megapixels 200",
    ),
    "half a JPEG": (
        jpeg(1, lambda data: data[: len(data) // 2]),
        "images/1.jpg: the image cannot be decoded (Truncated File Read); copy it again.",
    ),
    "half a JPEG, held out": (
        jpeg(0, lambda data: data[: len(data) // 2]),
        "images/0.jpg: the image cannot be decoded (Truncated File Read); copy it again.",
    ),
    "garbage in a JPEG": (jpeg(1, garbage), "images/1.jpg: the image cannot be decoded ("),
    "garbage in a PNG": (flipped, "images/1.png: the image cannot be decoded ("),
    "an empty photograph": (jpeg(3, lambda _: b""), "3.jpg: the file is empty; copy the image"),
    "no image at all": (jpeg(3, lambda _: b"GIF89a"), "3.jpg: this is not a JPEG, PNG, TIFF or"),
    "nothing but masks": (all_masked, "no pixel is left to learn from, the masks or the lenses"),
    "a pose of NaN": (
        frames(lambda found: found[2]["transform_matrix"][0].__setitem__(3, math.nan)),
        "frame 'images/2.png': the pose has a value that is not a finite number; correct it",
    ),
    "a pose beyond floats": (
        frames(lambda found: found[2]["transform_matrix"][0].__setitem__(3, 10**400)),
        "frame 'images/2.png': transform_matrix must be 4 rows (or 3) of 4 numbers.",
    ),
    "cameras beyond all": (
        moved(1e15),
        "the camera of 'images/0.png' stands at the coordinate 1e+15, beyond 1e+09",
    ),
    "cameras that look away": (frames(turned), "no camera sees any of the 98 points; correct the"),
    "a lens that is none": (
        document(lambda values: values.update(fl_x=1e-300)),
        "has a focal length of 1e-300 pixels in pictures of 24 x 18: no lens has; correct it.",
    ),
    "a number of 5000 digits": (text('{"w":' + "9" * 5000 + "}"), "this is not JSON: "),
    "a size beyond floats": (
        document(lambda values: values.update(w=10**400)),
        "w is 'a number of very many digits'; it must be a finite number.",
    ),
    "brackets without end": (text("[" * 100_000), "transforms.json: this is not JSON: "),
    "points beyond floats": (
        points(lambda ply: ply.replace("0.5", "1e400", 1)),
        "point 0 of 98 has a coordinate that is not a finite number; remove it.",
    ),
    "points beyond all": (
        points(lambda ply: ply.replace("0.5", "5e29", 1)),
        "point 0 of 98 has the coordinate 5e+29, beyond 1e+09; remove it, or move the origin",
    ),
    "points that are not there": (
        points(lambda ply: ply.replace("vertex 98", "vertex 98000000000")),
        "points.ply: vertex 99 of 98000000000 is not 3 numbers; write the file again.",
    ),
    "one photograph": (
        frames(lambda found: found.__delitem__(slice(1, None))),
        "'images/0.png' is the only image; at least two are needed.",
    ),
    "no photograph": (frames(lambda found: found.clear()), "no images are listed"),
    **{
        f"{file}.bin, {length.__name__}": (
            cut(f"{file}.bin", length),
            f"{file}.bin: the file ends in the middle of ",
        )
        for file in ("cameras", "images", "points3D")
        for length in (half, but_one)
    },
    "cameras.txt, half": (
        cut("cameras.txt", half),
        "has camera 1, which is not among the 0 of cameras",
    ),
    "cameras.txt, but_one": (cut("cameras.txt", but_one), "ends in the middle of a line; copy it"),
    "cameras.txt, a_line": (cut("cameras.txt", a_line), "announces 1 cameras at its top and holds"),
    "images.txt, a_line": (
        cut("images.txt", a_line),
        "images.txt: the file announces 6 images at its top and holds 5; copy it again, or",
    ),
    "points3D.txt, half": (cut("points3D.txt", half), "points3D.txt"),
    "points3D.txt, but_one": (cut("points3D.txt", but_one), "ends in the middle of a line; copy"),
    "points3D.txt, a_line": (
        cut("points3D.txt", a_line),
        "points3D.txt: the file announces 98 points at its top and holds 97; copy it again, or",
    ),
}


def sentence(code: int, err: str) -> str:
    """What a refusal says, after it was seen to be one."""
    assert code == 2, err
    assert err.startswith("nerfxl: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("nerfxl: ").rstrip("\n")


@pytest.mark.parametrize("name", CAPTURES)
def test_a_bad_capture_is_refused_in_a_sentence(
    name: str,
    fit: Callable[..., tuple[int, str]],
    own_capture: Path,
    scene_file: WriteScene,
    tmp_path: Path,
) -> None:
    harm, words = CAPTURES[name]
    harm(own_capture)
    assert words in sentence(*fit(scene_file(folder=own_capture)))
    assert not (tmp_path / "runs").exists()


BOX = "bounds.box=[[100, 100, 100], [101, 101, 101]]"
SCENES: dict[str, tuple[tuple[str, ...], str]] = {
    "a box elsewhere": ((BOX,), "bounds.box: no ray of the 6 cameras meets the box; give it in"),
    "an empty box elsewhere": (
        (BOX, "bounds.outside=empty"),
        "bounds.box: no ray of the 6 cameras meets the box; give it in the coordinates of",
    ),
    "all held out": (
        ("capture.split={train: [], test: [images/1.png]}",),
        "capture.split={train: [], test: [images/1.png]}: ",
    ),
    "one left": (
        ("capture.split={train: [images/0.png], test: []}",),
        "'images/0.png' is the only image; at least two are needed.",
    ),
    "a name that is not there": (
        ("capture.split={train: [images/9.png, images/0.png], test: []}",),
        "capture.split names 'images/9.png', which is none of the 6 images of",
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_that_does_not_fit_its_capture_is_refused(
    name: str,
    fit: Callable[..., tuple[int, str]],
    scene_file: WriteScene,
    tmp_path: Path,
) -> None:
    overrides, words = SCENES[name]
    options = [word for override in overrides for word in ("--set", override)]
    assert words in sentence(*fit(scene_file(), "--nproc", 1, *options))
    assert not (tmp_path / "runs").exists()


BILLION = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "an alias bomb": (BILLION, "anchors (&) and aliases (*) are not used here; write the value"),
    "a merge-key bomb": (MERGES, "merge keys (<<) are not used here; write the keys out"),
    "deep nesting": ("a: " + "[" * 100_000, "nested deeper than 16 levels"),
    "a key given twice": ("seed: 1\nseed: 2\n", "seed"),
    "two mebibytes": ("# " + "x" * (2 << 20), "larger than 1 MiB; a scene file is a few lines"),
    "binary": ("\0\1\2", ""),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_scene_file_is_refused_before_anything_is_read(
    name: str, fit: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """All that is wrong with it, a sentence a line, each with file, line and column."""
    content, words = TEXTS[name]
    scene = tmp_path / "scene.yaml"
    scene.write_text(content)
    code, err = fit(scene)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    lines = err.removeprefix("nerfxl: ").splitlines()
    assert all(line.startswith(str(scene)) for line in lines)
    assert len(lines) <= 50
    assert not (tmp_path / "runs").exists()


def test_several_processes_say_the_same_and_leave_as_little(
    fit: Callable[..., tuple[int, str]],
    own_capture: Path,
    scene_file: WriteScene,
    tmp_path: Path,
) -> None:
    """What a worker finds is said in its own words, not by the name of a log that is gone."""
    jpeg(1, lambda data: data[: len(data) // 2])(own_capture)
    (tmp_path / "runs" / "cube" / "mine").mkdir(parents=True)
    said = sentence(*fit(scene_file(folder=own_capture), "--nproc", 2))
    photograph = own_capture / "images" / "1.jpg"
    assert (
        said == f"{photograph}: the image cannot be decoded (Truncated File Read); copy it again."
    )
    assert [path.name for path in (tmp_path / "runs" / "cube").iterdir()] == ["mine"]


def folder_elsewhere(root: Path) -> None:
    (root / "images").rename(root.parent / "larger_disk")
    (root / "images").symlink_to(root.parent / "larger_disk")


WORKING: dict[str, Harm] = {
    "no points": document(lambda values: values.pop("ply_file_path")),
    "zero points": points(
        lambda ply: ply.split("end_header")[0].replace("98", "0") + "end_header\n"
    ),
    "two photographs": frames(lambda found: found.__delitem__(slice(2, None))),
    "a COLMAP model": colmap(binary=True),
    "a COLMAP model in text": colmap(binary=False),
    "its folder is a link": folder_elsewhere,
}


@pytest.mark.parametrize("name", WORKING)
def test_what_is_unusual_and_right_works(
    name: str,
    fit: Callable[..., tuple[int, str]],
    own_capture: Path,
    scene_file: WriteScene,
    tmp_path: Path,
) -> None:
    WORKING[name](own_capture)
    scene = scene_file(folder=own_capture, train={"steps": 1})
    assert fit(scene) == (0, "")
    assert RunFolder.newest(tmp_path / "runs").status().state == "completed"
