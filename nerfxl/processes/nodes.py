"""The launchers of a run, one a machine: how they meet, share out the ranks, and agree."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nerfxl.errors import UserError
from nerfxl.processes import rendezvous
from nerfxl.processes.rendezvous import StoreLostError, answer

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_ANSWER_SECONDS = 30.0
_PULSE_SECONDS = 1.0
_LOST_SECONDS = 30.0  # without a pulse a launcher is taken for lost
_PARTING_SECONDS = 10.0
_HEAR_SECONDS = 0.2  # between looks


class NodeLostError(UserError):
    """Another machine's launcher is gone: nobody is left to start its ranks anew."""


class LeaderGaveUpError(UserError):
    """The process that leads has met an error, and tells it."""


@dataclass(frozen=True)
class Node:
    """What a machine brings: how many processes it was asked for, and how many would fit it."""

    host: str
    kind: str
    units: int
    asked: int | None


class Team:
    """The launchers of a run; alone on one machine, it agrees with itself.

    counts: ranks of every node; a node's ranks follow each other.
    """

    def __init__(
        self, store: Store, address: str, port: int, node: int, counts: Sequence[int]
    ) -> None:
        self.address, self.port = address, port
        self.node, self.counts = node, tuple(counts)
        self._store = store
        self._board = Board(store, node, f"the first machine's launcher, {address}:{port},")
        self._beats = 0
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._next_beat = 0.0

    @classmethod
    def alone(cls, count: int) -> Team:
        """Be the only launcher, with a store that nobody outside this machine can reach."""
        store = rendezvous.host("127.0.0.1")
        return cls(store, "127.0.0.1", store.port, 0, [count])

    @property
    def size(self) -> int:
        """Ranks of all nodes."""
        return sum(self.counts)

    @property
    def ranks(self) -> range:
        """The ranks of this node."""
        first = sum(self.counts[: self.node])
        return range(first, first + self.counts[self.node])

    @property
    def last(self) -> bool:
        """Whether this node's ranks are the highest."""
        return self.node == len(self.counts) - 1

    def call_off(self, attempt: int, grace: float) -> None:
        """Tell the other nodes that ranks of this one have failed; theirs have `grace` seconds."""
        if len(self.counts) > 1:
            self._board.ask(lambda: self._store.set(f"over/{attempt}", str(grace)))

    def called_off(self, attempt: int) -> float | None:
        """The seconds of grace, if any node has said so; shows the others that this one is alive.

        Raises
        ------
        NodeLostError
            If another node shows no life.

        """
        now = time.monotonic()
        if len(self.counts) == 1 or now < self._next_beat:
            return None
        self._next_beat = now + _PULSE_SECONDS
        self._beat(now)
        grace = self._get(f"over/{attempt}")
        return float(grace) if grace else None

    def exchange(self, attempt: int, own: Any) -> list[Any]:
        """What every node has to say of an attempt, as JSON can hold it, in the nodes' order.

        Raises
        ------
        NodeLostError
            If another node does not say it, and shows no life.

        """
        if len(self.counts) == 1:
            return [own]
        keys = [f"said/{attempt}/{node}" for node in range(len(self.counts))]
        self._board.ask(lambda: self._store.set(keys[self.node], json.dumps(own)))
        while not self._board.ask(lambda: self._store.check(keys)):
            self.called_off(attempt)
            time.sleep(_PULSE_SECONDS / 10)
        said = self._board.ask(lambda: [self._store.get(key) for key in keys])
        return [json.loads(one) for one in said]

    def _beat(self, now: float) -> None:
        self._beats += 1
        self._board.ask(lambda: self._store.set(f"pulse/{self.node}", str(self._beats)))
        for node in range(len(self.counts)):
            beat = self._get(f"pulse/{node}")
            before, since = self._heard.get(node, (None, now))
            if beat != before:
                self._heard[node] = beat, now
            elif now - since > _LOST_SECONDS:
                raise NodeLostError(
                    f"node {node} of {len(self.counts)} has shown no life for {_LOST_SECONDS:g} "
                    "s: look at that machine, then go on with the run on all of them."
                )

    def _get(self, key: str) -> bytes:
        """What is stored, empty if nothing is."""
        there = self._board.ask(lambda: self._store.check([key]))
        return bytes(self._board.ask(lambda: self._store.get(key))) if there else b""


class Board:
    """Where the first of several processes leaves word for the others; its store goes with it.

    keeper: who that is, for the sentence that says it is gone.
    """

    def __init__(self, store: Store, number: int, keeper: str) -> None:
        self._store, self._number, self._keeper = store, number, keeper

    def tell(self, what: dict[str, Any]) -> bool:
        """Leave word, once; whether it is this one that the others hear."""
        if self.ask(lambda: self._store.check(["told"])):
            return False
        self.ask(lambda: self._store.set("told", json.dumps(what)))
        return True

    def hear(self) -> dict[str, Any]:
        """Wait for it.

        Raises
        ------
        LeaderGaveUpError
            If the first has given up.
        NodeLostError
            If it is gone.

        """
        while not self.ask(lambda: self._store.check(["told"])):
            time.sleep(_HEAR_SECONDS)
        told: dict[str, Any] = json.loads(self.ask(lambda: self._store.get("told")))
        if "error" in told:
            raise LeaderGaveUpError(f"{self._keeper} gave up: {told['error']}")
        return told

    def part(self, others: range, seconds: float) -> None:
        """Leave; the first does so last, but waits for the others no longer than `seconds`."""
        with suppress(NodeLostError):
            if self._number:
                self.ask(lambda: self._store.set(f"left/{self._number}", "1"))
            else:
                rendezvous.missing(self._store, "left", others, seconds)

    def ask(self, ask: Callable[[], Any]) -> Any:
        """Ask the store.

        Raises
        ------
        NodeLostError
            If it does not answer.

        """
        try:
            return answer(ask, _ANSWER_SECONDS)
        except StoreLostError as error:
            raise NodeLostError(
                f"{self._keeper} does not answer any more: see there what happened, then go on "
                "with the run."
            ) from error


class Meeting:
    """Launchers of several machines before the run: whoever can listen on the endpoint leads.

    The leader is node 0: it prepares the run, shares out the ranks, and tells the others.

    Raises
    ------
    UserError
        If the endpoint is not HOST:PORT, nobody answers there, or all have come already.

    """

    def __init__(self, endpoint: str, nodes: int, own: Node) -> None:
        self.address, self.port = parse_endpoint(endpoint)
        self.nodes = nodes
        rendezvous.check_reachable(self.address)
        try:
            self._store: Store = rendezvous.host(self.address, self.port)
            number = 0
        except OSError:  # not an address of this machine, or another launcher has it
            self._store = rendezvous.join(self.address, self.port)
            number = int(answer(lambda: self._store.add("came", 1), _ANSWER_SECONDS))
        self.board = Board(self._store, number, f"the first machine, {endpoint},")
        self.node = number
        if number >= nodes:
            self.part()
            raise UserError(
                f"{endpoint} has its {nodes} machines already, and this is one more: raise "
                "--nnodes on all of them, or choose another port."
            )
        self.board.ask(lambda: self._store.set(f"node/{number}", json.dumps(asdict(own))))

    def share(self, tiles: int | None) -> tuple[int, ...]:
        """Wait for all machines, and share out the ranks; for the leader.

        Raises
        ------
        UserError
            If a machine does not come, is of another kind, or there are too few tiles.

        """
        members = range(self.nodes)
        late = rendezvous.missing(self._store, "node", members, rendezvous.START_SECONDS)
        if late:
            raise UserError(
                f"{self.nodes - len(late)} of {self.nodes} machines came to {self.address}:"
                f"{self.port} within {rendezvous.START_SECONDS:g} s: start the same command on "
                "every one."
            )
        said = [self._store.get(f"node/{node}") for node in members]
        return shared_out([Node(**json.loads(one)) for one in said], tiles)

    def team(self, counts: Sequence[int]) -> Team:
        """The launchers, now that all is settled."""
        return Team(self._store, self.address, self.port, self.node, counts)

    def part(self) -> None:
        """Leave; the leader, who keeps the store, leaves last."""
        came = 0 if self.node else int(self._store.add("came", 0))
        self.board.part(range(1, came + 1), _PARTING_SECONDS)


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Split HOST:PORT.

    >>> parse_endpoint("10.0.0.1:29500"), parse_endpoint("[fe80::1]:29500")
    (('10.0.0.1', 29500), ('fe80::1', 29500))
    """
    address, _, port = endpoint.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--rdzv-endpoint is '{endpoint}': it must be HOST:PORT, an address of the first "
            "machine and a free port there, such as 10.0.0.1:29500."
        )
    return address.strip("[]"), int(port)


def shared_out(nodes: Sequence[Node], tiles: int | None) -> tuple[int, ...]:
    """How many ranks every machine starts: as asked, or what fits it, while the tiles last.

    tiles: None where each rank holds all of them.

    >>> shared_out([Node("a", "cpu", 8, None), Node("b", "cpu", 8, None)], 12)
    (6, 6)
    >>> shared_out([Node("a", "cpu", 8, 2), Node("b", "cpu", 8, None)], 12)
    (2, 8)

    Raises
    ------
    UserError
        If there are too few tiles, or GPUs on some machines only.

    """
    kinds = {node.kind for node in nodes}
    if len(kinds) > 1:
        found = ", ".join(f"{node.host} {node.kind}" for node in nodes)
        raise UserError(f"the machines compute on different devices ({found}): pass --device cpu.")
    counts = [node.units if node.asked is None else node.asked for node in nodes]
    while tiles is not None and sum(counts) > tiles:
        most = max(range(len(nodes)), key=lambda i: (nodes[i].asked is None) * counts[i])
        if nodes[most].asked is not None or counts[most] == 1:
            raise UserError(
                f"{len(nodes)} machines make {sum(counts)} processes, and the scene has {tiles} "
                "tiles, of which each process needs one: pass a smaller --nproc, or raise "
                "partition.tiles."
            )
        counts[most] -= 1
    return tuple(counts)


def this_node(kind: str, units: int, asked: int | None) -> Node:
    """Describe this machine."""
    return Node(f"{socket.gethostname()}:{os.getpid()}", kind, units, asked)
