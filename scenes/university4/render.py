"""The Mitsuba scene: materials, sun and sky, pictures and ray casts."""

from __future__ import annotations

from pathlib import Path

import mitsuba as mi
import numpy as np
from buildings import all_buildings
from gardens import all_gardens
from mesh import Site, planar_uv
from numpy.typing import NDArray
from PIL import Image
from textures import Texture, all_textures, sky
from walk import HEIGHT, WIDTH, directions

Array = NDArray[np.float64]
SUN = np.array([-0.42, -0.62, 0.80])  # towards the sun: from the south-west, 47 degrees high
SUN_IRRADIANCE = (2.8, 2.55, 2.2)
DEPTH = 4  # light by at most two bounces after the sun, the sky, or both
EXPOSURE = 1.4  # the same for every frame


def select_variant() -> str:
    """Choose Mitsuba's vectorised variant where LLVM is installed, else the scalar one."""
    try:
        mi.set_variant("llvm_ad_rgb")
        str(mi.Float(0.0) + 1.0)  # loads LLVM
    except (ImportError, RuntimeError):
        mi.set_variant("scalar_rgb")
    return str(mi.variant())


def _material(name: str, textures: dict[str, Texture]) -> dict[str, object]:
    """Return the description of one material."""
    if name == "glass":
        glass = {"type": "rgb", "value": [0.035, 0.05, 0.065]}
        return {
            "type": "twosided",
            "surface": {"type": "roughplastic", "diffuse_reflectance": glass, "alpha": 0.25},
        }
    texture = textures[name]
    scale = mi.ScalarTransform4f().scale([1 / texture.size[0], 1 / texture.size[1], 1])
    if name == "ground":  # its picture is centred on the origin
        scale = mi.ScalarTransform4f().translate([0.5, 0.5, 0]) @ scale
    picture = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(texture.picture.astype(np.float32)),
        "raw": True,
        "to_uv": scale,
    }
    return {"type": "twosided", "surface": {"type": "diffuse", "reflectance": picture}}


def _mesh(name: str, triangles: Array, material: object) -> object:
    """Return triangles [N, 3, 3] as one Mitsuba mesh with planar texture coordinates."""
    properties = mi.Properties()
    properties["bsdf"] = material
    count = len(triangles)
    mesh = mi.Mesh(name, 3 * count, count, has_vertex_texcoords=True, props=properties)
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = triangles.astype(np.float32).ravel()
    parameters["vertex_texcoords"] = planar_uv(triangles).astype(np.float32).ravel()
    parameters["faces"] = np.arange(3 * count, dtype=np.uint32)
    parameters.update()
    return mesh


def build_scene() -> mi.Scene:
    """Return the quad under its sun and sky."""
    site = Site()
    all_buildings(site)
    all_gardens(site)
    textures = all_textures()
    dome = mi.Bitmap(sky().astype(np.float32))
    turn = mi.ScalarTransform4f().rotate([1, 0, 0], 90)
    scene: dict[str, object] = {
        "type": "scene",
        # Without weight the sky is met by the paths alone and every vertex samples the sun: with a
        # smooth sky and diffuse surfaces this halves the variance of choosing between the two.
        "sky": {"type": "envmap", "bitmap": dome, "to_world": turn, "sampling_weight": 0.0},
        "sun": {
            "type": "directional",
            "direction": (-SUN).tolist(),
            "irradiance": {"type": "rgb", "value": list(SUN_IRRADIANCE)},
        },
    }
    for name, parts in sorted(site.store.items()):
        material = mi.load_dict(_material(name, textures))
        scene[f"mesh_{name}"] = _mesh(name, np.concatenate(parts), material)
    return mi.load_dict(scene)


class Renderer:
    """Renders poses of the walk at one fixed exposure."""

    def __init__(self, scene: mi.Scene, samples: int) -> None:
        self.scene = scene
        self.samples = samples
        self.integrator = mi.load_dict({"type": "path", "max_depth": DEPTH})
        self.sensor = mi.load_dict(
            {
                "type": "perspective",
                "fov": 75.0,
                "fov_axis": "x",
                "near_clip": 0.05,
                "far_clip": 1000.0,
                "film": {
                    "type": "hdrfilm",
                    "width": WIDTH,
                    "height": HEIGHT,
                    "rfilter": {"type": "gaussian", "stddev": 0.5},
                },
                "sampler": {"type": "multijitter", "sample_count": samples},
            }
        )
        self.parameters = mi.traverse(self.sensor)

    def picture(self, pose: Array, seed: int) -> NDArray[np.uint8]:
        """Render one pose [3, 4] (OpenCV axes) to sRGB [HEIGHT, WIDTH, 3]."""
        matrix = np.eye(4)
        matrix[:3] = pose
        # Mitsuba's camera looks along +z with x to the LEFT and y up.
        matrix[:, :2] *= -1
        self.parameters["to_world"] = mi.Transform4f(matrix.astype(np.float32))
        self.parameters.update()
        image = mi.render(
            self.scene,
            sensor=self.sensor,
            integrator=self.integrator,
            spp=self.samples,
            seed=seed,
        )
        linear = np.clip(EXPOSURE * np.array(image, np.float64)[..., :3], 0, 1)
        curve = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return np.asarray(np.round(curve * 255), np.uint8)


def cast(scene: mi.Scene, origin: Array, direction: Array) -> Array:
    """Return the distance [N] along unit rays [N, 3] to the first surface, inf for sky."""
    if "scalar" in mi.variant():
        pairs = zip(np.broadcast_to(origin, direction.shape), direction, strict=True)
        return np.array([scene.ray_intersect_preliminary(mi.Ray3f(o, d)).t for o, d in pairs])
    o = mi.Point3f(np.broadcast_to(origin, direction.shape).T.astype(np.float32))
    d = mi.Vector3f(direction.T.astype(np.float32))
    hit = scene.ray_intersect_preliminary(mi.Ray3f(o, d))
    return np.array(hit.t, np.float64)


def clearance(scene: mi.Scene, poses: Array) -> Array:
    """Return the distance [N] from each camera to the nearest surface seen around it."""
    rng = np.random.default_rng(3)
    around = rng.normal(size=(1000, 3))
    around /= np.linalg.norm(around, axis=-1, keepdims=True)
    return np.array([cast(scene, pose[:, 3], around).min() for pose in poses])


def write_depth(scene: mi.Scene, pose: Array, path: Path) -> None:
    """Write ray distances at pixel centres as 16-bit millimetres, 0 for sky."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = directions(pose, np.stack([x.ravel(), y.ravel()], -1))
    distance = cast(scene, pose[:, 3], rays).reshape(HEIGHT, WIDTH)
    millimetres = np.where(distance < 65.535, np.round(distance * 1000), 0)
    Image.fromarray(millimetres.astype(np.uint16)).save(path, optimize=True)
