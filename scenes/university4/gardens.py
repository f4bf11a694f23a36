"""Trees, hedges, lamps, benches and the fountain."""

from __future__ import annotations

import numpy as np
from mesh import Site, icosphere
from numpy.typing import NDArray
from textures import QUAD

# (x, y, height, crown radius, kind); the loop of the walk passes between the two rows of trees.
TREES = (
    (-10.5, 5.2, 9.5, 3.4, "oak"),
    (10.5, -5.2, 8.5, 3.1, "lime"),
    (-9.0, -1.9, 5.0, 1.7, "blossom"),
    (9.0, 1.9, 5.2, 1.8, "maple"),
    (-24.5, -17.2, 10.0, 3.0, "lime"),
    (24.0, 17.5, 9.0, 2.8, "oak"),
    (-25.8, 16.9, 9.5, 1.35, "fir"),
    (25.8, -16.9, 9.0, 1.35, "fir"),
    (12.8, 19.6, 4.6, 1.3, "blossom"),
    (-38.0, 30.0, 13.0, 4.6, "oak"),
    (38.0, 30.0, 12.0, 4.4, "lime"),
    (-38.0, -30.0, 12.0, 4.4, "oak"),
    (37.0, -31.0, 13.0, 4.6, "lime"),
)
LAMPS = ((-7.5, 14.9), (7.5, 14.9), (-7.5, -14.9), (7.5, -14.9))
LAMPS += ((-22.0, 7.0), (-22.0, -7.0), (22.0, 7.0), (22.0, -7.0))
BENCHES = ((-13.0, 18.3, 180), (19.0, 18.3, 180), (-13.0, -18.0, 0), (13.0, -18.0, 0))
BENCHES += ((-25.0, 4.0, -90), (-25.0, -5.0, -90), (25.3, 8.5, 90), (25.3, -8.0, 90))


def blob(
    site: Site,
    material: str,
    centre: NDArray[np.float64],
    size: NDArray[np.float64],
    rng: np.random.Generator,
    rough: float = 0.13,
) -> None:
    """Add one cluster of leaves: a bumpy ellipsoid of 320 loose, tilted facets."""
    sphere = icosphere()
    waves = rng.normal(0, 4.5, (6, 3))
    phase = rng.uniform(0, 2 * np.pi, 6)
    bump = np.sin(sphere @ waves.T + phase).mean(-1, keepdims=True)
    shell = sphere * (1 + 2.4 * rough * bump)
    # Larger facets than the shell needs, each turned a little: they overlap like leaves.
    middle = shell.mean(1, keepdims=True)
    leaves = middle + 1.45 * (shell - middle)
    tilt = rng.normal(0, 1.3 * rough, (len(leaves), 3, 1))
    push = 1 + rng.normal(0, 0.5 * rough, (len(leaves), 1, 1))
    site.triangles(material, centre + leaves * (1 + tilt * 0.55) * push * size)


def tree(site: Site, height: float, radius: float, kind: str, rng: np.random.Generator) -> None:
    """Add a tree at the frame's origin: trunk, branches, and a crown of many blobs."""
    if kind == "fir":
        site.lathe("bark", 0, 0, [(0.22, 0), (0.16, 1.2)], 8)
        for z in np.arange(0.9, height, 0.42):
            reach = radius * (1 - ((z - 0.9) / height) ** 1.6)
            for angle in rng.uniform(0, 2 * np.pi) + np.arange(5) * 2 * np.pi / 5:
                at = np.array([np.cos(angle) * reach * 0.55, np.sin(angle) * reach * 0.55, z])
                blob(site, kind, at, reach * np.array([0.5, 0.5, 0.6]) + 0.08, rng)
        return
    low = 0.36 * height
    middle = np.array([0, 0, (low + height) / 2])
    girth = 0.035 * height
    site.lathe("bark", 0, 0, [(1.5 * girth, 0), (girth, 0.5), (0.7 * girth, low + 0.8)], 10)
    half = np.array([radius, radius, (height - low) / 2])
    for k in range(int(26 + 12 * radius)):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        # Most clusters sit near the surface of the crown, which is flatter below.
        direction[2] = max(direction[2], -0.75)
        at = middle + direction * half * rng.uniform(0.55, 0.85)
        blob(site, kind, at, radius * rng.uniform(0.20, 0.33) * np.array([1.1, 1.1, 0.85]), rng)
        if k % 4 == 0:
            fork = np.array([0, 0, rng.uniform(0.75, 1.0) * low + 0.5])
            site.tube("bark", (fork, at), (0.45 * girth, 0.12 * girth))


def hedge(site: Site, length: float, rng: np.random.Generator) -> None:
    """Add a low clipped hedge along x."""
    for x in np.arange(-length / 2, length / 2, 0.55):
        size = np.array([0.48, 0.42, 0.46]) * rng.uniform(0.92, 1.08)
        blob(site, "hedge", np.array([x, 0, 0.38]), size, rng, 0.06)


def flowers(site: Site, length: float, rng: np.random.Generator) -> None:
    """Add a bed of low flowering bushes along x."""
    for x in np.arange(-length / 2, length / 2, 0.5):
        kind = "flower" if rng.random() < 0.55 else "hedge"
        blob(site, kind, np.array([x, rng.normal(0, 0.12), 0.2]), np.full(3, 0.36), rng, 0.12)


def lamp(site: Site) -> None:
    """Add an iron post with a glazed lantern."""
    post = [(0.2, 0), (0.2, 0.4), (0.09, 0.6), (0.065, 3.2), (0.12, 3.3), (0.05, 3.4)]
    site.lathe("iron", 0, 0, post, 10)
    site.lathe("lantern", 0, 0, [(0.12, 3.4), (0.24, 3.95)], 6)
    site.lathe("iron", 0, 0, [(0.28, 3.95), (0.3, 4.0), (0.1, 4.2), (0.03, 4.4)], 6)


def bench(site: Site) -> None:
    """Add a slatted bench that looks along +y."""
    for y in (-0.2, 0.0, 0.2):
        site.box("wood", (-0.9, 0.9), (y - 0.08, y + 0.08), (0.42, 0.47))
    for z in (0.6, 0.8):
        site.box("wood", (-0.9, 0.9), (-0.34, -0.29), (z, z + 0.13))
    for x in (-0.75, 0.75):
        site.box("iron", (x - 0.05, x + 0.05), (-0.3, 0.28), (0, 0.42))
        site.box("iron", (x - 0.05, x + 0.05), (-0.38, -0.33), (0, 0.95))


def fountain(site: Site) -> None:
    """Add an octagonal basin with water, a pedestal and two bowls."""
    basin = [(2.6, 0), (2.6, 0.25), (2.4, 0.3), (2.4, 0.6), (2.55, 0.65), (2.55, 0.78)]
    site.lathe("trim", 0, 0, [*basin, (2.1, 0.78), (2.1, 0.3)], 8)
    site.lathe("water", 0, 0, [(2.2, 0.55), (0.0, 0.55)], 8)
    site.lathe("trim", 0, 0, [(0.5, 0.5), (0.45, 0.8), (0.22, 1.0), (0.22, 1.5), (0.4, 1.6)], 16)
    site.lathe("trim", 0, 0, [(0.4, 1.6), (1.1, 1.85), (1.2, 1.98), (1.05, 1.98), (0.3, 1.8)], 24)
    site.lathe("trim", 0, 0, [(0.2, 1.8), (0.13, 2.4), (0.55, 2.6), (0.6, 2.7), (0.1, 2.65)], 20)
    site.lathe("copper", 0, 0, [(0.16, 2.6), (0.2, 2.9), (0.07, 3.1), (0.2, 3.3), (0, 3.55)], 12)


def all_gardens(site: Site) -> None:
    """Add everything that grows or stands in the quad."""
    x, y = QUAD[0] / 2, QUAD[1] / 2
    site.polygon("ground", [(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)])
    for i, (x, y, height, radius, kind) in enumerate(TREES):
        tree(site.at(x, y), height, radius, kind, np.random.default_rng(100 + i))
    for x, y in LAMPS:
        lamp(site.at(x, y))
    for x, y, yaw in BENCHES:
        bench(site.at(x, y, 0, yaw))
    fountain(site)
    rng = np.random.default_rng(200)
    for x in (-17.0, 17.0):
        hedge(site.at(x, 21.4), 9.0, rng)
        flowers(site.at(x, -20.6 + 42.0 - 0.9), 8.5, rng)
    for y in (-13.0, 13.0):
        flowers(site.at(28.6, y, 0, 90), 6.0, rng)
    for x in (-3.4, 3.4):
        for y in (-6.8, 6.8):
            hedge(site.at(x, y), 2.4, rng)
