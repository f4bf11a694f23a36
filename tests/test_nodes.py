"""Ranks on several machines, and ranks that torchrun or srun started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nerfxl.crew import Launching, hired
from nerfxl.errors import UserError
from nerfxl.processes import nodes, places
from nerfxl.processes.nodes import Node
from nerfxl.processes.places import Place
from nerfxl.processes.rendezvous import check_reachable, host, interface_towards, join
from nerfxl.runs import RunFolder
from nerfxl.storage.checkpoint import latest

Until = Callable[[Callable[[], bool]], None]
STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


ON_ONE_CORE = (
    "import os, runpy, sys; os.sched_setaffinity(0, {int(sys.argv.pop(1))}); sys.argv.pop(1); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def losses(output: Path) -> list[tuple[int, float]]:
    lines = (RunFolder.newest(output).path / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def endpoint() -> str:
    return f"127.0.0.1:{free_port()}"


def on_two_nodes(spawn: Any, endpoint: str, scene: Path, out: Path) -> list[Any]:
    command = ("fit", scene, "--device", "cpu", "--nproc", 1, "--output-dir", out)
    meet = ("--nnodes", 2, "--rdzv-endpoint", endpoint)
    # A core each, as if each had a machine; they would fight over all cores otherwise.
    machines = [
        [sys.executable, "-c", ON_ONE_CORE, str(core)] for core in sorted(os.sched_getaffinity(0))
    ]
    return [spawn(*command, *meet, before=(machines * 2)[i]) for i in range(2)]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def shards(run: RunFolder) -> dict[str, bytes]:
    """All that the newest checkpoint holds."""
    return {file.name: file.read_bytes() for file in latest(run.checkpoints).glob("*.safetensors")}


def test_two_nodes_survive_a_killed_rank_and_learn_what_one_node_learns(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until, endpoint: str
) -> None:
    """All that two machines do for each other, by two launchers on one."""
    scene = scene_file(train={"steps": 80, "log_every": 10, "checkpoint_every": 10})
    out = tmp_path / "runs"
    programs = on_two_nodes(spawn, endpoint, scene, out)
    until(lambda: all(len(one.workers()) == 1 for one in programs))
    leader, follower = sorted(programs, key=lambda one: list(one.workers()))
    assert [list(one.workers()) for one in (leader, follower)] == [[0], [1]]
    victim = follower.workers()[1]
    until(lambda: any(out.glob("*/*/checkpoints/step-*[0-9]")))
    os.kill(victim, signal.SIGKILL)
    assert [one.ended() for one in (leader, follower)] == [0, 0], leader.err.read_text()
    run = RunFolder.newest(out)
    assert run.status().state == "completed"
    for one in (leader, follower):
        (said,) = [line for line in one.out.read_text().splitlines() if "restart" in line]
        assert "1 of 3, from the checkpoint of step" in said
        assert "rank 1 of 2 was killed by SIGKILL" in said
    assert f"{run.path.absolute()}, rank 1 of 2" in follower.out.read_text()
    assert "scores" not in follower.out.read_text()

    alone = spawn("fit", scene, "--device", "cpu", "--nproc", 2, "--output-dir", tmp_path / "one")
    assert alone.ended() == 0
    one = RunFolder.newest(tmp_path / "one")
    assert shards(run) == shards(one)
    assert len(shards(one)) == 5  # four tiles and what they share
    # Machines share out the rays, so the losses they report are sums in another order.
    assert dict(losses(out)) == pytest.approx(dict(losses(tmp_path / "one")), rel=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="gives each launcher a core")
def test_what_the_first_machine_refuses_ends_all(
    scene_file: Any, tmp_path: Path, spawn: Any, endpoint: str
) -> None:
    scene = scene_file(partition={"tiles": 1})
    programs = on_two_nodes(spawn, endpoint, scene, tmp_path / "runs")
    assert [one.ended() for one in programs] == [2, 2]
    said = sorted(one.err.read_text() for one in programs)
    refusal = "2 machines make 2 processes, and the scene has 1 tiles"
    assert sum(text.startswith(f"nerfxl: {refusal}") for text in said) == 1
    told = f"nerfxl: the first machine, {endpoint}, gave up: {refusal}"
    assert sum(text.startswith(told) for text in said) == 1


@pytest.fixture
def two_machines() -> Iterator[list[list[str]]]:
    """Two network namespaces with a cable between them: commands that run a program in each."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("making network namespaces takes root and the program ip")
    names = [f"nerfxl-{os.getpid()}-{i}" for i in range(2)]
    ends = [f"nx{os.getpid() % 10**8}{i}" for i in "ab"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.11.12.{i + 1}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [["ip", "netns", "exec", name, sys.executable] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_machines_meet_on_the_network_between_them(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until, two_machines: list[list[str]]
) -> None:
    out = tmp_path / "runs"
    scene = scene_file(train={"steps": 1_000_000, "log_every": 5, "checkpoint_every": 5})
    command = ("fit", scene, "--device", "cpu", "--nproc", 1, "--output-dir", out)
    meet = ("--nnodes", 2, "--rdzv-endpoint", "10.11.12.1:29511")
    first, second = (spawn(*command, *meet, before=before) for before in two_machines)
    until(lambda: any(out.glob("*/*/checkpoints/step-*[0-9]")))
    # The store and gloo's sockets, on that network and on no other.
    assert first.addresses() == ["10.11.12.1"] * 2
    assert second.addresses() == ["10.11.12.2"]
    # Ctrl-C on one machine stops the ranks of both, at the same step.
    second.process.send_signal(signal.SIGINT)
    assert [second.ended(), first.ended()] == [130, 130], first.err.read_text()
    status = RunFolder.newest(out).status()
    assert (status.state, status.reason) == ("interrupted", "stopped by Ctrl-C")
    assert latest(RunFolder.newest(out).checkpoints).name == f"step-{status.step:09d}"


@pytest.mark.long
def test_torchrun_starts_the_ranks_and_starts_them_again(
    scene_file: Any, tmp_path: Path, spawn: Any, until: Until
) -> None:
    out = tmp_path / "runs"
    scene = scene_file(train={"steps": 80, "log_every": 10, "checkpoint_every": 10})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    program = spawn("fit", scene, "--device", "cpu", "--output-dir", out, before=torchrun)
    until(lambda: len(program.workers()) == 2)
    victim = program.workers()[1]
    until(lambda: any(out.glob("*/*/checkpoints/step-*[0-9]")))
    os.kill(victim, signal.SIGKILL)
    assert program.ended() == 0, program.err.read_text()
    (run,) = [RunFolder(path.parent) for path in out.glob("*/*/status.json")]
    assert run.status().state == "completed"
    steps = [step for step, _ in losses(out)]
    assert steps[-1] == 80
    assert steps.count(10) == 1  # it went on from a checkpoint
    assert program.out.read_text().count("scores ") == 1


@pytest.mark.long
def test_srun_starts_the_ranks(scene_file: Any, tmp_path: Path, spawn: Any) -> None:
    """As srun would: two processes with its variables."""
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    step |= {"SLURM_NODEID": "0", "MASTER_PORT": str(free_port())}

    def srun(*words: object) -> list[Any]:
        ranks = ({"SLURM_PROCID": r, "SLURM_LOCALID": r} for r in "10")
        return [spawn(*words, **{**step, **rank}) for rank in ranks]

    out = ("--output-dir", tmp_path / "runs")
    second, first = srun("fit", scene_file(), "--device", "cpu", *out)
    assert [first.ended(), second.ended()] == [0, 0], first.err.read_text()
    assert "scores" in first.out.read_text()
    assert second.out.read_text() == ""
    assert RunFolder.newest(tmp_path / "runs").status().state == "completed"

    second, first = srun("render", "--device", "cpu", *out)
    assert [first.ended(), second.ended()] == [0, 0], first.err.read_text()
    assert len(list(tmp_path.glob("runs/*/*/renders/test/*.png"))) > 0

    refused = srun("fit", scene_file(partition={"tiles": 1}), "--device", "cpu", *out)
    assert [one.ended() for one in refused] == [2, 2]
    second, first = (one.err.read_text() for one in refused)
    assert first.startswith("nerfxl: srun started 2 processes: the scene has 1 tiles")
    assert second == ""


def test_a_place_is_read_from_torchrun() -> None:
    found = places.here(
        {
            "RANK": "5",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "29500",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "2",
            **STEP,  # srun may have started torchrun
        }
    )
    assert found == Place(5, 8, 1, 4, "10.0.0.1", 29500, True, 2, starter="torchrun")
    assert not found.one_machine


def test_a_place_is_read_from_srun() -> None:
    # 10,000 + (1,234,567 + 2) mod 20,000
    assert places.here(STEP) == Place(5, 7, 1, 3, "gpu07", 24569, starter="srun")
    one = {**STEP, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}
    one |= {"SLURM_NODEID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}
    assert places.here(one) == Place(3, 4, 3, 4, "127.0.0.1", 24569, starter="srun")
    assert places.here({**one, "SLURM_GPUS_PER_TASK": "1"}).own_gpus


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        # A batch script, salloc's shell, and a step of one task, which may start its own ranks.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"},
        {**STEP, "SLURM_STEP_ID": str(0xFFFFFFFA)},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_who_is_no_rank_is_alone(variables: dict[str, str]) -> None:
    assert places.here(variables) == Place()


def test_the_only_rank_of_torchrun_is_a_rank() -> None:
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "7", "TORCHELASTIC_RESTART_COUNT": "1"}
    found = places.here({"RANK": "0", "WORLD_SIZE": "1", **meet})
    assert (found.is_rank, found.size, found.restarts) == (True, 1, 1)
    assert not Place().is_rank


@pytest.mark.parametrize(
    ("launching", "sentence"),
    [
        (Launching(endpoint="10.0.0.1:29500"), "--rdzv-endpoint is of use with --nnodes 2"),
        (Launching(nnodes=2), "--rdzv-endpoint is '': it must be HOST:PORT"),
        (Launching(nproc=3), "--nproc 3: srun has started 7 processes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    launching: Launching, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught, hired(launching, "cpu"):
        pass
    assert str(caught.value).startswith(sentence)


def test_a_plan_is_made_by_one_process(spawn: Any, scene_file: Any) -> None:
    program = spawn("plan", scene_file(), **STEP)
    assert program.ended() == 2
    assert program.err.read_text().startswith("nerfxl: plan needs one process, and srun has")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SLURM_PROCID": "7"}, "SLURM_PROCID is 7 and SLURM_STEP_NUM_TASKS is 7"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x9"}, "is '4(x9': it must be like '4(x2),3'"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4"}, "is '4', which is not 7 tasks"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is not set"),
        ({"SLURM_LOCALID": "one"}, "SLURM_LOCALID is 'one': it must be a whole number"),
    ],
)
def test_broken_variables_of_srun_are_named(changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        places.here({**STEP, **changed})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("endpoint", ["", "host", "host:", ":1", "host:0", "host:70000", "host:x"])
def test_an_endpoint_is_a_host_and_a_port(endpoint: str) -> None:
    with pytest.raises(UserError, match="it must be HOST:PORT"):
        nodes.parse_endpoint(endpoint)


def test_ranks_are_shared_out_while_the_tiles_last() -> None:
    def node(units: int, asked: int | None = None, kind: str = "cuda") -> Node:
        return Node(f"n{units}", kind, units, asked)

    assert nodes.shared_out([node(8), node(4)], 100) == (8, 4)
    assert nodes.shared_out([node(8), node(4)], 9) == (5, 4)
    assert nodes.shared_out([node(8, asked=7), node(4)], 9) == (7, 2)
    with pytest.raises(UserError, match="make 12 processes, and the scene has 11 tiles"):
        nodes.shared_out([node(8, asked=8), node(4, asked=4)], 11)
    with pytest.raises(UserError, match=r"different devices \(n8 cuda, n2 cpu\)"):
        nodes.shared_out([node(8), node(2, kind="cpu")], 100)


def test_a_store_listens_on_one_address_and_on_a_port_that_is_free() -> None:
    store = host("127.0.0.1")
    with pytest.raises(OSError, match="in use"):
        host("127.0.0.1", store.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port))
    client = join("127.0.0.1", store.port, 5)
    client.set("word", "here")
    assert store.get("word") == b"here"


def test_a_store_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"^127\.0\.0\.1:\d+ did not answer within 0\.1 s"):
        join("127.0.0.1", free_port(), 0.1)


def test_a_port_of_another_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerfxl.processes.rendezvous._GREETING_SECONDS", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        with pytest.raises(UserError, match="does not answer as nerfxl would: another program"):
            join("127.0.0.1", port, 5)


def test_a_name_that_leads_nowhere_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_reachable("127.0.0.1")
    check_reachable("localhost")
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(UserError, match=r"the name node1 stands for 127\.0\.1\.1 on this machine"):
        check_reachable("node1")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its interfaces")
def test_the_way_to_an_address_has_an_interface() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.name.invalid") is None
