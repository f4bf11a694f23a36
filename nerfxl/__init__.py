"""nerfxl: neural radiance fields larger than one GPU (NeRF-XL, arXiv 2404.16221)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nerfxl.version import __version__

if TYPE_CHECKING:
    from nerfxl.cameras import Camera, look_at, pinhole
    from nerfxl.errors import UserError
    from nerfxl.filming.paths import CameraPath, Keyframe
    from nerfxl.filming.stills import Picture, normals, surface
    from nerfxl.library import fit, load_scene, plan, resume
    from nerfxl.opened import Opened, open_run

__all__ = [
    "Camera",
    "CameraPath",
    "Keyframe",
    "Opened",
    "Picture",
    "UserError",
    "__version__",
    "fit",
    "load_scene",
    "look_at",
    "normals",
    "open_run",
    "pinhole",
    "plan",
    "resume",
    "surface",
]

_MODULES = {  # where each is; loaded when it is asked for, so that `import nerfxl` is instant
    **dict.fromkeys(("Camera", "look_at", "pinhole"), "cameras"),
    **dict.fromkeys(("CameraPath", "Keyframe"), "filming.paths"),
    **dict.fromkeys(("Opened", "open_run"), "opened"),
    **dict.fromkeys(("Picture", "normals", "surface"), "filming.stills"),
    "UserError": "errors",
    **dict.fromkeys(("fit", "load_scene", "plan", "resume"), "library"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nerfxl' has no attribute {name!r}")
    return getattr(import_module(f"nerfxl.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
