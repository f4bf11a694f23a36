"""Launching: real processes that succeed, fail, are killed, are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nerfxl.processes.launch import Ending, RankFailedError, cause, launch
from nerfxl.processes.nodes import Team

Launch = Callable[[str, int], int]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Launch a worker given as source; it finds its rank in `r` and tmp_path in `here`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def run(source: str, nproc: int) -> int:
        head = (
            "import os, signal, sys, time\nfrom pathlib import Path\n"
            "r = os.environ['RANK']\nhere = Path(sys.argv[1])\n"
        )
        (tmp_path / "toy_worker.py").write_text(head + source)
        return launch("toy_worker", tmp_path, Team.alone(nproc), tmp_path / "logs")

    return run


def log(tmp_path: Path, rank: int) -> str:
    return (tmp_path / "logs" / f"rank-{rank}.log").read_text()


def test_rank_0_speaks_and_all_ranks_write_their_logs(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    source = """
print(f"rank {r} of {os.environ['WORLD_SIZE']} at {os.environ['MASTER_ADDR']}, {sys.argv[1:]}")
print("warning", r, file=sys.stderr)
"""
    assert start(source, 2) == 0
    said = [f"rank {r} of 2 at 127.0.0.1, {[str(tmp_path)]}\nwarning {r}\n" for r in range(2)]
    assert log(tmp_path, 0) == said[0]
    assert log(tmp_path, 1) == said[1]
    captured = capsys.readouterr()
    assert captured.out == said[0]
    assert captured.err == ""
    # And this process is as before.
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGINT) is handler

    # A second start in the same folder keeps the first one's logs.
    assert start("print('again')", 2) == 0
    assert log(tmp_path, 1) == "again\n"
    assert (tmp_path / "logs" / "rank-1.1.log").read_text() == said[1]


def test_a_failing_rank_is_named_with_its_last_words(start: Launch, tmp_path: Path) -> None:
    source = """
if r == "1":
    raise RuntimeError("no density anywhere")
time.sleep(60)
"""
    with pytest.raises(RankFailedError) as caught:
        start(source, 3)
    assert str(caught.value) == (
        "rank 1 of 3 ended with exit code 1 (RuntimeError: no density anywhere); "
        f"the log is {tmp_path / 'logs' / 'rank-1.log'}."
    )
    assert caught.value.exit_code == 1
    assert not caught.value.may_pass
    assert "Traceback" in log(tmp_path, 1)


def test_a_killed_rank_is_named(start: Launch, tmp_path: Path) -> None:
    source = """
if r == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    with pytest.raises(RankFailedError) as caught:
        start(source, 2)
    assert str(caught.value) == (
        "rank 1 of 2 was killed by SIGKILL (often by the system, out of memory); "
        f"the log is {tmp_path / 'logs' / 'rank-1.log'}."
    )
    assert caught.value.exit_code == 137
    assert caught.value.may_pass


POLITE = """
def stop(number, frame):
    print("stopped by", signal.Signals(number).name, flush=True)
    raise SystemExit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
(here / f"ready-{r}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_workers_are_told_to_stop_and_waited_for(
    number: signal.Signals, code: int, start: Launch, tmp_path: Path
) -> None:
    def interrupt() -> None:
        wait_for(lambda: all((tmp_path / f"ready-{r}").exists() for r in range(2)))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert start(POLITE, 2) == code
    thread.join()
    assert [log(tmp_path, r) for r in range(2)] == [f"stopped by {number.name}\n"] * 2


def test_workers_that_stopped_together_by_themselves_were_interrupted(start: Launch) -> None:
    assert start("raise SystemExit(130)", 2) == 130


def test_a_rank_that_loses_its_peer_is_not_blamed(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import PeerLostError
try:
    with joined("cpu") as ranks:
        ranks.barrier()
        if ranks.rank == 1:
            raise RuntimeError("tile 3 is not finite")
        ranks.barrier()
except PeerLostError as error:
    sys.exit(str(error))
"""
    with pytest.raises(RankFailedError, match=r"^rank 1 of 2 ended .* tile 3 is not finite"):
        start(source, 2)
    # Rank 0 says one sentence and no traceback, if it was not ended before that.
    said = capsys.readouterr().out
    assert "Traceback" not in said
    assert said == log(tmp_path, 0)


def test_no_worker_outlives_a_killed_launcher(tmp_path: Path) -> None:
    (tmp_path / "toy_worker.py").write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        "from nerfxl.processes.cluster import joined\n"
        "with joined('cpu') as ranks:\n"
        "    Path(sys.argv[1], f'pid-{ranks.rank}').write_text(str(os.getpid()))\n"
        "    ranks.barrier()\n"
        "    time.sleep(60)\n"
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from nerfxl.processes.launch import launch\nfrom nerfxl.processes.nodes import Team\n"
        "launch('toy_worker', sys.argv[1], Team.alone(2), Path(sys.argv[1], 'logs'))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    try:
        wait_for(lambda: all((tmp_path / f"pid-{r}").exists() for r in range(2)))
        time.sleep(0.2)
        pids = [int((tmp_path / f"pid-{r}").read_text()) for r in range(2)]
        assert all(running(pid) for pid in pids)
    finally:
        launcher.kill()
        launcher.wait()
    if sys.platform == "linux":
        wait_for(lambda: not any(running(pid) for pid in pids), seconds=10)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


LOST = os.EX_UNAVAILABLE


@pytest.mark.parametrize(
    ("endings", "rank"),
    [
        # rank 1 was killed; 0 lost its connection, 2 was ended by the launcher
        ([Ending(0, LOST), Ending(1, -9), Ending(2, -9, ended=True)], 1),
        # rank 2 refused its input; rank 0 hung and was ended
        ([Ending(2, 2), Ending(0, -9, ended=True)], 2),
        # an exit code of its own says more than Python's 1
        ([Ending(0, 1), Ending(3, 2)], 3),
        # the others knew that they had lost a peer
        ([Ending(0, LOST), Ending(1, 1)], 1),
        # rank 1 did not answer: all others gave up first, and it had to be killed
        ([Ending(0, LOST), Ending(1, -9, ended=True), Ending(2, LOST)], 1),
        # who did what was asked is never the cause
        ([Ending(0, 130), Ending(1, 0), Ending(2, LOST)], 2),
        ([Ending(0, 0), Ending(1, 143)], 0),
    ],
)
def test_the_cause_is_told_from_its_victims(endings: list[Ending], rank: int) -> None:
    assert cause(endings).rank == rank


HANGING = """
from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import PeerLostError
try:
    with joined("cpu", timeout=2) as ranks:
        ranks.barrier()
        if r == os.environ["HANGS"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        ranks.barrier()
except PeerLostError as error:
    print(error, flush=True)
    sys.exit(os.EX_UNAVAILABLE)
"""


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_stopped_rank_is_named_and_ended(
    rank: int, start: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANGS", str(rank))
    with pytest.raises(RankFailedError) as caught:
        start(HANGING, 3)
    logs = tmp_path / "logs"
    assert str(caught.value) == (
        f"rank {rank} did not answer within 2 s; the log is {logs / f'rank-{rank}.log'}."
    )
    assert caught.value.may_pass
    others = [log(tmp_path, other) for other in range(3) if other != rank]
    assert others == [f"rank {rank} did not answer within 2 s\n"] * 2


def test_whoever_asks_twice_to_stop_does_not_wait(start: Launch, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for(lambda: all((tmp_path / f"ready-{r}").exists() for r in range(2)))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    deaf = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
(here / f"ready-{r}").touch()
time.sleep(60)
"""
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert start(deaf, 2) == 130
    thread.join()


def test_a_run_under_nohup_outlives_its_terminal(start: Launch, tmp_path: Path) -> None:
    def hang_up() -> None:
        wait_for(lambda: all((tmp_path / f"ready-{r}").exists() for r in range(2)))
        os.kill(os.getpid(), signal.SIGHUP)
        (tmp_path / "hung-up").touch()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        thread = threading.Thread(target=hang_up)
        thread.start()
        waits = """
(here / f"ready-{r}").touch()
while not (here / "hung-up").exists():
    time.sleep(0.05)
time.sleep(0.3)
"""
        assert start(waits, 2) == 0
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_rank_that_dies_while_it_is_stopped_is_not_started_again(
    start: Launch, tmp_path: Path
) -> None:
    def interrupt() -> None:
        wait_for(lambda: all((tmp_path / f"ready-{r}").exists() for r in range(2)))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(RankFailedError, match="rank 1 of 2 was killed by SIGKILL") as caught:
        start(POLITE.replace('print("st', 'r == "1" and os.kill(os.getpid(), 9); print("st'), 2)
    thread.join()
    assert not caught.value.may_pass
