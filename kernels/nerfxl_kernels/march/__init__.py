"""Rays x one tile -> packed samples, and where those samples lie in the tile's field."""

from nerfxl_kernels.march.op import Domain, Path, march, place

__all__ = ["Domain", "Path", "march", "place"]
