"""What is learned of photographs: poses, appearance, exposure; and how held-out ones are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nerfxl import commands
from nerfxl.captures import read_capture
from nerfxl.crew import Launching
from nerfxl.disturb import disturbed
from nerfxl.prepare import read_back
from nerfxl.progress import Speaker
from nerfxl.randomness import generator
from nerfxl.rays import Rays
from nerfxl.runs import RunFolder
from nerfxl.scene.training import AppearanceSpec, CamerasSpec, DisturbSpec
from nerfxl.storage.checkpoint import latest
from nerfxl.views import Views, penalise

WriteScene = Callable[..., Path]
ALL = (CamerasSpec(refine="on"), AppearanceSpec(embedding="on", size=3, exposure="on"))
N, V = 7, 4


def learned(seed: int = 0, refine: Any = "on") -> Views:
    made = Views(CamerasSpec(refine=refine), ALL[1], V).double()
    for index, rows in enumerate(made.parameters()):
        draw = torch.rand(rows.shape, generator=generator(seed, index), dtype=torch.float64)
        rows.data.copy_(draw - 0.5)
    return made


def some_rays() -> Rays:
    draw = generator(9)
    directions = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    origins = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    return Rays(origins, torch.nn.functional.normalize(directions))


def test_nothing_is_learned_unless_asked_for() -> None:
    off = Views(CamerasSpec(), AppearanceSpec(), V)
    assert not off.learns
    rays, view = some_rays(), torch.zeros(N, dtype=torch.int64)
    assert off.placed(rays, view) is rays
    assert off.looks(view) is None
    assert off.exposed(rays.origins, view) is rays.origins


def test_at_the_start_every_photograph_is_as_the_capture_says() -> None:
    views = Views(*ALL, V).double()
    rays, view = some_rays(), torch.arange(N) % V
    placed = views.placed(rays, view)
    assert torch.equal(placed.origins, rays.origins)
    assert torch.equal(placed.directions, rays.directions)
    assert torch.equal(views.exposed(rays.origins, view), rays.origins)


def test_a_correction_turns_a_camera_about_itself_and_moves_it() -> None:
    views, rays, view = learned(), some_rays(), torch.arange(N) % V
    placed = views.placed(rays, view)
    pose = views.pose
    assert pose is not None
    assert torch.equal(placed.origins, rays.origins + pose[view, 3:])
    for row in range(N):
        turn = torch.linalg.matrix_exp(skew(pose[view[row], :3]))
        torch.testing.assert_close(placed.directions[row], turn @ rays.directions[row])
    moved = learned(refine="translation").placed(rays, view)
    assert torch.equal(moved.directions, rays.directions)
    assert torch.equal(moved.origins, placed.origins)


def skew(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


@pytest.mark.parametrize("start", ["zero", "far"])
def test_gradients_of_all_that_is_learned(start: str) -> None:
    """Also at zero, where every run begins and where an angle has no axis."""
    views, rays, view = learned(), some_rays(), torch.arange(N) % V
    if start == "zero":
        views = Views(*ALL, V).double()
    names = list(dict(views.named_parameters()))

    def seen(*rows: Tensor) -> Tensor:
        def show() -> Tensor:
            placed = views.placed(rays, view)
            looks = views.looks(view)
            assert looks is not None
            colour = views.exposed(placed.directions.sigmoid(), view)
            return torch.cat([placed.origins, placed.directions, looks, colour], 1)

        values = dict(zip(names, rows, strict=True))
        out: Tensor = torch.func.functional_call(
            _Call(views, show), {f"views.{n}": v for n, v in values.items()}, ()
        )
        return out

    inputs = tuple(rows.detach().clone().requires_grad_() for rows in views.parameters())
    assert torch.autograd.gradcheck(seen, inputs)


class _Call(torch.nn.Module):
    def __init__(self, views: Views, show: Callable[[], Tensor]) -> None:
        super().__init__()
        self.views, self.show = views, show

    def forward(self) -> Tensor:
        return self.show()


def test_exposure_of_another_owner_takes_no_gradient_but_lets_colours_through() -> None:
    views, view = learned(), torch.arange(N) % V
    colour = torch.rand(N, 3, dtype=torch.float64, requires_grad=True)
    one, other = views.exposed(colour, view), views.exposed(colour, view, own=False)
    assert torch.equal(one, other)
    other.sum().backward()  # type: ignore[no-untyped-call]
    assert views.gain is not None
    assert views.gain.grad is None
    assert colour.grad is not None
    assert torch.equal(colour.grad, views.gain.detach()[view].exp())


@pytest.mark.parametrize("how", ["zero", "mean", "half"])
def test_views_nobody_took_get_the_look_that_is_asked_for(how: str) -> None:
    views, seen = learned(), [0, 2]
    before = {name: rows.detach().clone() for name, rows in views.named_parameters()}
    views.settle(seen, how)
    for name, rows in views.named_parameters():
        assert torch.equal(rows[seen], before[name][seen])
        if name == "pose":
            assert torch.equal(rows, before[name])  # a pose is never made up
            continue
        expected = torch.zeros_like(rows[0]) if how == "zero" else before[name][seen].mean(0)
        for row in (1, 3, V):
            assert torch.equal(rows[row], expected)
    none = views.rows(None, torch.zeros(5, 3))
    assert none.tolist() == [V] * 5


def test_the_penalty_is_the_gradient_of_the_mean_square() -> None:
    pose = learned().pose
    assert pose is not None
    (0.3 * pose[:V].square().sum() / V).backward()  # type: ignore[no-untyped-call]
    assert pose.grad is not None
    expected = pose.grad.clone()
    pose.grad.zero_()
    pose.data[V] = 0  # no photograph, no correction
    penalise(pose, 0.3, V)
    torch.testing.assert_close(pose.grad, expected, rtol=1e-12, atol=0)


@given(st.floats(0, 20), st.floats(0, 0.2), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_errors_of_poses_are_as_large_as_said(turn: float, shift: float, seed: int) -> None:
    capture = CAPTURE[0]
    poses = disturbed(capture.views, DisturbSpec(rotation=turn, translation=shift), 3.0, seed)
    again = disturbed(capture.views, DisturbSpec(rotation=turn, translation=shift), 3.0, seed)
    for view, pose, same in zip(capture.views, poses, again, strict=True):
        assert np.array_equal(pose, same)
        if view.test:
            assert pose is view.pose
            continue
        assert np.allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-12)
        turned = torch.from_numpy(pose[:, :3] @ view.pose[:, :3].T)
        assert (
            float(roma.rotmat_geodesic_distance(turned, torch.eye(3).double()))
            < np.deg2rad(6 * turn) + 1e-6
        )
        assert np.abs(pose[:, 3] - view.pose[:, 3]).max() <= 6 * 3.0 * shift
        assert bool(turn or shift) != (pose is view.pose)


CAPTURE: list[Any] = []


@pytest.fixture(autouse=True)
def _capture(capture: Path) -> None:
    CAPTURE[:] = [read_capture(capture)]


LOOK = {"embedding": "on", "size": 2, "exposure": "on"}


def fitted(scene: Path, out: Path, *overrides: str, nproc: int = 1) -> tuple[RunFolder, Any]:
    speaker = Speaker(quiet=True)
    found = commands.fit(scene, out, "cpu", overrides, False, speaker, Launching(nproc))
    return RunFolder(Path(found["run"])), found


def shared_tensors(run: RunFolder) -> dict[str, Tensor]:
    return load_file(latest(run.checkpoints) / "shared.safetensors")


@pytest.mark.usefixtures("one_core")
def test_poses_begin_after_their_warmup_and_held_out_ones_stay(
    scene_file: WriteScene, tmp_path: Path
) -> None:
    cameras = {"refine": "on", "warmup_steps": 4, "disturb": {"rotation": 1.0}}
    scene = scene_file(cameras=cameras, exchange="gather")
    run, _ = fitted(scene, tmp_path / "four", "train.steps=4")
    assert not shared_tensors(run)["views.pose"].any()
    alone, _ = fitted(scene, tmp_path / "ten")
    pose = shared_tensors(alone)["views.pose"]
    shots = read_back(alone).shots
    assert len(pose) == len(shots) + 1
    for row, shot in enumerate(shots):
        assert bool(pose[row].any()) != shot.test
    cameras_file = json.loads(alone.cameras.read_text())["views"]
    assert [("true_pose" in view) for view in cameras_file] == [not shot.test for shot in shots]

    # One correction a camera, whoever owns the tiles that see it, to the bit.
    for exchange in ("gather", "owner"):
        out = tmp_path / exchange
        run, _ = fitted(scene, out, f"exchange={exchange}", nproc=2)
        assert torch.equal(shared_tensors(run)["views.pose"], pose)


@pytest.mark.long
@pytest.mark.usefixtures("one_core")
def test_exposure_is_learned_and_fitted_on_the_left_half(
    scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    """Photographs darkened by a factor of their own: the gains that come out are those factors."""
    factors = {}
    for index, path in enumerate(sorted((own_capture / "images").iterdir())):
        factors[path.name] = (1.0, 0.5, 0.7, 0.4, 0.9, 0.6)[index]
        pixels = np.asarray(Image.open(path)).astype(np.float64) * factors[path.name]
        Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    steps = {"steps": 150, "rays": 256, "learning_rate": 0.03, "checkpoint_every": 0}
    scene = scene_file(
        capture={"path": str(own_capture)},
        train=steps,
        appearance={"exposure": "on", "at_test": "half"},
    )
    run, found = fitted(scene, tmp_path / "on")
    _, off = fitted(scene, tmp_path / "off", "appearance.exposure=off")
    assert found["appearance"].startswith("exposure; fitted on the left half")
    assert off["appearance"] == "off, the right half of each image is scored"
    assert found["psnr"] > off["psnr"] + 1
    shots = read_back(run).shots
    gain = shared_tensors(run)["views.gain"].mean(1)
    rows = [row for row, shot in enumerate(shots) if not shot.test]
    brightness = torch.tensor([factors[Path(shots[row].name).name] for row in rows]).log()
    both = torch.stack([gain[rows], brightness])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9

    # The look of a held-out image is fitted the same however many ranks do it.
    before = {shot["name"]: shot["psnr"] for shot in found["per_image"]}
    again = commands.evaluate(run.path, tmp_path, 2, "cpu", Speaker(quiet=True))
    for shot in again["per_image"]:
        assert shot["psnr"] == pytest.approx(before[shot["name"]], abs=1e-3)
