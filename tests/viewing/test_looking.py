"""A window's picture: pieces make the whole, what moves goes first, nobody waits for another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.cameras import Camera, look_at
from nerfxl.filming.paths import CameraPath, Keyframe
from nerfxl.filming.stills import Picture
from nerfxl.opened import Opened
from nerfxl.viewing import canvas
from nerfxl.viewing.canvas import Canvas, Easel, Frame
from nerfxl.viewing.desk import AT_LEISURE, AT_ONCE, IN_TURN, Desk
from nerfxl.viewing.pace import LEAST, Pace, sizes
from nerfxl.viewing.player import Player
from nerfxl.viewing.sight import DEEPEST, Sight, Task, hiding, room, upward, window_onto
from nerfxl.world import WorldTransform

POSE = look_at((3.0, 0.0, 1.0), (0.0, 0.0, 0.0))


def seen(camera: Camera) -> Picture:
    """What a ray sees here is its own direction: a piece shows where it belongs."""
    rays = torch.from_numpy(camera.directions())
    one = torch.ones(camera.height, camera.width)
    return Picture(rays / 2 + 0.5, rays[..., 0] + 2, one, one)


@dataclass
class StandIn:
    """Renders at once, and counts the pixels that it was asked for."""

    step: int = 7
    asked: list[int] = field(default_factory=list)
    likes: list[str | None] = field(default_factory=list)

    def render(self, camera: Camera, pose: Any, like: str | None = None) -> Picture:
        assert pose.shape == (3, 4)
        self.asked.append(camera.width * camera.height)
        self.likes.append(like)
        return seen(camera)


def easel_of(stand_in: StandIn) -> Easel:
    easel = Easel()
    easel.opened = cast(Opened, stand_in)
    easel.pace = Steady(40_000)
    return easel


class Steady(Pace):
    """The same on every machine."""

    def learn(self, pixels: int, seconds: float) -> None:
        assert pixels > 0
        assert seconds >= 0


def sight(width: int = 640, height: int = 360, like: str | None = None) -> Sight:
    return Sight(POSE, 0.9, width, height, like)


LENSES = [
    Camera("PINHOLE", 40, 30, (50.0, 48.0, 21.0, 14.0)),
    Camera("SIMPLE_RADIAL", 40, 30, (50.0, 20.0, 15.0, 0.05)),
    Camera("OPENCV_FISHEYE", 40, 30, (25.0, 25.0, 20.0, 15.0, 0.01, 0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: lens.model)
@given(pixels=st.integers(1, 2000))
def test_pieces_make_the_whole_picture(lens: Camera, pixels: int) -> None:
    task, whole = Task(lens, POSE, None), None
    while whole is None:
        assert task.share < 1
        whole = task.add(seen(task.next(pixels)))
    # The same rays, but for the rounding of a principal point that moves by whole pixels.
    torch.testing.assert_close(whole.colour, seen(lens).colour, atol=1e-5, rtol=0)


def test_a_panorama_is_one_piece() -> None:
    lens = Camera("EQUIRECTANGULAR", 40, 20, (40.0, 20.0))
    assert Task(lens, POSE, None).next(10) == lens
    with pytest.raises(ValueError, match="panorama"):
        lens.rows(0, 5)


@given(
    width=st.integers(100, 4000), height=st.integers(100, 3000), pixels=st.integers(LEAST, 10**7)
)
def test_pictures_grow_from_what_time_allows_to_the_window(
    width: int, height: int, pixels: int
) -> None:
    found = sizes(width, height, pixels)
    areas = [w * h for w, h in found]
    assert found[-1] == (width, height)
    assert areas == sorted(areas)
    # Rounding to whole pixels adds half a pixel to each edge at most.
    assert areas[0] <= pixels + (width + height) or len(found) == 1
    # Four times as many each time, so that all that went before takes a third of the last one; the
    # second, which is soon done, up to eight times.
    assert all(
        later <= 8 * (w + 1) * (h + 1) for later, (w, h) in zip(areas[1:], found, strict=False)
    )


def test_a_pace_is_learned() -> None:
    pace = Pace(1000)
    for _ in range(30):
        pace.learn(50_000, 0.5)
    assert pace.pixels(0.2) == pytest.approx(20_000, rel=0.01)
    pace.learn(10, 100)  # the kernels were compiled: one bad measurement is not believed
    assert pace.pixels(0.2) > 10_000
    assert Pace(1).pixels(0.001) == LEAST


def test_a_canvas_is_rough_at_once_and_whole_at_rest() -> None:
    frames: list[Frame] = []
    easel = easel_of(StandIn())
    one = Canvas(easel, frames.append)
    assert one.urgency(0.0) is None
    one.look(sight(like="a.png"), 10.0)
    assert one.urgency(10.0) == AT_ONCE
    one.work(10.0)
    # 40,000 pixels/s and 0.2 s: 640 x 360 shrinks by 2^(5/2), to 113 x 64 = 7,232 pixels.
    assert [(f.camera.width, f.camera.height) for f in frames] == [(113, 64)]
    assert not frames[0].whole
    assert one.urgency(10.1) is None, "the camera may still be moving"
    assert one.urgency(10.3) == IN_TURN
    while one.urgency(20.0) is not None:
        one.work(20.0)
    assert [f.camera.height for f in frames] == [64, 180, 360]
    assert [f.whole for f in frames] == [False, False, True]
    assert one.busy is None
    assert {f.step for f in frames} == {7}
    assert set(cast(Any, easel.opened).likes) == {"a.png"}
    assert max(cast(Any, easel.opened).asked[1:]) <= 40_000 * canvas.PIECE_SECONDS + 640


def test_a_picture_is_left_when_the_camera_moves_on() -> None:
    frames: list[Frame] = []
    easel = easel_of(StandIn())
    one = Canvas(easel, frames.append)
    one.look(sight(), 0.0)
    one.work(0.0)
    one.work(1.0)  # a piece of the finer one
    assert one.busy is not None
    one.look(sight(320, 180), 1.0)
    assert one.urgency(1.0) == AT_ONCE
    one.work(1.0)
    assert frames[-1].camera.width / frames[-1].camera.height == pytest.approx(16 / 9, rel=0.02)
    assert len(frames) == 2, "nothing more was shown of the sight that was left"


def test_another_checkpoint_does_not_make_a_sharp_picture_rough() -> None:
    frames: list[Frame] = []
    stand_in = StandIn()
    one = Canvas(easel_of(stand_in), frames.append)
    one.look(sight(), 0.0)
    while one.urgency(9.0) is not None:
        one.work(9.0)
    stand_in.step = 8
    one.again()
    assert one.urgency(9.0) == IN_TURN
    before = len(frames)
    while one.urgency(9.0) is not None:
        one.work(9.0)
    assert [(f.camera.height, f.step) for f in frames[before:]] == [(360, 8)]


def test_another_display_renders_nothing() -> None:
    frames: list[Frame] = []
    stand_in = StandIn()
    one = Canvas(easel_of(stand_in), frames.append)
    one.look(sight(), 0.0)
    one.work(0.0)
    asked = len(stand_in.asked)
    one.repaint()
    assert one.urgency(0.1) == AT_ONCE
    one.work(0.1)
    assert len(stand_in.asked) == asked
    assert frames[-1] is frames[-2]


def test_a_run_without_a_checkpoint_has_no_pictures() -> None:
    frames: list[Frame] = []
    one = Canvas(Easel(), frames.append)
    one.look(sight(), 0.0)
    assert one.urgency(5.0) is None


@dataclass(eq=False)
class Chore:
    """A job that says when it was served."""

    name: str
    level: int | None
    log: list[str]

    def urgency(self, now: float) -> int | None:
        del now
        return self.level

    def work(self, now: float) -> None:
        del now
        self.log.append(self.name)


def test_windows_take_turns_and_what_moves_goes_first() -> None:
    log: list[str] = []
    desk = Desk()
    jobs = [Chore("thumbnail", AT_LEISURE, log), Chore("a", IN_TURN, log), Chore("b", IN_TURN, log)]
    for job in jobs:
        desk.add(job)
    for _ in range(4):
        assert desk.serve(0.0)
    assert log == ["a", "b", "a", "b"]
    desk.add(Chore("moving", AT_ONCE, log))
    assert desk.serve(0.0)
    assert log[-1] == "moving"
    for job in jobs[1:]:
        desk.remove(job)
        job.level = None
    idle = Desk()
    assert not idle.serve(0.0)
    idle.add(jobs[0])
    assert idle.serve(0.0)
    assert log[-1] == "thumbnail"


def test_a_player_is_where_the_path_is_at_its_time() -> None:
    places: list[float] = []
    ended: list[int] = []
    player = Player(lambda frame: places.append(frame.pose[0, 3]), lambda: ended.append(1))
    start, stop = (np.concatenate([np.eye(3), [[x], [0], [0]]], 1) for x in (0.0, 10.0))
    path = CameraPath((Keyframe(0, start, 50), Keyframe(2, stop, 50)))
    player.play(path, 100.0)
    for now in (100.0, 101.0, 101.05, 109.0):
        if player.urgency(now) is not None:
            player.work(now)
    assert places == [0.0, pytest.approx(5.0, abs=0.2), 10.0]
    assert ended == [1]
    assert not player.playing


def test_a_wide_window_shows_all_of_a_tall_photograph_and_of_a_wide_one() -> None:
    wide, tall = (
        Camera("PINHOLE", w, h, (100.0, 100.0, w / 2, h / 2)) for w, h in ((400, 100), (100, 400))
    )
    # tan(fov / 2) is half the height over the focal length; a square window must see as much to
    # the sides as the wide one does, and upwards as the tall one does.
    assert np.tan(window_onto(wide, 1.0) / 2) == pytest.approx(np.tan(1.0), abs=0.01)
    assert np.tan(window_onto(wide, 4.0) / 2) == pytest.approx(0.5)
    assert np.tan(window_onto(tall, 1.0) / 2) == pytest.approx(np.tan(1.0), abs=0.01)


def test_what_hides_others_is_measured_along_the_axis() -> None:
    camera = Camera("PINHOLE", 101, 101, (50.0, 50.0, 50.5, 50.5))
    found = seen(camera)
    # A wall at 2 source units along the axis: rays to its corners are longer.
    away = torch.from_numpy(2 / camera.directions()[..., 2])
    opacity = torch.ones_like(away)
    opacity[0, 0] = 0.2
    depth = hiding(Picture.of(found.colour, away, opacity, away), camera, scale=5.0)
    assert depth[0, 0] == DEEPEST
    np.testing.assert_allclose(depth[1:], 10.0, rtol=1e-6)


def test_up_is_z_unless_cameras_say_otherwise() -> None:
    """Of a walk, of flights that look down, of photographs from the front: known by their axes."""
    turns = np.linspace(0, 6, 40)
    walk = [look_at((0, 0, 0), (np.sin(a), 0, np.cos(a)), up=(0, -1, 0)) for a in turns]
    front = [look_at((x, 0, 0), (x, 0, 1), up=(0, -1, 0)) for x in (-0.1, 0.0, 0.1)]
    ahead = [look_at((x, 0, 5), (x, 0, 0), up=(0, 1, 0)) for x in range(3)]
    round_about = [look_at((0, 0, 5), (0, 0, 0), up=(np.cos(a), np.sin(a), 0)) for a in turns]
    assert upward(np.stack(walk), turned=True) == (0, 0, 1)
    assert upward(np.stack(walk), turned=False) == (0, -1, 0)
    assert upward(np.stack(front), turned=False) == (0, -1, 0)
    assert upward(np.stack(ahead), turned=False) == (0, 0, 1)
    assert upward(np.stack(round_about), turned=False) == (0, 0, 1)


def test_the_room_is_ten_scenes_wide() -> None:
    world = WorldTransform(0.5, np.eye(3), np.array([1.0, 0.0, 0.0]))
    place = room(world)
    np.testing.assert_allclose(place.points(np.array([2.0, 0, 0])), [20.0, 0, 0])
    np.testing.assert_allclose(place.inverse().points(np.array([20.0, 0, 0])), [2.0, 0, 0])
