"""Segments in order along each ray -> one Segment per ray."""

from nerfxl_kernels.compose.op import compose

__all__ = ["compose"]
