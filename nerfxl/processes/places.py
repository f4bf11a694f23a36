"""Which of the run's processes this one is: read from the variables of whoever started it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nerfxl.errors import UserError

# Slurm numbers the steps that are no job steps (batch script, interactive shell) from here on.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """One process among `size`, `local_size` of them on its machine, and where they meet.

    address, port: of the store through which the processes find each other.
    hosted: whether the launcher keeps that store; otherwise rank 0 does.
    restarts: how many times the launcher has started all ranks anew.
    own_gpus: whether every process sees its own GPU only, as its first.
    starter: who started it as a rank: "torchrun" (or nerfxl), "srun", or "nobody".
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = _LOOPBACK
    port: int = 0
    hosted: bool = False
    restarts: int = 0
    own_gpus: bool = False
    starter: str = "nobody"

    @property
    def is_rank(self) -> bool:
        """Whether it was started as a rank, be it the only one."""
        return self.starter != "nobody"

    @property
    def one_machine(self) -> bool:
        """Whether all processes share this machine."""
        return self.local_size == self.size


def here(environment: Mapping[str, str] = os.environ) -> Place:
    """Read this process's place: of torchrun's variables (nerfxl sets the same), or of srun's.

    Alone without either; alone, too, in a batch script or a shell of Slurm's, which is no rank.

    Raises
    ------
    UserError
        If the variables are incomplete or contradict each other.

    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if _in_a_job_step(environment):
        return _of_slurm(environment)
    return Place()


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    rank, size = _integer(environment, "RANK"), _integer(environment, "WORLD_SIZE")
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} and WORLD_SIZE is {size}: start the run with torchrun.")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing and size == 1:
        return Place()
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set: "
            "start the run with torchrun, or unset RANK and WORLD_SIZE."
        )
    return Place(
        rank,
        size,
        _integer(environment, "LOCAL_RANK", rank),
        _integer(environment, "LOCAL_WORLD_SIZE", size),
        environment["MASTER_ADDR"],
        _integer(environment, "MASTER_PORT"),
        hosted=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        restarts=_integer(environment, "TORCHELASTIC_RESTART_COUNT", 0),
        starter="torchrun",
    )


def _in_a_job_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process beside others.

    SLURM_PROCID says nothing: a batch script and salloc's shell have it too.
    """
    step = environment.get("SLURM_STEP_ID", "")
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    special = not step.isdecimal() or int(step) >= _FIRST_SPECIAL_STEP
    return not special and tasks.isdecimal() and int(tasks) > 1


def _of_slurm(environment: Mapping[str, str]) -> Place:
    rank = _integer(environment, "SLURM_PROCID")
    size = _integer(environment, "SLURM_STEP_NUM_TASKS")
    if rank >= size:
        raise UserError(
            f"SLURM_PROCID is {rank} and SLURM_STEP_NUM_TASKS is {size}: start the run with srun."
        )
    tasks = list(_tasks(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size))))
    node = _integer(environment, "SLURM_NODEID", 0)
    if sum(tasks) != size or node >= len(tasks):
        raise UserError(
            f"SLURM_STEP_TASKS_PER_NODE is '{environment['SLURM_STEP_TASKS_PER_NODE']}', which is "
            f"not {size} tasks on more than {node} nodes: start the run with srun."
        )
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    if len(tasks) > 1 and not nodes:
        raise UserError("SLURM_STEP_NODELIST is not set: start the run with srun.")
    job = _integer(environment, "SLURM_JOB_ID", 0) + _integer(environment, "SLURM_STEP_ID")
    return Place(
        rank,
        size,
        _integer(environment, "SLURM_LOCALID"),
        tasks[node],
        environment.get("MASTER_ADDR") or (_LOOPBACK if len(tasks) == 1 else first_host(nodes)),
        # Jobs that share a machine get different ports, below those that systems give out.
        _integer(environment, "MASTER_PORT", 10_000 + job % 20_000),
        own_gpus=any(f"SLURM_{name}_PER_TASK" in environment for name in ("GPUS", "TRES")),
        starter="srun",
    )


def _tasks(text: str) -> Iterator[int]:
    """Tasks on every node.

    >>> list(_tasks("4(x2),3"))
    [4, 4, 3]
    """
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise UserError(
                f"SLURM_STEP_TASKS_PER_NODE is '{text}': it must be like '4(x2),3'; start the run "
                "with srun."
            )
        yield from [int(found[1])] * int(found[2] or 1)


def first_host(nodes: str) -> str:
    """The first of the hosts that Slurm lists in its short form.

    >>> first_host("gpu[07-09,12],login")
    'gpu07'
    >>> first_host("a1,a2"), first_host("rack[1-2]n[3,5]")
    ('a1', 'rack1n3')
    """
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is '{text}': it must be a whole number.")
    return int(text)
