"""Rays x one tile -> packed samples, and where those samples lie in the tile's field."""

from nerfxl_kernels.march.op import march, place
from nerfxl_kernels.march.reference import contract
from nerfxl_kernels.march.space import Domain, Path

__all__ = ["Domain", "Path", "contract", "march", "place"]
