"""Ordered Segments of K tiles -> one Segment per ray."""

from nerfxl_kernels.compose.op import compose, transmittance

__all__ = ["compose", "transmittance"]
