"""Space cut into K tiles: a KD tree, the order of its tiles on a ray, where a ray meets each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nerfxl.documents import parsed, text_of
from nerfxl.errors import UserError
from nerfxl.rays import Box, Rays

FORMAT, VERSION = "nerfxl-plan", 1
MINIMUM_SHARE = 0.1  # of the parent's edge: a child never becomes a sliver, whatever the points
LARGEST_FILE = 64 * 2**20


class Node(NamedTuple):
    """One cut: points with `point[axis] < plane` go left, the others right.

    A child is the index of a later node, or ~tile for a leaf.
    """

    axis: int
    plane: float
    left: int
    right: int


@dataclass(frozen=True)
class Plan:
    """K disjoint tiles that cover a box (closed) or all of space (open), as a KD tree.

    root: the box that was cut, finite, scene coordinates.
    open: tiles on the border reach to infinity.
    nodes: K - 1 cuts, the first is the top of the tree. Planes are exact float32 values, so
        that float32 and float64 rays see the same tiles; neighbours share the one number.

    Two plans are equal when all their numbers are.
    """

    root: Box
    open: bool
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        _check_root(self.root)
        _check_tree(self.nodes)
        self._leaves(self.root)

    def __len__(self) -> int:
        """K, the number of tiles."""
        return len(self.nodes) + 1

    @cached_property
    def cores(self) -> tuple[Box, ...]:
        """The K tiles inside the root box: finite."""
        return self._leaves(self.root)

    @cached_property
    def tiles(self) -> tuple[Box, ...]:
        """The K tiles; outer faces are infinite when the plan is open."""
        everything = Box((-math.inf,) * 3, (math.inf,) * 3)
        return self._leaves(everything) if self.open else self.cores

    @cached_property
    def order(self) -> Tensor:
        """Tiles from front to back for each octant of directions: int64 [8, K], exact.

        A ray that rises along an axis (bit `axis` of its octant) meets the lower side of every
        cut on that axis first; this is the whole visibility order of a KD tree.
        """
        rows = []
        for octant in range(8):
            row, stack = [], [self._top]
            while stack:
                index = stack.pop()
                if index < 0:
                    row.append(~index)
                    continue
                node = self.nodes[index]
                rising = octant >> node.axis & 1
                stack += [node.right, node.left] if rising else [node.left, node.right]
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64)

    def tile_of(self, points: Tensor) -> Tensor:
        """Find the tile that holds each point: [N, 3] -> int64 [N].

        A point on a plane belongs to the upper side. A point outside the root of a closed plan
        gets the tile whose border reaches it when the plan is open.
        """
        place = torch.full((len(points),), self._top, dtype=torch.int64, device=points.device)
        table = [
            torch.tensor(column, device=points.device) for column in zip(*self.nodes, strict=True)
        ]
        while bool((place >= 0).any()):  # all points go down one level at a time
            axis, plane, left, right = (column[place.clamp(min=0)] for column in table)
            upper = points.gather(1, axis[:, None])[:, 0] >= plane.to(points)
            place = torch.where(place < 0, place, torch.where(upper, right, left))
        return ~place

    @torch.no_grad()
    def intervals(self, rays: Rays, near: float | Tensor, far: float) -> Tensor:
        """Where each ray enters and leaves each tile, as ray distances: [K, N, 2].

        Parameters
        ----------
        rays:
            N rays, float32 or float64.
        near, far:
            The stretch of the ray that counts; near is one number or [N]. A closed plan also
            clips it to the root box.

        Returns
        -------
        [K, N, 2] of the rays' dtype. Taken in `order`, the exit from one tile is the entry into
        the next, bit for bit. A tile that the ray misses has both ends 0. There is no NaN, also
        for rays that lie in a plane.

        The tree is walked, and each cut divides the interval of its node: a slab test per box
        gives NaN and gaps for rays that run inside a shared plane. No gradient flows: where a
        ray is cut does not change its integral.
        """
        entry, leave = self._root_interval(rays, near, far)
        found = rays.origins.new_zeros(len(self), len(rays), 2)
        stack = [(self._top, entry, leave)]
        while stack:
            index, a, b = stack.pop()  # [N], a <= b
            if index < 0:
                found[~index] = torch.where((a < b)[:, None], torch.stack((a, b), -1), 0)
                continue
            node = self.nodes[index]
            origin, slope = rays.origins[:, node.axis], rays.directions[:, node.axis]
            # A division, not a product with 1 / slope: that is inf for a denormal slope, and
            # 0 * inf would be NaN for an origin on the plane.
            t = (node.plane - origin) / slope
            # A parallel ray counts as falling, which meets the upper side first, and crosses
            # the plane never or at once.
            side = torch.where(origin >= node.plane, math.inf, -math.inf)
            t = torch.where(slope == 0, side, t)
            cut = torch.maximum(torch.minimum(t, b), a)
            rising = slope > 0
            upper = (torch.where(rising, cut, a), torch.where(rising, b, cut))
            lower = (torch.where(rising, a, cut), torch.where(rising, cut, b))
            stack += [(node.right, *upper), (node.left, *lower)]
        return found

    def to_json(self) -> str:
        """Write the plan as JSON; `from_json` gives back an equal one. Infinities never appear."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "open": self.open,
            "root": {"low": self.root.low, "high": self.root.high},
            "nodes": self.nodes,
        }
        return json.dumps(document, allow_nan=False)

    @staticmethod
    def from_json(text: str, name: str) -> Plan:
        """Read `to_json`'s text; a UserError speaks of the file `name`."""
        again = "; write a new one with `nerfxl plan`"
        return parsed(text, _decode, name, "a plan", again)

    @staticmethod
    def load(path: Path) -> Plan:
        """Read a plan file; UserError when it is missing or malformed."""
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is larger than {LARGEST_FILE} bytes: no plan is.")
        return Plan.from_json(text_of(path, "a plan"), str(path))

    @property
    def _top(self) -> int:
        return 0 if self.nodes else ~0

    def _leaves(self, root: Box) -> tuple[Box, ...]:
        leaves: dict[int, Box] = {}
        stack = [(self._top, root)]
        while stack:
            index, box = stack.pop()
            if index < 0:
                leaves[~index] = box
                continue
            node = self.nodes[index]
            if not box.low[node.axis] < node.plane < box.high[node.axis]:
                raise ValueError(f"the plane {node.plane} of node {index} is outside its box")
            lower, upper = _halves(box, node.axis, node.plane)
            stack += [(node.left, lower), (node.right, upper)]
        return tuple(leaves[tile] for tile in range(len(self)))

    def _root_interval(self, rays: Rays, near: float | Tensor, far: float) -> tuple[Tensor, Tensor]:
        """Return the stretch [N], [N] that the tiles share out; (0, 0) where there is none."""
        a = torch.as_tensor(near).to(rays.origins).expand(len(rays))
        b = torch.full_like(a, far)
        if not self.open:
            a, b = clipped(self.root, rays, a, b)
        return torch.where(a < b, a, 0), torch.where(a < b, b, 0)


def clipped(box: Box, rays: Rays, enter: Tensor, leave: Tensor) -> tuple[Tensor, Tensor]:
    """What of the stretches from enter to leave [N] lies in a box; its sides may be infinite.

    Of a ray that has nothing in it, enter is not below leave.
    """
    for axis, (low, high) in enumerate(zip(box.low, box.high, strict=True)):
        origin, slope = rays.origins[:, axis], rays.directions[:, axis]
        first, last = (low - origin) / slope, (high - origin) / slope
        inside = (origin >= low) & (origin <= high)
        always = torch.where(inside, math.inf, -math.inf)  # a parallel ray: all of it or none
        enter = torch.maximum(enter, torch.where(slope == 0, -always, torch.minimum(first, last)))
        leave = torch.minimum(leave, torch.where(slope == 0, always, torch.maximum(first, last)))
    return enter, leave


def octants(directions: Tensor) -> Tensor:
    """Pick the row of `Plan.order`: directions [N, 3] -> int64 [N]; bit a: direction[a] > 0."""
    rising = (directions > 0).to(torch.int64)
    return rising[:, 0] + 2 * rising[:, 1] + 4 * rising[:, 2]


def plan(points: Tensor, root: Box, tiles: int, open: bool) -> Plan:  # noqa: A002
    """Cut the root box into tiles that hold equal shares of the points (NeRF-XL, partition).

    Parameters
    ----------
    points:
        [P, 3], scene coordinates; P may be 0. Points that are not finite do not count, nor do
        those outside the root of a closed plan. In an open plan they do: border tiles hold them.
    root:
        The box to cut, finite.
    tiles:
        K >= 1, any number.
    open:
        Whether border tiles reach to infinity.

    A node of k tiles splits into floor(k / 2) and ceil(k / 2), at the quantile floor(k / 2) / k
    of its points, along the axis whose worse half is closest to a cube (`elongation`). Without
    points the box is split in that proportion; no child gets less than a tenth of the edge.
    """
    if tiles < 1:
        raise ValueError(f"a plan needs at least one tile, not {tiles}")
    _check_root(root)
    cloud = points.detach().to("cpu", torch.float32)
    kept = cloud.isfinite().all(dim=1)
    if not open:
        low, high = (torch.tensor(corner) for corner in (root.low, root.high))
        kept &= ((cloud >= low) & (cloud <= high)).all(dim=1)
    nodes: list[Node] = []

    def grow(box: Box, cloud: Tensor, k: int, first: int) -> int:
        if k == 1:
            return ~first
        k_left = k // 2
        axis, plane = _best_cut(box, cloud, k_left / k)
        index = len(nodes)
        nodes.append(Node(axis, plane, 0, 0))  # keeps its place: parents come first
        lower, upper = _halves(box, axis, plane)
        below = cloud[:, axis] < plane
        left = grow(lower, cloud[below], k_left, first)
        right = grow(upper, cloud[~below], k - k_left, first + k_left)
        nodes[index] = Node(axis, plane, left, right)
        return index

    grow(root, cloud[kept], tiles, 0)
    return Plan(root, open, tuple(nodes))


def elongation(box: Box) -> float:
    """Surface of a box over that of the cube of equal volume: 1 for a cube, above for the rest."""
    x, y, z = box.size
    return float((x * y + y * z + z * x) / (3 * (x * y * z) ** (2 / 3)))


def _best_cut(box: Box, cloud: Tensor, share: float) -> tuple[int, float]:
    cuts = []
    for axis in range(3):
        plane = _quantile_plane(cloud[:, axis], box.low[axis], box.high[axis], share)
        worse = max(elongation(half) for half in _halves(box, axis, plane))
        cuts.append((round(worse, 9), axis, plane))  # rounded: a cube's tie is not left to noise
    _, axis, plane = min(cuts)
    return axis, plane


def _quantile_plane(values: Tensor, low: float, high: float, share: float) -> float:
    """Find the float32 number that has `share` of the values [P] below it, off both ends."""
    plane = low + share * (high - low)
    if len(values) > 1:
        count = round(share * len(values))  # 1 .. P - 1, as share is in [1/3, 1/2]
        below = float(values.kthvalue(count).values)
        above = float(values.kthvalue(count + 1).values)
        plane = (below + above) / 2
        if _float32(plane) <= below:  # neighbouring floats: `below` must stay below the plane
            plane = above
    margin = MINIMUM_SHARE * (high - low)
    return _float32(min(max(plane, low + margin), high - margin))


def _float32(number: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def _halves(box: Box, axis: int, plane: float) -> tuple[Box, Box]:
    high, low = list(box.high), list(box.low)
    high[axis] = low[axis] = plane
    return Box(box.low, (high[0], high[1], high[2])), Box((low[0], low[1], low[2]), box.high)


def _check_root(root: Box) -> None:
    edges = zip(root.low, root.high, strict=True)
    if not all(-math.inf < low < high < math.inf for low, high in edges):
        raise ValueError(f"the root box {root.low} to {root.high} is empty or not finite")


def _check_tree(nodes: tuple[Node, ...]) -> None:
    """Raise ValueError unless the nodes are one binary tree with the leaves ~0 .. ~(K - 1)."""
    for index, node in enumerate(nodes):
        if node.axis not in (0, 1, 2):
            raise ValueError(f"the axis {node.axis} of node {index} is not 0, 1 or 2")
        if _float32(node.plane) != node.plane:
            raise ValueError(f"the plane {node.plane} of node {index} is not a float32 number")
        if 0 <= min(node.left, node.right) <= index or 0 <= max(node.left, node.right) <= index:
            raise ValueError(f"a child of node {index} does not come after it")
    children = sorted(child for node in nodes for child in node[2:])
    if nodes and children != [*range(-len(nodes) - 1, 0), *range(1, len(nodes))]:
        raise ValueError("its nodes do not form one tree with each tile once")


def _decode(document: Any) -> Plan:
    """Read a parsed JSON document; KeyError, TypeError or ValueError when it is no plan."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if document["version"] != VERSION:
        raise ValueError(f"it has version {document['version']}, expected {VERSION}")
    if not isinstance(document["open"], bool):
        raise ValueError("open is not true or false")
    low, high = (_numbers(document["root"][key], 3, f"root.{key}") for key in ("low", "high"))
    root = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    nodes = []
    for index, entry in enumerate(document["nodes"]):
        axis, plane, left, right = _numbers(entry, 4, f"node {index}")
        if not all(isinstance(number, int) for number in (entry[0], *entry[2:])):
            raise ValueError(f"node {index} is not [axis, plane, left, right]")
        nodes.append(Node(int(axis), plane, int(left), int(right)))
    return Plan(root, document["open"], tuple(nodes))


def _numbers(value: Any, count: int, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{where} is not a list of {count} numbers")
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in value):
        raise ValueError(f"{where} is not a list of {count} numbers")
    return [float(number) for number in value]
